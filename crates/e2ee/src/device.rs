//! A device of an account: its Ed25519 key, which is also its MLS leaf signature key, and its certificate.
//!
//! **Invariant**: the certificate is for this key, account and id.

use std::fmt;

use openmls::prelude::{BasicCredential, CredentialWithKey};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{CertificateError, Identity, IdentityError, IdentityKey, certificate, encoding, mls::SUITE};

const VERSION: u8 = 1;

/// Why a device could not be issued, read or used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The identity could not sign the certificate.
    #[error("the device could not be certified: {0}")]
    Certify(#[from] IdentityError),
    /// The stored device does not decode.
    #[error("the stored device is damaged")]
    Malformed,
    /// The device key could not be made or did not sign.
    #[error("the device key failed")]
    Key,
}

/// A device with its private key. `Debug` shows account and id alone.
pub struct Device {
    account: String,
    id: Uuid,
    keys: SignatureKeyPair,
    certificate: Vec<u8>,
}

/// What is stored of a device.
#[derive(Serialize)]
struct Stored<'a>(u8, &'a str, [u8; 16], &'a SignatureKeyPair, &'a [u8]);
#[derive(Deserialize)]
struct Loaded(u8, String, [u8; 16], SignatureKeyPair, Vec<u8>);

impl Device {
    /// Makes a device key and certifies it for `account` (its name on the server, `alice`).
    ///
    /// # Errors
    /// The key generator or the identity's signature failed.
    pub fn issue(identity: &Identity, account: &str, id: Uuid) -> Result<Self, DeviceError> {
        let keys = SignatureKeyPair::new(SUITE.signature_algorithm()).map_err(|_| DeviceError::Key)?;
        let certificate = certificate::issue(identity, account, id, keys.public())?;
        Ok(Self { account: account.to_owned(), id, keys, certificate })
    }

    /// This device under another identity of its account: same id, same key, a certificate of `identity`.
    ///
    /// # Errors
    /// The identity's signature failed.
    pub fn recertify(&self, identity: &Identity) -> Result<Self, DeviceError> {
        let (account, keys) = (self.account.clone(), self.keys.clone());
        let certificate = certificate::issue(identity, &account, self.id, keys.public())?;
        Ok(Self { account, id: self.id, keys, certificate })
    }

    /// Reads what [`Device::to_bytes`] wrote.
    ///
    /// # Errors
    /// It does not decode.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DeviceError> {
        let Loaded(version, account, id, keys, certificate) =
            encoding::decode(bytes).map_err(|_| DeviceError::Malformed)?;
        if version != VERSION || keys.signature_scheme() != SUITE.signature_algorithm() {
            return Err(DeviceError::Malformed);
        }
        Ok(Self { account, id: Uuid::from_bytes(id), keys, certificate })
    }

    /// The device with its private key. Seal it before it goes anywhere.
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, DeviceError> {
        let stored = Stored(VERSION, &self.account, self.id.into_bytes(), &self.keys, &self.certificate);
        encoding::encode(&stored).map_err(|_| DeviceError::Malformed)
    }

    /// The device's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The account it belongs to, `alice`.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The Ed25519 public key, 32 bytes.
    #[must_use]
    pub fn signature_key(&self) -> &[u8] {
        self.keys.public()
    }

    /// The certificate: the content of the MLS basic credential.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Ed25519 over `context` followed by `message`. The context must be one of a prefix-free set (end it with a NUL).
    ///
    /// # Errors
    /// The key does not sign (a damaged store).
    pub fn sign(&self, context: &[u8], message: &[u8]) -> Result<Vec<u8>, DeviceError> {
        self.keys.sign(&[context, message].concat()).map_err(|_| DeviceError::Key)
    }

    /// Whether `identity` certified this device under its own account and id.
    ///
    /// # Errors
    /// It did not.
    pub fn verify(&self, identity: &IdentityKey) -> Result<(), CertificateError> {
        let certified = certificate::verify(&self.certificate, self.signature_key(), identity)?;
        if certified.account == self.account && certified.device == self.id {
            Ok(())
        } else {
            Err(CertificateError::OtherDevice)
        }
    }

    /// The device with another certificate, whatever is in it.
    #[cfg(test)]
    pub(crate) fn with_certificate(&self, certificate: Vec<u8>) -> Self {
        Self { account: self.account.clone(), id: self.id, keys: self.keys.clone(), certificate }
    }

    pub(crate) fn signer(&self) -> &SignatureKeyPair {
        &self.keys
    }

    pub(crate) fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.certificate.clone()).into(),
            signature_key: self.signature_key().into(),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} of {}, private key hidden)", self.id, self.account)
    }
}
