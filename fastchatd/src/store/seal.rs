//! Sealing of what lies on disk.
//!
//! Each value has a random 24-byte salt; HKDF-SHA-256 makes of it and the store's key an AES-256-GCM key and nonce for
//! this value alone, so no number of values wears a key out. The place of the value (its key in the store) is bound in.
//!
//! **Invariant**: a value that was altered, moved to another place, or sealed under another root key does not open.

use aes_gcm::{
    Aes256Gcm, Key, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::StoreError;

const SALT: usize = 24;

/// Seals and opens values, and blinds keys that would tell something.
pub(super) struct Sealer {
    values: Hkdf<Sha256>,
    names: Hmac<Sha256>,
}

impl Sealer {
    /// From the root key.
    pub(super) fn new(root: &[u8; 32]) -> Result<Self, StoreError> {
        let root = Hkdf::<Sha256>::new(Some(b"fastchat store v1"), root);
        let mut values = Zeroizing::new([0_u8; 32]);
        let mut names = Zeroizing::new([0_u8; 32]);
        root.expand(b"values", &mut *values).map_err(|_| StoreError::Seal)?;
        root.expand(b"names", &mut *names).map_err(|_| StoreError::Seal)?;
        Ok(Self {
            values: Hkdf::from_prk(&*values).map_err(|_| StoreError::Seal)?,
            names: <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&*names).map_err(|_| StoreError::Seal)?,
        })
    }

    /// Seals `value` for its `place`.
    pub(super) fn seal(&self, place: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let salt: [u8; SALT] = rand::random();
        let (cipher, nonce) = self.cipher(&salt)?;
        let sealed = cipher.encrypt(&nonce, Payload { msg: value, aad: place }).map_err(|_| StoreError::Seal)?;
        let mut out = Vec::with_capacity(SALT + sealed.len());
        out.extend_from_slice(&salt);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens the value that lies at `place`.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let (salt, sealed) = sealed.split_at_checked(SALT).ok_or(StoreError::Damaged)?;
        let (cipher, nonce) = self.cipher(salt)?;
        let value = cipher.decrypt(&nonce, Payload { msg: sealed, aad: place }).map_err(|_| StoreError::Damaged)?;
        Ok(Zeroizing::new(value))
    }

    /// A name that tells nothing, always the same for the same parts.
    pub(super) fn blind(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut mac = self.names.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let mut name = [0; 16];
        name.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        name
    }

    fn cipher(&self, salt: &[u8]) -> Result<(Aes256Gcm, Nonce<aes_gcm::aead::consts::U12>), StoreError> {
        let mut okm = Zeroizing::new([0_u8; 44]);
        self.values.expand(salt, &mut *okm).map_err(|_| StoreError::Seal)?;
        let key = Key::<Aes256Gcm>::try_from(&okm[..32]).map_err(|_| StoreError::Seal)?;
        let nonce = Nonce::try_from(&okm[32..]).map_err(|_| StoreError::Seal)?;
        Ok((Aes256Gcm::new(&key), nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_unaltered_in_its_place_and_under_its_key() {
        let sealer = Sealer::new(&[1; 32]).unwrap();
        let sealed = sealer.seal(b"here", b"value").unwrap();
        assert_eq!(&*sealer.open(b"here", &sealed).unwrap(), b"value");
        assert!(sealer.open(b"there", &sealed).is_err());
        assert!(Sealer::new(&[2; 32]).unwrap().open(b"here", &sealed).is_err());
        for position in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[position] ^= 1;
            assert!(sealer.open(b"here", &altered).is_err(), "byte {position}");
        }
        assert!(sealer.open(b"here", &sealed[..10]).is_err());
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let sealer = Sealer::new(&[1; 32]).unwrap();
        assert_ne!(sealer.seal(b"here", b"value").unwrap(), sealer.seal(b"here", b"value").unwrap());
    }

    #[test]
    fn blinded_names_keep_parts_apart() {
        let sealer = Sealer::new(&[1; 32]).unwrap();
        assert_eq!(sealer.blind(&[b"a", b"b"]), sealer.blind(&[b"a", b"b"]));
        assert_ne!(sealer.blind(&[b"ab", b""]), sealer.blind(&[b"a", b"b"]));
    }
}
