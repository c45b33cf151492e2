//! Backups: an encrypted file with an account's identity, contacts and history.
//!
//! The daemon reads and writes the file; a path is absolute, and of this user's.
//!
//! **Invariant**: a passphrase stands only in parameters, and a backup is written whole or not at all.

use serde::{Deserialize, Serialize};

/// Parameters of `backup.create` and `backup.restore`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The file, an absolute path. Creating refuses one that is there already.
    pub path: String,
    /// What encrypts it; at least 8 characters.
    pub passphrase: String,
}

/// Parameters of `backup.verify`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupFile {
    /// The file, an absolute path.
    pub path: String,
    /// What encrypts it.
    pub passphrase: String,
}

/// What a backup holds; all of it was read and found whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// The file.
    pub path: String,
    /// Whose it is, `alice@host:port`.
    pub account: String,
    /// When it was made.
    pub created_at_ms: u64,
    /// Contacts in it.
    pub contacts: u64,
    /// Chats in it.
    pub chats: u64,
    /// Messages in it.
    pub messages: u64,
    /// SHA-256 of the identity key in it, in hex.
    pub fingerprint: String,
    /// Size of the file.
    pub bytes: u64,
}

/// Result of `backup.restore`: what the backup holds, and what of it was not here before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// What the backup holds.
    pub backup: BackupInfo,
    /// Contacts that are new here.
    pub contacts: u64,
    /// Chats that are new here.
    pub chats: u64,
    /// Messages that are new here.
    pub messages: u64,
}
