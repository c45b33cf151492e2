//! What happened, for those who watch.
//!
//! **Invariant**: an event with `durable = true` is in the log before anybody is told of it, and can be read again from
//! any earlier cursor.

use serde::{Deserialize, Serialize};

use crate::{AccountState, Message, MessageState};

/// One thing that happened. `kind` decides which further fields there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Read on from here to get what came after this event. Opaque text.
    pub cursor: String,
    /// When it happened, milliseconds of Unix time.
    pub at_ms: u64,
    /// Whose account (`alice@host:port`); empty for what concerns the daemon.
    pub account: String,
    /// Whether it stands in the event log (presence and connection states do not: ask for the present instead).
    pub durable: bool,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A message (or a notice in its place) has come; in a request too.
    MessageReceived {
        /// The chat's id.
        chat: String,
        /// The message's id.
        id: String,
        /// True when the sender is not a contact yet: show no text unasked.
        request: bool,
        /// The message itself, where it is still in the history.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<Message>,
    },
    /// A message of ours got into another state (queued, sent, delivered, failed, held, cancelled).
    MessageState {
        /// The chat's id.
        chat: String,
        /// The message's id.
        id: String,
        /// The state it is in now.
        state: MessageState,
    },
    /// A chat was read up to a point, here or on another device.
    ChatRead {
        /// The chat's id.
        chat: String,
        /// Unread messages left.
        unread: u64,
    },
    /// A chat is new, or its title, mute or state changed.
    ChatChanged {
        /// The chat's id.
        chat: String,
    },
    /// A contact is new, gone, or changed (request, accepted, blocked, alias, verified).
    ContactChanged {
        /// The contact's name.
        contact: String,
    },
    /// A contact's identity key is not the one we knew. Its conversation is held until `key.trust`.
    IdentityChanged {
        /// The contact's name.
        contact: String,
    },
    /// A group is new, or its name, topic, members, roles, state or epoch changed.
    GroupChanged {
        /// The group's id.
        group: String,
        /// Its chat's id.
        chat: String,
    },
    /// The account's devices changed: one came, went, or has another name.
    DevicesChanged {},
    /// A device came to the account, and it was not this one. Whoever did not bring it revokes it.
    NewDevice {
        /// The device's id.
        device: String,
        /// What it is called. May hold any character.
        name: String,
    },
    /// A contact has become active or gone away. Not durable.
    Presence {
        /// The contact's name.
        contact: String,
        /// Whether it has a connection now.
        active: bool,
        /// Since when, milliseconds of Unix time.
        since_ms: u64,
    },
    /// The account's connection got into another state. Not durable.
    AccountState {
        /// The state it is in now.
        state: AccountState,
        /// Why, where there is more to say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An account was added or removed.
    AccountChanged {},
    /// Events between the cursor that was asked for and this one are no longer kept.
    EventsLost {},
}
