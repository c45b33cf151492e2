//! People: what they are to us, and their keys.
//!
//! **Invariant**: a contact is named by its name on the server or by its alias, both unique in an account.

use serde::{Deserialize, Serialize};

/// What somebody is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContactState {
    /// Wrote to us and waits for an answer.
    Request,
    /// A contact.
    Accepted,
    /// Turned down: its messages show nowhere until it is accepted.
    Declined,
    /// Can reach us no more.
    Blocked,
}

/// Somebody we know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contact {
    /// Its name on the server.
    pub name: String,
    /// What we call it; empty for its name.
    pub alias: String,
    /// What it is to us.
    pub state: ContactState,
    /// The direct chat with it; empty when there is none yet.
    pub chat: String,
    /// SHA-256 of its identity key, in hex.
    pub fingerprint: String,
    /// Whether its safety number was compared.
    pub verified: bool,
    /// Whether its identity key changed and nobody has trusted the new one yet.
    pub key_changed: bool,
    /// Whether it is connected now (contacts of each other only).
    pub active: bool,
    /// Since when `active` is what it is; 0 when unknown.
    pub active_since_ms: u64,
}

/// All contacts, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contacts {
    /// The contacts.
    pub contacts: Vec<Contact>,
}

/// Parameters of methods that concern a contact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfContact {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The contact.
    pub contact: String,
}

/// Parameters of `contact.alias`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAlias {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The contact.
    pub contact: String,
    /// What to call it; empty for its name. 64 characters at most.
    pub alias: String,
}

/// Parameters of `key.show`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowKey {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The contact; empty for our own key alone.
    #[serde(default)]
    pub contact: String,
}

/// Result of `key.show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keys {
    /// Our own fingerprint, in hex.
    pub own: String,
    /// The contact's name; empty when none was asked for.
    pub contact: String,
    /// The contact's fingerprint, in hex.
    pub fingerprint: String,
    /// The 60-digit safety number, in groups of five; the same on both sides.
    pub safety_number: String,
    /// What to encode in a QR code for the other side to scan.
    pub qr: String,
    /// Whether it was verified.
    pub verified: bool,
    /// Set when the server names another key than the one that we trusted: the new one's safety number.
    pub changed_safety_number: String,
}

/// Parameters of `key.verify`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyKey {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The contact.
    pub contact: String,
    /// The number that the other side shows; empty when the people have compared it themselves.
    #[serde(default)]
    pub safety_number: String,
}

/// Parameters of `key.trust`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustKey {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The contact.
    pub contact: String,
    /// The safety number of the changed key, as the other side shows it: another one is refused. Empty to trust the
    /// key unseen.
    #[serde(default)]
    pub safety_number: String,
}

/// Parameters of `key.rotate`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The account's password: the new identity's backup is encrypted under it.
    pub password: String,
}
