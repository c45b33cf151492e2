//! Passwords, tokens and signatures: what a server may know of them, checked without telling who exists.
//!
//! **Invariant**: an unknown account and a wrong password cost the same time and give the same answer; of tokens and
//! auth secrets only hashes are kept.

use std::sync::Arc;

use bytes::Bytes;
use fastchat_mls::{Certificate, certificate, identity};
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

/// Whether the identity that a certificate names is one, and has signed it.
#[must_use]
pub fn is_certified(certificate: &Certificate) -> bool {
    let Some(key) = identity::rsa_public_key(&certificate.identity_key) else { return false };
    let Ok(message) = certificate.signed_bytes() else { return false };
    let signed = identity::signed_bytes(certificate::CONTEXT, &message);
    let key = signature::UnparsedPublicKey::new(&signature::RSA_PSS_2048_8192_SHA256, key);
    key.verify(&signed, &certificate.signature).is_ok()
}

#[cfg(test)]
mod tests {
    use fastchat_e2ee::Identity;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_certificate_is_signed_by_the_identity_that_it_names() {
        let identity = Identity::generate().unwrap();
        let mut good = Certificate {
            account: "alice".into(),
            device: Uuid::from_u128(1),
            leaf_key: vec![7; 32],
            identity_key: identity.public().to_der().to_vec(),
            signature: Vec::new(),
        };
        let sign =
            |context, certificate: &Certificate| identity.sign(context, &certificate.signed_bytes().unwrap()).unwrap();
        good.signature = sign(certificate::CONTEXT, &good);
        assert!(is_certified(&good));
        let alter: [fn(&mut Certificate); 7] = [
            |certificate| certificate.account = "alicia".into(),
            |certificate| certificate.device = Uuid::from_u128(2),
            |certificate| certificate.leaf_key = vec![8; 32],
            |certificate| certificate.identity_key = b"no key".to_vec(),
            |certificate| certificate.signature = vec![7; 384],
            |certificate| certificate.signature[383] ^= 1,
            |certificate| certificate.signature.clear(),
        ];
        for (at, alter) in alter.into_iter().enumerate() {
            let mut bad = good.clone();
            alter(&mut bad);
            assert!(!is_certified(&bad), "alteration {at}");
        }
        let purpose = Certificate { signature: sign("another purpose", &good), ..good };
        assert!(!is_certified(&purpose));
    }

    /// A SubjectPublicKeyInfo as OpenSSL writes it, of a modulus and an exponent.
    fn identity_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            let head = match length {
                [0, low @ 0..=0x7f] => vec![tag, low],
                [0, low] => vec![tag, 0x81, low],
                [high, low] => vec![tag, 0x82, high, low],
            };
            [&head[..], content].concat()
        };
        let numbers = [element(2, modulus), element(2, exponent)].concat();
        let algorithm = element(0x30, &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0]);
        let key = element(3, &[&[0], &element(0x30, &numbers)[..]].concat());
        element(0x30, &[algorithm, key].concat())
    }

    #[test]
    fn an_identity_key_has_one_form_and_a_size_within_bounds() {
        let key = Identity::generate().unwrap().public().to_der().to_vec();
        assert!(identity::rsa_public_key(&key).is_some());
        let modulus = |bytes: usize| [&[0, 0x80][..], &vec![1; bytes - 1]].concat();
        let (good, exponent) = (modulus(384), [1, 0, 1]);
        assert!(identity::rsa_public_key(&identity_key(&good, &exponent)).is_some());
        assert!(identity::rsa_public_key(&identity_key(&modulus(512), &exponent)).is_some());
        // One bit fewer, one more.
        assert!(identity::rsa_public_key(&identity_key(&[&[0x7f][..], &[1; 383]].concat(), &exponent)).is_none());
        assert!(identity::rsa_public_key(&identity_key(&[&[1][..], &[1; 512]].concat(), &exponent)).is_none());
        assert!(identity::rsa_public_key(&identity_key(&good, &[3])).is_none());
        // Another form of the same key would have another fingerprint.
        assert!(identity::rsa_public_key(&identity_key(&[&[0][..], &good].concat(), &exponent)).is_none());
        assert!(identity::rsa_public_key(&identity_key(&good, &[0, 1, 0, 1])).is_none());
        assert!(identity::rsa_public_key(&[&key[..], &[0]].concat()).is_none());
        for length in 0..key.len() {
            assert!(identity::rsa_public_key(&key[..length]).is_none());
        }
    }

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
