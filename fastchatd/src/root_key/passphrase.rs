//! The root key sealed under a passphrase: Argon2id (RFC 9106), then AES-256-GCM.
//!
//! **Invariant**: a wrong passphrase and a damaged record are refused, never turned into some other key.

use aes_gcm::{
    Aes256Gcm,
    aead::{Aead, KeyInit, Payload},
};
use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use fastchat_ipc::{ApiError, ErrorCode};
use zeroize::Zeroizing;

use super::{KEY_BYTES, RootKey, record::Sealed};

const MEMORY_KIB: u32 = 64 * 1024;
const ITERATIONS: u32 = 3;
const PARALLELISM: u32 = 1;
/// The most that a record may ask for.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_ITERATIONS: u32 = 16;
const MAX_PARALLELISM: u32 = 8;
const LONGEST: usize = 1024;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const AAD: &[u8] = b"FastChat root key v1\0";

/// Seals a key. Takes about a quarter of a second.
pub(super) fn seal(key: &RootKey, passphrase: &str) -> Result<Sealed, ApiError> {
    if passphrase.is_empty() || passphrase.len() > LONGEST {
        return Err(ApiError::new(ErrorCode::InvalidParams, format!("a passphrase has 1 to {LONGEST} bytes"))
            .hint("the key store `passphrase` needs one; choose one you will remember: it cannot be recovered"));
    }
    let salt: [u8; SALT_BYTES] = rand::random();
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let mut sealed = Sealed {
        salt: HEXLOWER.encode(&salt),
        memory_kib: MEMORY_KIB,
        iterations: ITERATIONS,
        parallelism: PARALLELISM,
        nonce: HEXLOWER.encode(&nonce),
        key: String::new(),
    };
    let ciphertext = cipher(&sealed, passphrase)?
        .encrypt(&nonce.into(), Payload { msg: key.as_bytes(), aad: AAD })
        .map_err(|_| damaged())?;
    sealed.key = HEXLOWER.encode(&ciphertext);
    Ok(sealed)
}

/// Opens what [`seal`] sealed.
pub(super) fn open(sealed: &Sealed, passphrase: &str) -> Result<RootKey, ApiError> {
    let nonce: [u8; NONCE_BYTES] = bytes(&sealed.nonce)?.try_into().map_err(|_| damaged())?;
    let ciphertext = bytes(&sealed.key)?;
    let key = cipher(sealed, passphrase)?
        .decrypt(&nonce.into(), Payload { msg: &ciphertext, aad: AAD })
        .map(Zeroizing::new)
        .map_err(|_| {
            ApiError::new(ErrorCode::Refused, "the passphrase is wrong: the store stays locked")
                .hint("try again with `fastchatctl unlock`")
        })?;
    RootKey::from_bytes(&key).ok_or_else(damaged)
}

fn cipher(sealed: &Sealed, passphrase: &str) -> Result<Aes256Gcm, ApiError> {
    let within = sealed.memory_kib <= MAX_MEMORY_KIB
        && sealed.iterations <= MAX_ITERATIONS
        && sealed.parallelism <= MAX_PARALLELISM
        && passphrase.len() <= LONGEST;
    let cost = Params::new(sealed.memory_kib, sealed.iterations, sealed.parallelism, Some(KEY_BYTES));
    let Some(cost) = cost.ok().filter(|_| within) else { return Err(damaged()) };
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, cost)
        .hash_password_into(passphrase.as_bytes(), &bytes(&sealed.salt)?, key.as_mut_slice())
        .map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("the passphrase could not be processed: {error}"))
        })?;
    Ok(Aes256Gcm::new((&*key).into()))
}

fn bytes(hex: &str) -> Result<Vec<u8>, ApiError> {
    HEXLOWER.decode(hex.as_bytes()).map_err(|_| damaged())
}

fn damaged() -> ApiError {
    ApiError::new(ErrorCode::Internal, "key.toml is damaged: the sealed key in it cannot be read")
        .hint("put it back from a backup: without it the store cannot be opened")
}
