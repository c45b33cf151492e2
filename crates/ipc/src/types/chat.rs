//! Chats: listing, reading, marking as read.
//!
//! **Invariant**: a chat keeps its id for as long as it exists.

use serde::{Deserialize, Serialize};

use super::{GroupState, Message};

/// What a chat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatKind {
    /// Two people.
    Direct,
    /// Any number of people.
    Group,
}

/// A chat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// The chat's id; stays for as long as the chat exists.
    pub id: String,
    /// The account it belongs to.
    pub account: String,
    /// Direct or group.
    pub kind: ChatKind,
    /// The contact's alias or name, the group's name.
    pub title: String,
    /// The contact of a direct chat; empty for a group.
    pub contact: String,
    /// Whether the safety numbers of all others in it were compared.
    #[serde(default)]
    pub verified: bool,
    /// Where a group stands for us; absent for a direct chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupState>,
    /// Messages not read yet.
    pub unread: u64,
    /// Whether its notifications are off.
    pub muted: bool,
    /// Whether it is a request of somebody who is not a contact yet.
    pub request: bool,
    /// Whether sending is held because the contact's key, or that of somebody in the group, changed.
    pub held: bool,
    /// The newest message; its text is empty in a request.
    pub last: Option<Message>,
}

/// All chats, the one with the newest message first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chats {
    /// The chats.
    pub chats: Vec<Chat>,
}

/// How much is unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Messages in direct chats.
    pub direct: u64,
    /// Messages in groups.
    pub group: u64,
    /// Requests that wait for an answer.
    pub requests: u64,
}

/// Parameters of `history`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The chat.
    pub chat: String,
    /// How many messages at most, 1 to 1000; 0 for the default (5).
    #[serde(default)]
    pub limit: u32,
    /// Only messages before this position; 0 for the newest ones.
    #[serde(default)]
    pub before: u64,
}

/// Result of `history`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryResult {
    /// The chat's id.
    pub chat: String,
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Whether there are older ones.
    pub more: bool,
}

/// Parameters of methods that concern a chat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfChat {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The chat.
    pub chat: String,
}

/// Parameters of `mark_read`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkRead {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The chat.
    pub chat: String,
    /// Read up to this position; 0 for all.
    #[serde(default)]
    pub up_to: u64,
}
