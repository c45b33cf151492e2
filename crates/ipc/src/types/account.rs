//! Accounts: their states, signing in and out.
//!
//! **Invariant**: a password stands only in parameters, never in a result.

use serde::{Deserialize, Serialize};

/// Where an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// The store is locked: nothing can be read or sent until it is unlocked.
    Locked,
    /// No connection; the next try waits for its time.
    Offline,
    /// A connection is being made.
    Connecting,
    /// Connected and caught up with.
    Online,
    /// The server has ended the session: log in again.
    LoggedOut,
    /// The server's certificate changed: nothing is sent until it is trusted again.
    Untrusted,
}

/// What protects the store's root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyStore {
    /// The Secret Service when it is there and unlocked; otherwise an explicit choice is asked for.
    #[default]
    Auto,
    /// The desktop's Secret Service.
    SecretService,
    /// A passphrase, asked for once after each start of the daemon.
    Passphrase,
    /// A file that only this user can read. Whoever reads the disk reads the store.
    File,
}

/// An account on this daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// `alice@host:port`.
    pub account: String,
    /// Where it stands.
    pub state: AccountState,
    /// Why it is not online, for people; empty when it is.
    pub reason: String,
    /// This device's id.
    pub device: String,
    /// This device's name.
    pub device_name: String,
    /// SHA-256 of the account's identity key, in hex.
    pub fingerprint: String,
    /// The server's certificate pin (`sha256:…`); empty when a public authority vouches for it.
    pub pin: String,
    /// Messages waiting in the outbox.
    pub outbox: u64,
}

/// Parameters of `daemon.unlock`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    /// The passphrase; empty to try the Secret Service again.
    #[serde(default)]
    pub passphrase: String,
}

/// Parameters of `account.register` and `account.login`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// `alice@host:port`; without a port the usual one.
    pub address: String,
    /// The account's password.
    pub password: String,
    /// Trust an unknown server's certificate without asking.
    #[serde(default)]
    pub accept_new: bool,
    /// Trust exactly this certificate (`sha256:…`).
    #[serde(default)]
    pub pin: String,
    /// An invitation, where the server asks for one.
    #[serde(default)]
    pub invite: String,
    /// What shall protect the store; counts only for the first account.
    #[serde(default)]
    pub key_store: KeyStore,
    /// The passphrase of the key store `passphrase`.
    #[serde(default)]
    pub passphrase: String,
    /// What to call this device; the host name when empty.
    #[serde(default)]
    pub device_name: String,
    /// `login` only: give the account a new identity. Every contact is warned. For when the old password is lost to
    /// the backup.
    #[serde(default)]
    pub new_identity: bool,
}

/// All accounts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountList {
    /// The first is the default one.
    pub accounts: Vec<Account>,
}

/// Parameters of methods that concern an account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfAccount {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
}

/// Parameters of `account.logout`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logout {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// Also when the server cannot be told, or messages wait in the outbox.
    #[serde(default)]
    pub force: bool,
}

/// Parameters of `account.password`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The password until now.
    pub old: String,
    /// The password from now on.
    pub new: String,
    /// End the sessions of all other devices: they have to log in again.
    #[serde(default)]
    pub end_other_devices: bool,
}
