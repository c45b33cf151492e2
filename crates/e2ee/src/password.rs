//! What a password becomes: a secret that logs in, and a key that protects the identity's backup.
//!
//! Argon2id (RFC 9106), then HKDF-SHA-256 (RFC 5869) with purpose and account bound. The password never leaves the
//! device and the server, which sees `auth`, cannot derive `backup` from it.
//!
//! **Invariant**: parameters from a server are used only within bounds that neither weaken the key nor exhaust the
//! machine.

use std::fmt;

use aes_gcm::{
    Aes256Gcm,
    aead::{Aead, KeyInit, Payload},
};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Identity, IdentityError};

const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// OWASP's floor for Argon2id: a server must not talk a device into less.
const MIN_MEMORY_KIB: u32 = 19 * 1024;
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MIN_ITERATIONS: u32 = 2;
const MAX_ITERATIONS: u32 = 16;
const MAX_PARALLELISM: u32 = 8;
const MAX_PASSWORD_BYTES: usize = 1024;

const AUTH_PURPOSE: &[u8] = b"FastChat password auth v1\0";
const BACKUP_PURPOSE: &[u8] = b"FastChat password backup v1\0";
const BACKUP_AAD: &[u8] = b"FastChat identity backup v1\0";
const BACKUP_VERSION: u8 = 1;
/// A PKCS#8 RSA-4096 key has under 2,400 bytes.
const MAX_BACKUP_BYTES: usize = 4096;

/// Why a password is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// The server's parameters are too weak, too costly or malformed.
    #[error(
        "refusing the server's password parameters: {what} is {value}, allowed is {allowed}; ask the server's operator"
    )]
    Parameters {
        /// Which one.
        what: &'static str,
        /// What the server gave.
        value: u64,
        /// The bounds.
        allowed: &'static str,
    },
    /// Empty or too long.
    #[error("a password has 1 to {MAX_PASSWORD_BYTES} bytes")]
    Length,
    /// Argon2 failed, most likely for lack of memory.
    #[error("the password could not be processed: {0} KiB of memory are needed")]
    Derive(u32),
}

/// Why an identity backup does not open.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another password or account, or altered bytes.
    #[error("the identity backup does not open: the password is wrong or the backup was altered")]
    WrongKey,
    /// Not a backup of a version that is known here.
    #[error("the identity backup is malformed or of a newer version")]
    Malformed,
    /// What was inside is not an identity, or the identity does not encode.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// How a password is stretched; the server keeps it beside the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KdfParams {
    /// 16 random bytes.
    pub salt: Vec<u8>,
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl KdfParams {
    /// A fresh salt with the cost of today: 64 MiB, 3 passes, 1 lane.
    #[must_use]
    pub fn generate() -> Self {
        let salt = rand::random::<[u8; SALT_BYTES]>().to_vec();
        Self { salt, memory_kib: 64 * 1024, iterations: 3, parallelism: 1 }
    }

    /// Whether the parameters are acceptable. They come from a server, which may be hostile.
    ///
    /// # Errors
    /// Outside 19 MiB to 1 GiB, 2 to 16 passes, 1 to 8 lanes, or a salt of another length than 16 bytes.
    pub fn validate(&self) -> Result<(), PasswordError> {
        let check = |what, value: u64, min: u64, max: u64, allowed| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(PasswordError::Parameters { what, value, allowed }) }
        };
        check("the length of the salt", self.salt.len() as u64, SALT_BYTES as u64, SALT_BYTES as u64, "16 bytes")?;
        let (memory, passes) = (u64::from(self.memory_kib), u64::from(self.iterations));
        check("memory", memory, MIN_MEMORY_KIB.into(), MAX_MEMORY_KIB.into(), "19456 to 1048576 KiB")?;
        check("iterations", passes, MIN_ITERATIONS.into(), MAX_ITERATIONS.into(), "2 to 16")?;
        check("parallelism", self.parallelism.into(), 1, MAX_PARALLELISM.into(), "1 to 8")
    }
}

/// The two keys of a password. `Debug` shows neither.
pub struct PasswordKeys {
    /// What the server verifies: 64 lower-case hex digits.
    pub auth: Zeroizing<String>,
    /// What protects the identity backup.
    pub backup: BackupKey,
}

impl PasswordKeys {
    /// Derives both keys for `account` (`alice`). Takes about a quarter of a second and the stated memory:
    /// call it where blocking is allowed.
    ///
    /// # Errors
    /// Parameters that are refused (checked first), a password that is empty or too long, or no memory.
    pub fn derive(password: &str, account: &str, params: &KdfParams) -> Result<Self, PasswordError> {
        params.validate()?;
        if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::Length);
        }
        let failed = || PasswordError::Derive(params.memory_kib);
        let cost = Params::new(params.memory_kib, params.iterations, params.parallelism, Some(KEY_BYTES));
        let mut stretched = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.map_err(|_| failed())?)
            .hash_password_into(password.as_bytes(), &params.salt, stretched.as_mut_slice())
            .map_err(|_| failed())?;

        let hkdf = Hkdf::<Sha256>::new(None, stretched.as_slice());
        let expand = |purpose: &[u8]| {
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            hkdf.expand(&[purpose, account.as_bytes()].concat(), key.as_mut_slice()).map_err(|_| failed())?;
            Ok::<_, PasswordError>(key)
        };
        Ok(Self { auth: hex(&*expand(AUTH_PURPOSE)?), backup: BackupKey(expand(BACKUP_PURPOSE)?) })
    }
}

impl fmt::Debug for PasswordKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordKeys(hidden)")
    }
}

/// Seals and opens the backup of an identity (AES-256-GCM, account bound). `Debug` shows nothing.
pub struct BackupKey(Zeroizing<[u8; KEY_BYTES]>);

impl BackupKey {
    /// Seals an identity: version, nonce, ciphertext.
    ///
    /// # Errors
    /// The identity does not encode.
    pub fn seal_identity(&self, identity: &Identity, account: &str) -> Result<Vec<u8>, BackupError> {
        let plaintext = identity.to_bytes()?;
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let aad = [BACKUP_AAD, account.as_bytes()].concat();
        let ciphertext = self
            .cipher()
            .encrypt(&nonce.into(), Payload { msg: &plaintext, aad: &aad })
            .map_err(|_| BackupError::Malformed)?;
        Ok([&[BACKUP_VERSION], nonce.as_slice(), &ciphertext].concat())
    }

    /// Opens what [`BackupKey::seal_identity`] sealed for the same account under the same password.
    ///
    /// # Errors
    /// A wrong password or account, or altered bytes.
    pub fn open_identity(&self, backup: &[u8], account: &str) -> Result<Identity, BackupError> {
        let (version, rest) = backup.split_first().ok_or(BackupError::Malformed)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(BackupError::Malformed)?;
        if *version != BACKUP_VERSION || backup.len() > MAX_BACKUP_BYTES {
            return Err(BackupError::Malformed);
        }
        let aad = [BACKUP_AAD, account.as_bytes()].concat();
        let plaintext = self
            .cipher()
            .decrypt(&(*nonce).into(), Payload { msg: ciphertext, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| BackupError::WrongKey)?;
        Ok(Identity::from_bytes(&plaintext)?)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.0).into())
    }
}

impl fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackupKey(hidden)")
    }
}

/// Lower-case hex in a string that is wiped on drop and never grew.
fn hex(bytes: &[u8; KEY_BYTES]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(nibble)]));
        }
    }
    text
}
