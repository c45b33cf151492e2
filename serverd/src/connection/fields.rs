//! From a frame's fields to checked values.
//!
//! **Invariant**: a field is used only after it was found within its bounds; the refusal names it.

use bytes::Bytes;
use fastchat_mls::{Certificate, identity::rsa_public_key};
use fastchat_store::{Kdf, Kind, NewEntry, NewWelcome};
use fastchat_wire::{AccountName, Code, ConversationId, DeviceId, IdError, MessageId, v1};

use super::{Trouble, refuse};
use crate::{
    auth::{self, AuthSecret},
    config::Limits,
};

const IDENTITY_KEY: usize = 1_024;
const IDENTITY_BACKUP: usize = 24 << 10;
const CERTIFICATE: usize = 8 << 10;
const DEVICE_NAME: usize = 64;
const KEY_PACKAGE: usize = 16 << 10;
const KEY_PACKAGES: usize = 128;
const WELCOME: usize = 64 << 10;
const JOIN_KEY: usize = 8 << 10;
const WELCOMES: usize = 250;
const GROUP_INFO: usize = 1 << 20;
const LINK_MESSAGE: usize = 8 << 10;

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
    let key = sized("identity_key", key, IDENTITY_KEY)?;
    if rsa_public_key(&key).is_none() {
        return Err(invalid(
            "identity_key must be an RSA key of 3072 to 4096 bits with exponent 65537, as SubjectPublicKeyInfo in DER",
        ));
    }
    Ok((key, sized("identity_backup", backup, IDENTITY_BACKUP)?))
}

pub(super) fn identity_backup(backup: &Bytes) -> Result<Bytes, Trouble> {
    sized("identity_backup", backup, IDENTITY_BACKUP)
}

/// A new device, without its token.
pub(super) struct Device {
    pub(super) device: DeviceId,
    pub(super) signature_key: [u8; 32],
    pub(super) certificate: Bytes,
    pub(super) name: String,
}

/// A device of `account`, whose certificate must be for it and, where that is known, by this identity.
pub(super) fn device(
    account: &AccountName,
    identity_key: Option<&Bytes>,
    device: Option<v1::NewDevice>,
) -> Result<Device, Trouble> {
    let device = device.ok_or_else(|| invalid("device is missing"))?;
    let signature_key = device.signature_key.as_ref().try_into();
    let signature_key: [u8; 32] = signature_key.map_err(|_| invalid("device.signature_key must have 32 bytes"))?;
    let (id, name) = (DeviceId::from_wire(&device.device)?, device_name(device.name)?);
    let certificate = certificate(account, identity_key, id, Some(&signature_key), &device.certificate)?;
    Ok(Device { device: id, signature_key, certificate, name })
}

pub(super) fn device_name(name: String) -> Result<String, Trouble> {
    if name.is_empty() || name.len() > DEVICE_NAME || name.chars().any(char::is_control) {
        return Err(invalid(format!("name: 1 to {DEVICE_NAME} bytes, no control characters")));
    }
    Ok(name)
}

/// A certificate as its leaf will carry it, signed by the identity that it names: members refuse a leaf whose
/// certificate is not, and with it the whole commit.
pub(super) fn certificate(
    account: &AccountName,
    identity_key: Option<&Bytes>,
    device: DeviceId,
    signature_key: Option<&[u8; 32]>,
    bytes: &Bytes,
) -> Result<Bytes, Trouble> {
    let bytes = sized("certificate", bytes, CERTIFICATE)?;
    let fields = Certificate::from_bytes(&bytes).map_err(|error| invalid(error.to_string()))?;
    let is_for_it = fields.account == account.as_str()
        && fields.device == device.0
        && signature_key.is_none_or(|key| fields.leaf_key == key)
        && identity_key.is_none_or(|key| fields.identity_key == key[..]);
    if !is_for_it {
        return Err(invalid("the certificate is for another account, device, key or identity"));
    }
    if !auth::is_certified(&fields) {
        return Err(invalid("the certificate is not signed by the identity key that it names: make and sign it anew"));
    }
    Ok(bytes)
}

pub(super) fn group_info(bytes: &Bytes) -> Result<Bytes, Trouble> {
    sized("group_info", bytes, GROUP_INFO)
}

pub(super) fn link_message(bytes: &Bytes) -> Result<Bytes, Trouble> {
    sized("message", bytes, LINK_MESSAGE)
}

pub(super) fn link(bytes: &Bytes) -> Result<[u8; 16], Trouble> {
    bytes.as_ref().try_into().map_err(|_| invalid("link must have 16 bytes"))
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
        if welcome.join_key.len() > JOIN_KEY {
            return Err(invalid(format!("join_key: at most {JOIN_KEY} bytes")));
        }
        Ok(NewWelcome {
            device: DeviceId::from_wire(&welcome.device)?,
            welcome: sized("welcome", &welcome.welcome, WELCOME)?,
            join_key: Bytes::copy_from_slice(&welcome.join_key),
        })
    };
    welcomes.iter().map(check).collect()
}

/// Anything larger could not be stored.
pub(super) fn epoch(epoch: u64) -> Result<u64, Trouble> {
    if i64::try_from(epoch).is_ok_and(|epoch| epoch < i64::MAX) {
        Ok(epoch)
    } else {
        Err(invalid("epoch is out of range"))
    }
}

/// A handshake's message, the GroupInfo that goes with a commit, and its Welcomes.
pub(super) fn handshake(
    ask: &v1::Handshake,
    limits: &Limits,
) -> Result<(ConversationId, NewEntry, Vec<NewWelcome>), Trouble> {
    let parts = |welcome: &v1::Welcome| welcome.welcome.len() + welcome.join_key.len();
    let length = ask.message.len() + ask.group_info.len() + ask.welcomes.iter().map(parts).sum::<usize>();
    let most = limits.handshake_bytes.count();
    if length > most {
        return Err(refuse(Code::TooLarge, format!("the handshake has {length} bytes, at most {most} are taken")));
    }
    let kind = match ask.kind() {
        v1::EntryKind::Commit => Kind::Commit,
        v1::EntryKind::Proposal => Kind::Proposal,
        v1::EntryKind::Application | v1::EntryKind::Unspecified => {
            return Err(invalid("kind must be COMMIT or PROPOSAL"));
        }
    };
    if ask.message.is_empty() {
        return Err(invalid("message is missing"));
    }
    if (kind == Kind::Commit) == ask.group_info.is_empty() {
        return Err(invalid("group_info belongs to a commit, and to nothing else"));
    }
    let (message_id, payload) = (MessageId::from_wire(&ask.message_id)?, Bytes::copy_from_slice(&ask.message));
    let entry = NewEntry { message_id, epoch: epoch(ask.epoch)?, kind, payload };
    Ok((ConversationId::from_wire(&ask.conversation)?, entry, welcomes(&ask.welcomes)?))
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
            v1::EntryKind::Proposal => Kind::Proposal,
            v1::EntryKind::Unspecified => return Err(invalid("kind is missing or unknown")),
        };
        epoch(entry.epoch)?;
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
