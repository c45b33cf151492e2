//! What protects the store's root key: the Secret Service, a passphrase, or, by explicit choice, a file.
//!
//! `key.toml` in the data directory records which, once, when the store is made. A keyring that is locked or away
//! leaves the store locked; nothing else is tried in its place.
//!
//! **Invariant**: the recorded way is the only way to the key; it never becomes a weaker one by itself, and start-up
//! never waits for a prompt.

mod file;
mod passphrase;
mod record;
mod secret_service;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path};

use fastchat_ipc::{ApiError, ErrorCode, KeyStore};
use zeroize::Zeroizing;

use record::{Record, Way};

/// The bytes of a root key.
const KEY_BYTES: usize = 32;

/// The key under which the whole store is sealed. Wiped on drop; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct RootKey(Zeroizing<[u8; KEY_BYTES]>);

impl RootKey {
    fn generate() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    /// From exactly 32 bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(hidden)")
    }
}

/// What there is at start.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// No key was made yet.
    Nothing,
    /// The key.
    Ready(RootKey),
    /// The passphrase must be given: `daemon.unlock`.
    NeedsPassphrase,
    /// The Secret Service does not give the key; why.
    NeedsSecretService(String),
}

/// Looks for the key without asking anybody; takes some seconds at most.
///
/// # Errors
/// `key.toml` or the key file is damaged, readable by others, or cannot be read.
pub async fn find(data: &Path) -> Result<(Found, KeyStore), ApiError> {
    let Some(record) = record::read(data)? else { return Ok((Found::Nothing, KeyStore::Auto)) };
    let kind = record.kind();
    let found = match record.way {
        Way::Passphrase(_) => Found::NeedsPassphrase,
        Way::File => Found::Ready(file::read(data)?.ok_or_else(|| file::missing(data))?),
        Way::SecretService { store } => match secret_service::load(&store).await {
            Ok(key) => Found::Ready(key),
            Err(why) => Found::NeedsSecretService(why),
        },
    };
    Ok((found, kind))
}

/// Gets the key with somebody's help: the passphrase, or a keyring that they have unlocked by now.
///
/// # Errors
/// The passphrase is wrong (`Refused`), the Secret Service still does not give the key (`Locked`), there is no key yet
/// (`NoAccount`), or as [`find`].
pub async fn unlock(data: &Path, passphrase: &str) -> Result<RootKey, ApiError> {
    let Some(record) = record::read(data)? else {
        return Err(ApiError::new(ErrorCode::NoAccount, "there is nothing to unlock yet")
            .hint("make an account with `fastchatctl register`, or log in to one with `fastchatctl login`"));
    };
    match record.way {
        Way::Passphrase(sealed) => {
            if passphrase.is_empty() {
                return Err(ApiError::new(ErrorCode::Locked, "the store is locked with a passphrase")
                    .hint("give it with `fastchatctl unlock`"));
            }
            let passphrase = Zeroizing::new(passphrase.to_owned());
            aside(move || passphrase::open(&sealed, &passphrase)).await?
        }
        Way::File => file::read(data)?.ok_or_else(|| file::missing(data)),
        Way::SecretService { store } => secret_service::load(&store).await.map_err(|why| {
            ApiError::new(ErrorCode::Locked, format!("the Secret Service does not give the store's key: {why}"))
                .hint("unlock your desktop's keyring, then `fastchatctl unlock`")
        }),
    }
}

/// Makes the key of a new store and records what protects it. Gives what `Auto` turned out to be.
///
/// # Errors
/// There is a key already; the choice cannot be carried out (`Refused`, with the other choices); the disk.
pub async fn create(data: &Path, choice: KeyStore, passphrase: &str) -> Result<(RootKey, KeyStore), ApiError> {
    record::prepare(data)?;
    if record::read(data)?.is_some() {
        return Err(ApiError::new(ErrorCode::Refused, format!("{} has a key store already", data.display()))
            .hint("`fastchatctl status` says which; it is chosen once, with the first account"));
    }
    let (key, way) = match choice {
        KeyStore::Auto | KeyStore::SecretService => keep_in_secret_service(choice).await?,
        KeyStore::Passphrase => {
            let passphrase = Zeroizing::new(passphrase.to_owned());
            aside(move || {
                let key = RootKey::generate();
                passphrase::seal(&key, &passphrase).map(|sealed| (key, Way::Passphrase(sealed)))
            })
            .await??
        }
        KeyStore::File => (file::create(data)?, Way::File),
    };
    let record = Record::new(way);
    record::write(data, &record)?;
    Ok((key, record.kind()))
}

/// Takes back what [`create`] made, when nothing was sealed with it. A key file stays: it may be older than this
/// attempt, and the next choice of a file takes it over.
pub async fn discard(data: &Path) {
    if let Ok(Some(Record { way: Way::SecretService { store }, .. })) = record::read(data)
        && let Err(why) = secret_service::remove(&store).await
    {
        tracing::info!("an unused key stays in the Secret Service: {why}");
    }
    if let Err(error) = record::remove(data) {
        tracing::warn!(error = error.message, "an unused key's record could not be removed");
    }
}

async fn keep_in_secret_service(choice: KeyStore) -> Result<(RootKey, Way), ApiError> {
    let store = uuid::Uuid::now_v7().to_string();
    let key = RootKey::generate();
    match secret_service::save(&store, &key).await {
        Ok(()) => Ok((key, Way::SecretService { store })),
        Err(why) => Err(cannot_keep(choice, &why)),
    }
}

fn cannot_keep(choice: KeyStore, why: &str) -> ApiError {
    let asked = if choice == KeyStore::Auto { "no key store was chosen, and " } else { "" };
    ApiError::new(ErrorCode::Refused, format!("{asked}the Secret Service cannot keep the key: {why}")).hint(
        "choose `--key-store passphrase` (asked for after each start), or `--key-store file` \
         (a file that only you can read; whoever gets at the disk reads your messages)",
    )
}

/// Runs what takes long where it holds nobody up.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("the key could not be worked on: {error}")))
}
