//! The account identity: an RSA key that signs (PSS, SHA-256) and unwraps (OAEP, SHA-256).
//!
//! It is what two people compare by their safety number and what survives a change of device. Every private-key
//! operation is blinded (RUSTSEC-2023-0071: the `rsa` crate is not constant-time); see RFC 8017 for both schemes.
//!
//! **Invariant**: a signature or wrapped key made for one purpose never verifies or opens for another: both carry a
//! label.

use std::fmt;

use fastchat_mls::identity::{MAX_BITS, MIN_BITS as BITS, PUBLIC_EXPONENT, signed_bytes};
use rsa::{
    BoxedUint, Oaep, Pss, RsaPrivateKey, RsaPublicKey,
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey},
    traits::PublicKeyParts,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A SubjectPublicKeyInfo of 4096 bits has 550 bytes.
const MAX_DER_BYTES: usize = 600;

/// Why an identity could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not a SubjectPublicKeyInfo, or not in its one canonical form.
    #[error("the identity key is not a canonical RSA SubjectPublicKeyInfo")]
    Malformed,
    /// A size or exponent that is not accepted.
    #[error("the identity key must be RSA of {BITS} to {MAX_BITS} bits with exponent {PUBLIC_EXPONENT}, not {0} bits")]
    Unacceptable(usize),
    /// The private key does not decode.
    #[error("the stored identity is damaged: it is not a PKCS#8 RSA private key")]
    Private,
    /// The signature does not belong to this key, context and message.
    #[error("the identity signature is not valid")]
    Signature,
    /// The key generator, signer or wrapper failed.
    #[error("the RSA operation failed")]
    Operation,
}

/// SHA-256 of an identity key's SubjectPublicKeyInfo; displays as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The public half of an account's identity.
#[derive(Clone)]
pub struct IdentityKey {
    key: RsaPublicKey,
    der: Vec<u8>,
    fingerprint: Fingerprint,
}

impl IdentityKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// Not RSA of 3072 to 4096 bits with exponent 65537, or not in canonical form (one key has one fingerprint).
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        if der.len() > MAX_DER_BYTES {
            return Err(IdentityError::Malformed);
        }
        let key = RsaPublicKey::from_public_key_der(der).map_err(|_| IdentityError::Malformed)?;
        let identity_key = Self::from_key(key)?;
        if identity_key.der == der { Ok(identity_key) } else { Err(IdentityError::Malformed) }
    }

    fn from_key(key: RsaPublicKey) -> Result<Self, IdentityError> {
        let bits = usize::try_from(key.n().bits()).unwrap_or(usize::MAX);
        if !(BITS..=MAX_BITS).contains(&bits) || *key.e() != BoxedUint::from(PUBLIC_EXPONENT) {
            return Err(IdentityError::Unacceptable(bits));
        }
        let der = key.to_public_key_der().map_err(|_| IdentityError::Malformed)?.into_vec();
        let fingerprint = Fingerprint(Sha256::digest(&der).into());
        Ok(Self { key, der, fingerprint })
    }

    /// The SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn to_der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Verifies a signature of [`Identity::sign`].
    ///
    /// # Errors
    /// Another key, context or message was signed.
    pub fn verify(&self, context: &str, message: &[u8], signature: &[u8]) -> Result<(), IdentityError> {
        let digest = signature_digest(context, message);
        self.key.verify(Pss::<Sha256>::new(), &digest, signature).map_err(|_| IdentityError::Signature)
    }

    /// Wraps a short secret (OAEP); only the owner of the identity, given the same label, unwraps it.
    pub(crate) fn wrap(&self, label: &[u8], secret: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.key
            .encrypt(&mut rand::rng(), Oaep::<Sha256>::new_with_label(label), secret)
            .map_err(|_| IdentityError::Operation)
    }
}

impl PartialEq for IdentityKey {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for IdentityKey {}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({})", self.fingerprint)
    }
}

/// An account's identity with its private key. Wiped on drop; `Debug` shows the fingerprint alone.
pub struct Identity {
    key: RsaPrivateKey,
    public: IdentityKey,
}

impl Identity {
    /// Makes a fresh RSA-3072 identity (a quarter of a second or so).
    ///
    /// # Errors
    /// The key generator failed.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = RsaPrivateKey::new(&mut rand::rng(), BITS).map_err(|_| IdentityError::Operation)?;
        Self::from_key(key)
    }

    /// Reads what [`Identity::to_bytes`] wrote.
    ///
    /// # Errors
    /// Not a PKCS#8 RSA private key of an accepted size.
    pub fn from_bytes(pkcs8: &[u8]) -> Result<Self, IdentityError> {
        Self::from_key(RsaPrivateKey::from_pkcs8_der(pkcs8).map_err(|_| IdentityError::Private)?)
    }

    fn from_key(key: RsaPrivateKey) -> Result<Self, IdentityError> {
        let public = IdentityKey::from_key(key.to_public_key())?;
        Ok(Self { key, public })
    }

    /// The private key as PKCS#8 DER. Seal it before it goes anywhere.
    ///
    /// # Errors
    /// The key does not encode (it always does for keys of this type).
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let document = self.key.to_pkcs8_der().map_err(|_| IdentityError::Private)?;
        Ok(Zeroizing::new(document.as_bytes().to_vec()))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &IdentityKey {
        &self.public
    }

    /// Signs `message` for the purpose named by `context` (PSS, SHA-256, blinded).
    ///
    /// # Errors
    /// The RSA operation failed.
    pub fn sign(&self, context: &str, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let digest = signature_digest(context, message);
        self.key
            .sign_with_rng(&mut rand::rng(), Pss::<Sha256>::new_blinded(), &digest)
            .map_err(|_| IdentityError::Operation)
    }

    /// Unwraps what [`IdentityKey::wrap`] wrapped under the same label (blinded). Verify who wrapped it first.
    pub(crate) fn unwrap(&self, label: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        self.key
            .decrypt_blinded(&mut rand::rng(), Oaep::<Sha256>::new_with_label(label), wrapped)
            .map(Zeroizing::new)
            .map_err(|_| IdentityError::Operation)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, private key hidden)", self.public.fingerprint)
    }
}

/// SHA-256 over what servers verify as well.
fn signature_digest(context: &str, message: &[u8]) -> [u8; 32] {
    Sha256::digest(signed_bytes(context, message)).into()
}
