//! The device certificate: the content of a device's MLS basic credential.
//!
//! It says: "the account with this identity key owns the device with this id, and this is the device's Ed25519 key",
//! signed by the identity. Whoever sees a leaf verifies it against the identity key that *they* know for the account;
//! the key inside the certificate only says which one it was issued under.
//!
//! **Invariant**: [`Certified`] exists only for a leaf whose certificate a known identity has signed for that very key.

use openmls::prelude::{Credential, CredentialType};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Identity, IdentityError, IdentityKey, encoding};

const VERSION: u8 = 1;
const CONTEXT: &str = "device certificate v1";
/// An account text of 300 bytes, a key of 4096 bits and its signature come to some 1,500 bytes.
const MAX_BYTES: usize = 2048;

/// Why a leaf is not accepted as a device of an account.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate of a version that is known here.
    #[error("the device certificate is malformed")]
    Malformed,
    /// The certificate is for another account or device than expected.
    #[error("the device certificate is for another account or device")]
    OtherDevice,
    /// It certifies another key than the leaf has.
    #[error("the device certificate is for another device key")]
    OtherKey,
    /// It was issued under another identity than the one known for the account.
    #[error("the device was certified by another identity key than the one known for its account")]
    OtherIdentity,
    /// The identity's signature is missing or wrong.
    #[error("the device certificate was not signed by the account's identity key")]
    Signature,
}

#[derive(Serialize, Deserialize)]
struct Certificate {
    version: u8,
    account: String,
    device: [u8; 16],
    leaf_key: Vec<u8>,
    identity_key: Vec<u8>,
    signature: Vec<u8>,
}

/// Whose device a verified leaf is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certified {
    pub(crate) account: String,
    pub(crate) device: Uuid,
}

/// Issues a certificate for the device key `leaf_key`.
pub(crate) fn issue(
    identity: &Identity,
    account: &str,
    device: Uuid,
    leaf_key: &[u8],
) -> Result<Vec<u8>, IdentityError> {
    let mut certificate = Certificate {
        version: VERSION,
        account: account.to_owned(),
        device: device.into_bytes(),
        leaf_key: leaf_key.to_vec(),
        identity_key: identity.public().to_der().to_vec(),
        signature: Vec::new(),
    };
    certificate.signature =
        identity.sign(CONTEXT, &certificate.signed_bytes().map_err(|_| IdentityError::Operation)?)?;
    encoding::encode(&certificate).map(|bytes| bytes.to_vec()).map_err(|_| IdentityError::Operation)
}

/// The account that a leaf's credential names, before anything is verified: only good for looking up its identity.
pub(crate) fn claimed_account(credential: &Credential) -> Result<String, CertificateError> {
    Certificate::decode(content(credential)?).map(|certificate| certificate.account)
}

/// Verifies that `identity` certified the leaf with this credential and key. The caller compares account and device.
pub(crate) fn verify_leaf(
    credential: &Credential,
    leaf_key: &[u8],
    identity: &IdentityKey,
) -> Result<Certified, CertificateError> {
    verify(content(credential)?, leaf_key, identity)
}

fn content(credential: &Credential) -> Result<&[u8], CertificateError> {
    match credential.credential_type() {
        CredentialType::Basic => Ok(credential.serialized_content()),
        _ => Err(CertificateError::Malformed),
    }
}

/// Verifies that `identity` certified `leaf_key` in these bytes. The caller compares account and device.
pub(crate) fn verify(bytes: &[u8], leaf_key: &[u8], identity: &IdentityKey) -> Result<Certified, CertificateError> {
    let certificate = Certificate::decode(bytes)?;
    if certificate.leaf_key != leaf_key {
        return Err(CertificateError::OtherKey);
    }
    if certificate.identity_key != identity.to_der() {
        return Err(CertificateError::OtherIdentity);
    }
    let signed = certificate.signed_bytes()?;
    identity.verify(CONTEXT, &signed, &certificate.signature).map_err(|_| CertificateError::Signature)?;
    Ok(Certified { account: certificate.account, device: Uuid::from_bytes(certificate.device) })
}

impl Certificate {
    fn decode(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_BYTES {
            return Err(CertificateError::Malformed);
        }
        let certificate: Self = encoding::decode(bytes).map_err(|_| CertificateError::Malformed)?;
        if certificate.version == VERSION { Ok(certificate) } else { Err(CertificateError::Malformed) }
    }

    /// Everything but the signature.
    fn signed_bytes(&self) -> Result<Vec<u8>, CertificateError> {
        let Self { version, account, device, leaf_key, identity_key, signature: _ } = self;
        encoding::encode(&(version, account, device, leaf_key, identity_key))
            .map(|bytes| bytes.to_vec())
            .map_err(|_| CertificateError::Malformed)
    }
}
