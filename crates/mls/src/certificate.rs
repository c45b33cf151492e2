//! The device certificate: the content of a device's MLS basic credential.
//!
//! It says: "the account with this identity key owns the device with this id, and this is the device's Ed25519 key",
//! signed by the identity (see [`crate::identity`]). Here it is only taken apart; the RSA signature is verified by the
//! server when it stores the certificate, and by each device again.
//!
//! **Invariant**: one certificate has one meaning: it is consumed to its last byte and bounded before it is decoded.

use openmls::prelude::{Credential, CredentialType, LeafNode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding;

/// The context under which an identity signs [`Certificate::signed_bytes`].
pub const CONTEXT: &str = "device certificate v1";
const VERSION: u8 = 1;
/// An account text of 300 bytes, a key of 4096 bits and its signature come to some 1,500 bytes.
const MAX_BYTES: usize = 2048;
const MAX_ACCOUNT_BYTES: usize = 300;

/// Not a certificate of a version that is known here, or not for the leaf that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedCertificate {
    /// It does not decode, or its fields are out of bounds.
    #[error("the device certificate is malformed")]
    Malformed,
    /// It certifies another key than the leaf has.
    #[error("the device certificate is for another device key")]
    OtherKey,
}

/// A certificate's fields. Nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The account's name on the server.
    pub account: String,
    /// The device's id.
    pub device: Uuid,
    /// The Ed25519 key of its leaves.
    pub leaf_key: Vec<u8>,
    /// The identity that it claims to be signed by: a SubjectPublicKeyInfo in DER.
    pub identity_key: Vec<u8>,
    /// That identity's signature over [`Certificate::signed_bytes`] under [`CONTEXT`].
    pub signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u8,
    account: String,
    device: [u8; 16],
    leaf_key: Vec<u8>,
    identity_key: Vec<u8>,
    signature: Vec<u8>,
}

impl Certificate {
    /// Takes the content of a credential apart.
    ///
    /// # Errors
    /// Too long, of another version, or without an account.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedCertificate> {
        if bytes.len() > MAX_BYTES {
            return Err(MalformedCertificate::Malformed);
        }
        let record: Record = encoding::decode(bytes).map_err(|_| MalformedCertificate::Malformed)?;
        let Record { version, account, device, leaf_key, identity_key, signature } = record;
        if version != VERSION || !(1..=MAX_ACCOUNT_BYTES).contains(&account.len()) {
            return Err(MalformedCertificate::Malformed);
        }
        Ok(Self { account, device: Uuid::from_bytes(device), leaf_key, identity_key, signature })
    }

    /// The certificate in a credential.
    ///
    /// # Errors
    /// Not a basic credential, or see [`Certificate::from_bytes`].
    pub fn from_credential(credential: &Credential) -> Result<Self, MalformedCertificate> {
        match credential.credential_type() {
            CredentialType::Basic => Self::from_bytes(credential.serialized_content()),
            _ => Err(MalformedCertificate::Malformed),
        }
    }

    /// The certificate in a leaf, which must be for that leaf's key.
    ///
    /// # Errors
    /// See [`Certificate::from_credential`], or it is for another key.
    pub fn from_leaf(leaf: &LeafNode) -> Result<Self, MalformedCertificate> {
        let certificate = Self::from_credential(leaf.credential())?;
        if certificate.leaf_key == leaf.signature_key().as_slice() {
            Ok(certificate)
        } else {
            Err(MalformedCertificate::OtherKey)
        }
    }

    /// The content of a credential.
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn to_bytes(&self) -> Result<Vec<u8>, MalformedCertificate> {
        let record = Record {
            version: VERSION,
            account: self.account.clone(),
            device: self.device.into_bytes(),
            leaf_key: self.leaf_key.clone(),
            identity_key: self.identity_key.clone(),
            signature: self.signature.clone(),
        };
        encoding::encode(&record).map_err(|_| MalformedCertificate::Malformed)
    }

    /// Everything but the signature.
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn signed_bytes(&self) -> Result<Vec<u8>, MalformedCertificate> {
        let Self { account, device, leaf_key, identity_key, signature: _ } = self;
        encoding::encode(&(VERSION, account, device.into_bytes(), leaf_key, identity_key))
            .map_err(|_| MalformedCertificate::Malformed)
    }
}
