//! Passwords and tokens: what a server may know of them, checked without telling who exists.
//!
//! **Invariant**: an unknown account and a wrong password cost the same time and give the same answer; of tokens and
//! auth secrets only hashes are kept.

use std::sync::Arc;

use bytes::Bytes;
use fastchat_store::{GrantHash, InviteHash, Kdf, TokenHash};
use fastchat_wire::AccountName;
use ring::{
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
    signature,
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Logins that wait for a core before the server says that it has too much to do.
const WAITING_PER_CORE: usize = 32;
/// What a device is told for an account that does not exist; the cost that devices use by default.
const FAKE_KDF: (u32, u32, u32) = (65_536, 3, 1);

/// A secret in the clear, on its way to a hash: 64 hex digits. Has no `Debug`; is wiped when dropped.
#[derive(Clone)]
pub struct AuthSecret(Zeroizing<String>);

impl AuthSecret {
    /// Checks the form.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let text = Zeroizing::new(text);
        (text.len() == 64 && text.bytes().all(hex)).then_some(Self(text))
    }
}

/// Why a password was neither right nor wrong.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Too many logins wait already.
    #[error("too many logins at once")]
    Overloaded,
    /// The hash function failed, or the process is ending.
    #[error("the password could not be checked")]
    Failed,
}

/// Checks and hashes passwords on as many threads as there are cores.
#[derive(Clone)]
pub struct Passwords {
    cores: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Stands in for the hash of an account that does not exist.
    dummy: Arc<str>,
    salt_key: Arc<hmac::Key>,
}

impl Passwords {
    /// `secret` makes the salts of unknown accounts; it must stay the same for good. `cost`: bcrypt's.
    ///
    /// # Errors
    /// bcrypt does not take the cost.
    pub async fn start(secret: [u8; 32], cost: u32) -> Result<Self, AuthError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let dummy = hash_blocking(Zeroizing::new(random_hex()?), cost).await?;
        Ok(Self {
            cores: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(cores * WAITING_PER_CORE)),
            dummy: dummy.into(),
            salt_key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)),
        })
    }

    /// What to tell a device that asks for the parameters of an account that does not exist.
    #[must_use]
    pub fn fake_kdf(&self, name: &AccountName) -> Kdf {
        let tag = hmac::sign(&self.salt_key, name.as_str().as_bytes());
        let salt = Bytes::copy_from_slice(tag.as_ref().get(..16).unwrap_or_default());
        let (memory_kib, iterations, parallelism) = FAKE_KDF;
        Kdf { salt, memory_kib, iterations, parallelism }
    }

    /// Whether the secret is the one that was hashed. `None` (no such account) takes as long and is `false`.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn verify(&self, secret: AuthSecret, hash: Option<String>) -> Result<bool, AuthError> {
        let _place = self.places.try_acquire().map_err(|_| AuthError::Overloaded)?;
        let _core = self.cores.acquire().await.map_err(|_| AuthError::Failed)?;
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.dummy.to_string());
        let check = tokio::task::spawn_blocking(move || bcrypt::non_truncating_verify(secret.0.as_bytes(), &hash));
        let right = check.await.map_err(|_| AuthError::Failed)?.map_err(|_| AuthError::Failed)?;
        Ok(right && known)
    }

    /// Hashes the secret of a new account.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn hash(&self, secret: AuthSecret, cost: u32) -> Result<String, AuthError> {
        let _place = self.places.try_acquire().map_err(|_| AuthError::Overloaded)?;
        let _core = self.cores.acquire().await.map_err(|_| AuthError::Failed)?;
        hash_blocking(secret.0, cost).await
    }
}

async fn hash_blocking(secret: Zeroizing<String>, cost: u32) -> Result<String, AuthError> {
    let hash = tokio::task::spawn_blocking(move || bcrypt::non_truncating_hash(secret.as_bytes(), cost));
    hash.await.map_err(|_| AuthError::Failed)?.map_err(|_| AuthError::Failed)
}

/// 32 bytes from the system's random source.
///
/// # Errors
/// The system has none.
pub fn random_bytes() -> Result<[u8; 32], AuthError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AuthError::Failed)?;
    Ok(bytes)
}

fn random_hex() -> Result<String, AuthError> {
    Ok(data_encoding::HEXLOWER.encode(&random_bytes()?))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// What is stored of a token.
#[must_use]
pub fn token_hash(token: &[u8]) -> TokenHash {
    TokenHash(sha256(token))
}

/// What is stored of a grant.
#[must_use]
pub fn grant_hash(grant: &[u8]) -> GrantHash {
    GrantHash(sha256(grant))
}

/// What is stored of an invite.
#[must_use]
pub fn invite_hash(invite: &str) -> InviteHash {
    InviteHash(sha256(invite.trim().as_bytes()))
}

/// Whether the device's key signed this connection's channel binding.
#[must_use]
pub fn is_resume_signed(signature_key: &[u8; 32], exported: &[u8; 32], signature: &[u8]) -> bool {
    let message = [fastchat_wire::RESUME_CONTEXT, exported].concat();
    signature::UnparsedPublicKey::new(&signature::ED25519, signature_key).verify(&message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_auth_secret_is_64_lower_case_hex_digits() {
        assert!(AuthSecret::new("0a".repeat(32)).is_some());
        for bad in ["0A".repeat(32), "0a".repeat(31), "0g".repeat(32), String::new(), "\0".repeat(64)] {
            assert!(AuthSecret::new(bad).is_none());
        }
    }

    #[tokio::test]
    async fn an_unknown_account_is_a_wrong_password_with_a_stable_salt() {
        let passwords = Passwords::start([7; 32], 4).await.unwrap();
        let secret = AuthSecret::new("0a".repeat(32)).unwrap();
        let hash = passwords.hash(secret.clone(), 4).await.unwrap();
        assert!(passwords.verify(secret.clone(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(AuthSecret::new("0b".repeat(32)).unwrap(), Some(hash)).await.unwrap());
        assert!(!passwords.verify(secret, None).await.unwrap());
        let name: AccountName = "nobody".parse().unwrap();
        assert_eq!(passwords.fake_kdf(&name), Passwords::start([7; 32], 4).await.unwrap().fake_kdf(&name));
        assert_ne!(passwords.fake_kdf(&name), passwords.fake_kdf(&"nobody2".parse().unwrap()));
    }
}
