//! The root key in the desktop's Secret Service (freedesktop.org Secret Service API).
//!
//! Only a default collection that exists and is unlocked is used: where nobody sits at the screen (SSH, lingering user
//! services) its prompt would hang for ever.
//!
//! **Invariant**: every exchange has a deadline, and none of them asks anybody anything.

use std::{collections::HashMap, time::Duration};

use secret_service::{Collection, EncryptionType, Error, SecretService};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::RootKey;

/// How long to wait for the service, which may have to start first.
const DEADLINE: Duration = Duration::from_secs(3);
const LABEL: &str = "FastChat store key";
const CONTENT_TYPE: &str = "application/octet-stream";

/// Gives the key of this store, or why it cannot be had now.
pub(super) async fn load(store: &str) -> Result<RootKey, String> {
    in_time(async {
        let service = connect().await?;
        let collection = unlocked(&service).await?;
        fetch(&collection, store).await
    })
    .await
}

/// Keeps the key of this store, and reads it back.
pub(super) async fn save(store: &str, key: &RootKey) -> Result<(), String> {
    in_time(async {
        let service = connect().await?;
        let collection = unlocked(&service).await?;
        collection
            .create_item(LABEL, attributes(store), key.as_bytes(), false, CONTENT_TYPE)
            .await
            .map_err(|error| why(&error))?;
        if fetch(&collection, store).await? == *key { Ok(()) } else { Err("it gives back another key".to_owned()) }
    })
    .await
}

/// Removes the key of this store, if it is there.
pub(super) async fn remove(store: &str) -> Result<(), String> {
    in_time(async {
        let service = connect().await?;
        let collection = unlocked(&service).await?;
        for item in collection.search_items(attributes(store)).await.map_err(|error| why(&error))? {
            item.delete().await.map_err(|error| why(&error))?;
        }
        Ok(())
    })
    .await
}

async fn connect<'a>() -> Result<SecretService<'a>, String> {
    SecretService::connect(EncryptionType::Dh).await.map_err(|error| why(&error))
}

async fn unlocked<'a>(service: &'a SecretService<'_>) -> Result<Collection<'a>, String> {
    let collection = match service.get_default_collection().await {
        Ok(collection) => collection,
        Err(Error::NoResult) => return Err("it has no default keyring".to_owned()),
        Err(error) => return Err(why(&error)),
    };
    match collection.is_locked().await {
        Ok(false) => Ok(collection),
        Ok(true) => Err("the default keyring is locked".to_owned()),
        Err(error) => Err(why(&error)),
    }
}

async fn fetch(collection: &Collection<'_>, store: &str) -> Result<RootKey, String> {
    let items = collection.search_items(attributes(store)).await.map_err(|error| why(&error))?;
    let item = items.first().ok_or("the default keyring does not have the key of this store")?;
    let secret = Zeroizing::new(item.get_secret().await.map_err(|error| why(&error))?);
    RootKey::from_bytes(&secret).ok_or_else(|| "what it keeps is not a key of this program".to_owned())
}

fn attributes(store: &str) -> HashMap<&str, &str> {
    HashMap::from([("application", "fastchat"), ("store", store)])
}

async fn in_time<T>(exchange: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(DEADLINE, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("it did not answer within {} s", DEADLINE.as_secs())))
}

fn why(error: &Error) -> String {
    const NONE: &str = "there is none here (no session bus, or no keyring on it)";
    match error {
        Error::Unavailable | Error::Zbus(zbus::Error::Connection(..) | zbus::Error::Address(_)) => NONE.to_owned(),
        Error::Zbus(zbus::Error::MethodError(name, ..))
            if name.as_str() == "org.freedesktop.DBus.Error.ServiceUnknown" =>
        {
            NONE.to_owned()
        }
        Error::Locked | Error::Prompt => "the default keyring is locked".to_owned(),
        error => error.to_string(),
    }
}
