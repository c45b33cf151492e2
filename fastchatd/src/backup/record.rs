//! What stands in a backup. Names are those of the API where there is one.
//!
//! **Invariant**: a field is never renamed or given another meaning; new ones have a default. The identity does not print.

use std::{fmt, path::Path};

use data_encoding::BASE64;
use fastchat_ipc::{ApiError, ContactState, ErrorCode, MessageKind, MessageState};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::no_backup;

/// The version of the records. A newer one is refused.
const FORMAT: u32 = 1;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the records.
    pub format: u32,
    /// `alice@host:port`.
    pub account: String,
    /// When it was made.
    pub created_at_ms: u64,
    /// SHA-256 of the account's identity key, in hex.
    pub fingerprint: String,
}

impl Header {
    /// Of today's format.
    #[must_use]
    pub fn new(account: String, created_at_ms: u64, fingerprint: String) -> Self {
        Self { format: FORMAT, account, created_at_ms, fingerprint }
    }
}

/// A record of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The account's identity; once, first.
    Identity(IdentityRecord),
    /// A contact.
    Contact(ContactRecord),
    /// A chat; its messages follow.
    Chat(ChatRecord),
    /// A message of the chat before it, oldest first.
    Message(MessageRecord),
}

/// An identity with its private key. Wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityRecord {
    /// PKCS#8, as `fastchat_e2ee::Identity::to_bytes` writes it.
    pub pkcs8: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for IdentityRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityRecord(hidden)")
    }
}

#[derive(Serialize)]
struct SecretText<'a> {
    pkcs8: &'a str,
}

impl Serialize for IdentityRecord {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(&self.pkcs8));
        SecretText { pkcs8: &text }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IdentityRecord {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text {
            pkcs8: Zeroed,
        }
        struct Zeroed(Zeroizing<String>);
        impl<'de> Deserialize<'de> for Zeroed {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Zeroizing::new).map(Self)
            }
        }
        let Zeroed(text) = Text::deserialize(deserializer)?.pkcs8;
        let pkcs8 = BASE64.decode(text.as_bytes()).map_err(|_| serde::de::Error::custom("not base64"))?;
        Ok(Self { pkcs8: Zeroizing::new(pkcs8) })
    }
}

/// A contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactRecord {
    /// Its name on the account's server.
    pub name: String,
    /// What we call it; empty for its name.
    #[serde(default)]
    pub alias: String,
    /// What it is to us.
    pub state: ContactState,
    /// The identity key that we go by (SubjectPublicKeyInfo); `None` when none was seen.
    #[serde(default, with = "key")]
    pub identity: Option<Vec<u8>>,
    /// Whether the safety number was compared.
    #[serde(default)]
    pub verified: bool,
    /// Taken off the list.
    #[serde(default)]
    pub removed: bool,
}

/// A chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRecord {
    /// Its id.
    pub id: String,
    /// With whom it is.
    pub with: ChatWith,
    /// Whether notifications are off.
    #[serde(default)]
    pub muted: bool,
    /// When the newest message came or was written.
    #[serde(default)]
    pub last_at_ms: u64,
}

/// With whom a chat is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ChatWith {
    /// A contact.
    Direct {
        /// Its name.
        contact: String,
    },
    /// A group.
    Group {
        /// The conversation that it is on the server.
        #[serde(default)]
        conversation: String,
        /// Its name.
        name: String,
        /// What it is about.
        #[serde(default)]
        topic: String,
        /// When this device came to know it.
        #[serde(default)]
        created_at_ms: u64,
    },
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRecord {
    /// Its id, a UUID.
    pub id: String,
    /// Whether we sent it.
    pub mine: bool,
    /// Who sent it, in a group; empty otherwise.
    #[serde(default)]
    pub from: String,
    /// When its sender made it.
    pub sent_at_ms: u64,
    /// When the server accepted it.
    #[serde(default)]
    pub accepted_at_ms: u64,
    /// What it is.
    pub kind: MessageKind,
    /// Where it stood.
    pub state: MessageState,
    /// It was certified by an identity that nobody had trusted.
    #[serde(default)]
    pub held: bool,
    /// Its text.
    pub text: String,
}

/// How many records there are of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) contacts: u64,
    pub(super) chats: u64,
    pub(super) messages: u64,
}

impl Totals {
    pub(super) fn count(&mut self, record: &Record) {
        match record {
            Record::Identity(_) => {}
            Record::Contact(_) => self.contacts += 1,
            Record::Chat(_) => self.chats += 1,
            Record::Message(_) => self.messages += 1,
        }
    }
}

/// A line of the archive. Tagged from outside, as [`Record`] is: any other way, serde keeps copies of secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Header(Header),
    Record(Record),
    End(Totals),
}

impl Line {
    pub(super) fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let failed = |error: serde_json::Error| ApiError::new(ErrorCode::Internal, format!("a record: {error}"));
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        serde_json::to_writer(&mut *bytes, self).map_err(failed)?;
        Ok(bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Self::Header(header)) if header.format != FORMAT => {
                let text = format!("{} is a backup of a newer FastChat", path.display());
                Err(ApiError::new(ErrorCode::Refused, text).hint("update FastChat, then try again"))
            }
            Ok(line) => Ok(line),
            Err(_) => Err(no_backup(path)),
        }
    }
}

/// A public key as base64.
mod key {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(key: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        key.as_ref().map(|key| BASE64.encode(key)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| BASE64.decode(text.as_bytes()).map_err(|_| D::Error::custom("not base64"))).transpose()
    }
}
