//! Messages: their states, sending them, those that wait.
//!
//! **Invariant**: a state moves forward only, except that what failed or is held may be queued again.

use serde::{Deserialize, Serialize};

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// In the outbox: on disk, not yet accepted by the server.
    Queued,
    /// In the outbox and not going out: the recipient's key changed, or the recipient refuses.
    Held,
    /// Accepted by the server: durable there.
    Sent,
    /// On a device of the recipient, of everybody in a group.
    Delivered,
    /// Will not go out; `error` says why. `outbox.retry` tries again.
    Failed,
    /// Taken back before it was sent.
    Cancelled,
    /// From somebody else.
    Received,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// Text that somebody wrote.
    Text,
    /// Something that the chat's members should know (a key changed, an entry is missing).
    Notice,
    /// An entry that could not be opened; `text` says why.
    Unreadable,
}

/// A message in a chat's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The message's id (a UUID; sorts by the time it was made).
    pub id: String,
    /// The chat's id.
    pub chat: String,
    /// The sender's name; empty for a notice.
    pub from: String,
    /// Whether we sent it.
    pub mine: bool,
    /// When the sender's device made it.
    pub sent_at_ms: u64,
    /// When the server accepted it; 0 while it has not.
    pub accepted_at_ms: u64,
    /// What it is.
    pub kind: MessageKind,
    /// Where it stands.
    pub state: MessageState,
    /// Its text. May hold any character: a terminal needs it escaped.
    pub text: String,
    /// Why it is held or failed; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Its place in the history; `history` reads on from it.
    pub position: u64,
}

/// How long `send` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Until it is on this disk.
    #[default]
    Queued,
    /// Until the server has accepted it.
    Sent,
    /// Until it is on the recipient's device.
    Delivered,
}

/// Parameters of `send`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// Names or aliases of people, names of groups (where one has it alone), or chat ids; at most 64.
    pub to: Vec<String>,
    /// The text, at most 64 KiB.
    pub text: String,
    /// How long to wait.
    #[serde(default)]
    pub wait: Wait,
    /// How long to wait at most, milliseconds; 0 for the daemon's default (30 s).
    #[serde(default)]
    pub timeout_ms: u64,
    /// The same key again is the same message: it is sent once, and the answer is that of the first call.
    #[serde(default)]
    pub idempotency_key: String,
}

/// What became of one recipient's message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// As it was named in the call.
    pub to: String,
    /// The message's id.
    pub id: String,
    /// The chat's id.
    pub chat: String,
    /// Where the message stands now.
    pub state: MessageState,
    /// Why it is held or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::ApiError>,
}

/// Result of `send`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendResult {
    /// One for each recipient, in the order of the call.
    pub messages: Vec<Sent>,
}

/// Messages that wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    /// Oldest first: queued, held and failed ones.
    pub messages: Vec<Message>,
}

/// Parameters of methods that concern a message in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfMessage {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The message's id; empty for all.
    #[serde(default)]
    pub id: String,
}

/// How many messages a method changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// That many.
    pub changed: u64,
}
