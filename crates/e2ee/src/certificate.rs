//! Issuing and verifying device certificates (see [`fastchat_mls::certificate`] for their form).
//!
//! A leaf is verified once, when it comes into a conversation: under the identity that its certificate names. Whether
//! that identity is the one known for the account is the caller's to compare, or ours where the caller said which.
//!
//! **Invariant**: no leaf enters a conversation's stored state unless its identity has signed for that very key.

use std::collections::BTreeMap;

use fastchat_mls::{Certificate, Leaf, MalformedCertificate, certificate::CONTEXT};
use openmls::prelude::LeafNode;
use uuid::Uuid;

use crate::{Identity, IdentityError, IdentityKey};

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

impl From<MalformedCertificate> for CertificateError {
    fn from(error: MalformedCertificate) -> Self {
        match error {
            MalformedCertificate::Malformed => Self::Malformed,
            MalformedCertificate::OtherKey => Self::OtherKey,
        }
    }
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
        account: account.to_owned(),
        device,
        leaf_key: leaf_key.to_vec(),
        identity_key: identity.public().to_der().to_vec(),
        signature: Vec::new(),
    };
    let signed = certificate.signed_bytes().map_err(|_| IdentityError::Operation)?;
    certificate.signature = identity.sign(CONTEXT, &signed)?;
    certificate.to_bytes().map_err(|_| IdentityError::Operation)
}

/// Verifies that `identity` certified `leaf_key` in these bytes. The caller compares account and device.
pub(crate) fn verify(bytes: &[u8], leaf_key: &[u8], identity: &IdentityKey) -> Result<Certified, CertificateError> {
    verify_certificate(Certificate::from_bytes(bytes)?, leaf_key, identity)
}

/// Verifies that `identity` certified this leaf. The caller compares account and device.
pub(crate) fn verify_leaf(leaf: &LeafNode, identity: &IdentityKey) -> Result<Certified, CertificateError> {
    verify_certificate(Certificate::from_leaf(leaf)?, leaf.signature_key().as_slice(), identity)
}

/// Verifies each leaf under the identity that its own certificate names.
pub(crate) fn verify_embedded<'a>(leaves: impl IntoIterator<Item = &'a Leaf>) -> Result<(), CertificateError> {
    let mut identities: BTreeMap<&[u8], IdentityKey> = BTreeMap::new();
    for leaf in leaves {
        if !identities.contains_key(leaf.identity.as_slice()) {
            let key = IdentityKey::from_der(&leaf.identity).map_err(|_| CertificateError::Malformed)?;
            identities.insert(&leaf.identity, key);
        }
        let identity = identities.get(leaf.identity.as_slice()).ok_or(CertificateError::Malformed)?;
        verify(&leaf.certificate, &leaf.signature_key, identity)?;
    }
    Ok(())
}

fn verify_certificate(
    certificate: Certificate,
    leaf_key: &[u8],
    identity: &IdentityKey,
) -> Result<Certified, CertificateError> {
    if certificate.leaf_key != leaf_key {
        return Err(CertificateError::OtherKey);
    }
    if certificate.identity_key != identity.to_der() {
        return Err(CertificateError::OtherIdentity);
    }
    let signed = certificate.signed_bytes()?;
    identity.verify(CONTEXT, &signed, &certificate.signature).map_err(|_| CertificateError::Signature)?;
    Ok(Certified { account: certificate.account, device: certificate.device })
}
