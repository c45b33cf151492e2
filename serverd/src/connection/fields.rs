//! From a frame's fields to checked values.
//!
//! **Invariant**: a field is used only after it was found within its bounds; the refusal names it.

use bytes::Bytes;
use fastchat_store::{Kdf, Kind, NewEntry, NewWelcome};
use fastchat_wire::{AccountName, Code, ConversationId, DeviceId, IdError, MessageId, v1};

use super::{Trouble, refuse};
use crate::{auth::AuthSecret, config::Limits};

const IDENTITY_KEY: usize = 1_024;
const IDENTITY_BACKUP: usize = 24 << 10;
const CERTIFICATE: usize = 8 << 10;
const DEVICE_NAME: usize = 64;
const KEY_PACKAGE: usize = 16 << 10;
const KEY_PACKAGES: usize = 128;
const WELCOME: usize = 64 << 10;
const FRIEND_KEY: usize = 8 << 10;
const WELCOMES: usize = 64;

/// The most accounts that presence is shared with.
pub(super) const SHARED: usize = 2_000;

fn invalid(text: impl Into<String>) -> Trouble {
    refuse(Code::Invalid, text)
}

impl From<IdError> for Trouble {
    fn from(error: IdError) -> Self {
        invalid(error.to_string())
    }
}

/// `what` must have 1 to `most` bytes.
fn sized(what: &str, bytes: &Bytes, most: usize) -> Result<Bytes, Trouble> {
    match bytes.len() {
        0 => Err(invalid(format!("{what} is missing"))),
        length if length > most => Err(invalid(format!("{what} has {length} bytes, at most {most} are taken"))),
        // An own copy: a few bytes must not keep a whole frame in memory.
        _ => Ok(Bytes::copy_from_slice(bytes)),
    }
}

pub(super) fn account(name: &str) -> Result<AccountName, Trouble> {
    name.parse().map_err(|error: fastchat_wire::NameError| invalid(format!("account: {error}")))
}

pub(super) fn auth_secret(text: String) -> Result<AuthSecret, Trouble> {
    AuthSecret::new(text).ok_or_else(|| invalid("auth_secret must be 64 lower-case hex digits"))
}

pub(super) fn kdf(kdf: Option<v1::PasswordKdf>) -> Result<Kdf, Trouble> {
    let kdf = kdf.ok_or_else(|| invalid("kdf is missing"))?;
    let within = (8..=4 << 20).contains(&kdf.memory_kib)
        && (1..=100).contains(&kdf.iterations)
        && (1..=64).contains(&kdf.parallelism);
    if !within || kdf.salt.len() != 16 {
        return Err(invalid("kdf: salt must have 16 bytes, memory 8 KiB to 4 GiB, 1 to 100 iterations, 1 to 64 lanes"));
    }
    let v1::PasswordKdf { salt, memory_kib, iterations, parallelism } = kdf;
    Ok(Kdf { salt: Bytes::copy_from_slice(&salt), memory_kib, iterations, parallelism })
}

pub(super) fn identity(key: &Bytes, backup: &Bytes) -> Result<(Bytes, Bytes), Trouble> {
    Ok((sized("identity_key", key, IDENTITY_KEY)?, sized("identity_backup", backup, IDENTITY_BACKUP)?))
}

/// A new device, without its token.
pub(super) struct Device {
    pub(super) device: DeviceId,
    pub(super) signature_key: [u8; 32],
    pub(super) certificate: Bytes,
    pub(super) name: String,
}

pub(super) fn device(device: Option<v1::NewDevice>) -> Result<Device, Trouble> {
    let device = device.ok_or_else(|| invalid("device is missing"))?;
    let signature_key = device.signature_key.as_ref().try_into();
    if device.name.len() > DEVICE_NAME || device.name.chars().any(char::is_control) {
        return Err(invalid("device.name: at most 64 bytes, no control characters"));
    }
    Ok(Device {
        device: DeviceId::from_wire(&device.device)?,
        signature_key: signature_key.map_err(|_| invalid("device.signature_key must have 32 bytes"))?,
        certificate: sized("device.certificate", &device.certificate, CERTIFICATE)?,
        name: device.name,
    })
}

pub(super) fn key_packages(publish: &v1::PublishKeyPackages) -> Result<(Vec<Bytes>, Option<Bytes>), Trouble> {
    if publish.one_time.len() > KEY_PACKAGES {
        return Err(invalid(format!("at most {KEY_PACKAGES} key packages at once")));
    }
    let check = |package| sized("a key package", package, KEY_PACKAGE);
    let one_time = publish.one_time.iter().map(check).collect::<Result<_, _>>()?;
    let last_resort = Some(&publish.last_resort).filter(|package| !package.is_empty()).map(check).transpose()?;
    Ok((one_time, last_resort))
}

pub(super) fn welcomes(welcomes: &[v1::Welcome]) -> Result<Vec<NewWelcome>, Trouble> {
    if welcomes.len() > WELCOMES {
        return Err(invalid(format!("at most {WELCOMES} welcomes")));
    }
    let check = |welcome: &v1::Welcome| {
        if welcome.join_key.len() > FRIEND_KEY {
            return Err(invalid(format!("friend_key: at most {FRIEND_KEY} bytes")));
        }
        Ok(NewWelcome {
            device: DeviceId::from_wire(&welcome.device)?,
            welcome: sized("welcome", &welcome.welcome, WELCOME)?,
            friend_key: Bytes::copy_from_slice(&welcome.join_key),
        })
    };
    welcomes.iter().map(check).collect()
}

/// The entries of a Submit. Payloads stay slices of the frame: they go to the store and to sessions uncopied.
pub(super) fn entries(submit: v1::Submit, limits: &Limits) -> Result<(ConversationId, Vec<NewEntry>), Trouble> {
    let (conversation, most) = (ConversationId::from_wire(&submit.conversation)?, limits.submit_entries.count());
    if submit.entries.is_empty() || submit.entries.len() > most {
        return Err(invalid(format!("a Submit has 1 to {most} entries")));
    }
    let check = |entry: v1::NewEntry| {
        let most = limits.payload_bytes.count();
        if entry.payload.is_empty() {
            return Err(invalid("payload is missing"));
        }
        if entry.payload.len() > most {
            let length = entry.payload.len();
            return Err(refuse(Code::TooLarge, format!("the payload has {length} bytes, at most {most} are taken")));
        }
        let kind = match entry.kind() {
            v1::EntryKind::Application => Kind::Application,
            v1::EntryKind::Commit => Kind::Commit,
            v1::EntryKind::Unspecified => return Err(invalid("kind is missing or unknown")),
        };
        // Anything larger could not be stored.
        if i64::try_from(entry.epoch).is_err() {
            return Err(invalid("epoch is out of range"));
        }
        let message_id = MessageId::from_wire(&entry.message_id)?;
        Ok(NewEntry { message_id, epoch: entry.epoch, kind, payload: entry.payload })
    };
    let entries = submit.entries.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
    let mut ids: Vec<MessageId> = entries.iter().map(|entry| entry.message_id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(invalid("two entries of a Submit have the same message_id"));
    }
    Ok((conversation, entries))
}
