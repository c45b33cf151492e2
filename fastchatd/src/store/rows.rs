//! What the store holds, as types.
//!
//! **Invariant**: a row read from the store is the row that was written; its encoding begins with its version.

use std::collections::BTreeMap;

use fastchat_ipc::{ContactState, EventKind, KeyStore, MessageKind, MessageState, Preview};
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId, Pin, ServerAddress};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// What the people set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How much notifications show; `None`: as the configuration says.
    pub preview: Option<Preview>,
    /// Do-not-disturb: until when (0: off, `u64::MAX`: until turned off).
    pub dnd_until_ms: u64,
    /// The number of the next account.
    pub next_account: u32,
}

/// An account. Its secrets are wiped on drop.
#[derive(Clone, Serialize, Deserialize)]
pub struct AccountRow {
    /// Its name.
    pub name: AccountName,
    /// Its server.
    pub server: ServerAddress,
    /// The server's pinned key; `None` when public authorities vouch for it.
    pub pin: Option<Pin>,
    /// The identity's private key, PKCS#8.
    pub identity: Vec<u8>,
    /// The device, as `e2ee::Device::to_bytes`.
    pub device: Vec<u8>,
    /// What the device is called.
    pub device_name: String,
    /// The session's token; empty when the server ended it.
    pub token: Vec<u8>,
    /// When the last-resort key package was published.
    pub last_resort_at_ms: u64,
    /// The number of the next contact.
    pub next_contact: u32,
    /// The number of the next chat.
    pub next_chat: u32,
    /// The account's devices that its person knows of.
    pub devices: Vec<DeviceId>,
    /// Devices that were revoked here: whatever the server says, they are none of ours.
    pub revoked: Vec<DeviceId>,
    /// A new identity that the server may have or not, while it is being put in place.
    pub rotation: Vec<u8>,
}

impl Drop for AccountRow {
    fn drop(&mut self) {
        self.identity.zeroize();
        self.device.zeroize();
        self.token.zeroize();
        self.rotation.zeroize();
    }
}

/// Somebody we know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactRow {
    /// Its name on the account's server.
    pub name: AccountName,
    /// What we call it; empty for its name.
    pub alias: String,
    /// What it is to us.
    pub state: ContactState,
    /// What a blocked one was before, and is again when the block is lifted.
    pub before_block: ContactState,
    /// The direct chat's number.
    pub chat: Option<u32>,
    /// The identity key that we go by (SubjectPublicKeyInfo); `None` until we have seen one.
    pub identity: Option<Vec<u8>>,
    /// Whether the safety number was compared.
    pub verified: bool,
    /// Another identity key that the server or a Welcome named since; sending is held until somebody trusts it.
    pub changed_identity: Option<Vec<u8>>,
    /// Whether the server knows of the block (or of its end).
    pub block_told: bool,
    /// Taken off the list; a new message makes it a request again.
    pub removed: bool,
}

/// With whom a chat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A contact, by its number.
    Contact(u32),
    /// A group; its [`GroupRow`] says who is in it.
    Group,
    /// The account's other devices. Nobody sees this chat.
    Own,
}

/// A chat: what a person sees as one conversation, over all the conversations on the server that carried it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRow {
    /// Its id for the API.
    pub id: String,
    /// With whom it is.
    pub peer: Peer,
    /// The conversation that messages go into now.
    pub conversation: Option<ConversationId>,
    /// A conversation of the server's that ours has to replace: we are no member of it, or cannot use it.
    pub replaces: Option<ConversationId>,
    /// Position of the next message.
    pub next_position: u64,
    /// Number of the next message in the outbox.
    pub next_outbox: u64,
    /// Messages from others that nobody has read.
    pub unread: u64,
    /// Read up to this position (exclusive).
    pub read_position: u64,
    /// Whether notifications are off.
    pub muted: bool,
    /// When the newest message came or was written.
    pub last_at_ms: u64,
    /// Another device of ours has read up to this message, which has not come here yet.
    pub read_elsewhere: Option<MessageId>,
    /// The number of the next task (see [`TaskRow`]).
    pub next_task: u64,
}

/// How this account stands in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// A member, with this device.
    Active,
    /// A member whose device is on its way in, by an external commit.
    Joining,
    /// Leaving: another member has still to commit it.
    Leaving,
    /// No member any more.
    Left,
    /// The group is no more.
    Deleted,
}

/// A group, as its last epoch here has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub topic: String,
    /// How we stand in it.
    pub standing: Standing,
    /// Who is in it, by name.
    pub members: Vec<MemberRow>,
    /// When this device came to know it.
    pub created_at_ms: u64,
    /// The epoch.
    pub epoch: u64,
    /// What all members have in common in this epoch (RFC 9420, section 8.7).
    pub authenticator: Vec<u8>,
    /// It was given up here: the server's word alone does not bring it back.
    pub refused: bool,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Its name.
    pub name: AccountName,
    /// Whether it is an admin.
    pub admin: bool,
    /// Its devices in the group.
    pub devices: Vec<DeviceId>,
    /// Of the identity key that certifies them.
    pub fingerprint: [u8; 32],
    /// It has said that it leaves.
    pub leaving: bool,
}

/// Something that is to become of a conversation, by a commit of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskRow {
    /// These join.
    Add(Vec<AccountName>),
    /// The account's other devices join.
    AddDevices,
    /// These are removed.
    Remove(Vec<AccountName>),
    /// These become admins.
    Promote(Vec<AccountName>),
    /// These are admins no longer.
    Demote(Vec<AccountName>),
    /// The group gets a name.
    Rename(String),
    /// The group gets a topic.
    Topic(String),
    /// We leave.
    Leave,
    /// The group ends.
    Delete,
    /// Our leaf gets new keys.
    Update,
    /// These devices of ours are gone from the account.
    DropDevices(Vec<DeviceId>),
    /// Our identity is a new one.
    Reidentify,
}

/// A handshake message that the server may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeRow {
    /// Its id in the log.
    pub id: MessageId,
    /// Where it goes.
    pub conversation: ConversationId,
    /// The frame, as it is sent each time.
    pub frame: Vec<u8>,
    /// The task that it does, by its number; 0: none.
    pub task: u64,
    /// What becomes of us by it.
    pub kind: HandshakeKind,
}

/// The kinds of handshake messages of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandshakeKind {
    /// A commit of a member.
    Commit,
    /// The external commit by which this device joins.
    Rejoin,
    /// The proposal by which we leave.
    Leave,
}

/// A conversation on the server, as this device stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationRow {
    /// The chat that it carries.
    pub chat: u32,
    /// Entries up to here are processed.
    pub cursor: u64,
    /// The epoch that it is at here.
    pub epoch: u64,
    /// The last counter that we gave to a message of ours.
    pub sent_counter: u64,
    /// How far others have come.
    pub delivered: BTreeMap<AccountName, u64>,
    /// Replaced or closed: nothing goes out into it any more.
    pub closed: bool,
    /// When our leaf is due for new keys; 0: never.
    pub update_at_ms: u64,
}

/// A message in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRow {
    /// Its id.
    pub id: MessageId,
    /// Whether we sent it.
    pub mine: bool,
    /// Who sent it, in a group.
    pub from: Option<AccountName>,
    /// It was certified by an identity that nobody had trusted: hidden until somebody does.
    pub held: bool,
    /// When its sender made it.
    pub sent_at_ms: u64,
    /// When the server accepted it.
    pub accepted_at_ms: u64,
    /// What it is.
    pub kind: MessageKind,
    /// Where it stands.
    pub state: MessageState,
    /// Its text.
    pub text: String,
}

/// A message on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Its id; stays the same through every try.
    pub id: MessageId,
    /// When it was written.
    pub written_at_ms: u64,
    /// Queued, held or failed.
    pub state: MessageState,
    /// Its text.
    pub text: String,
    /// What it tells the account's other devices instead of a text; empty for texts.
    pub sync: Vec<u8>,
    /// Why it is held or failed.
    pub error: String,
    /// The ciphertext, once it is made: a retry sends these very bytes.
    pub sealed: Option<SealedRow>,
}

/// A ciphertext that may have been sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRow {
    /// The conversation that it was made for.
    pub conversation: ConversationId,
    /// The epoch that it was made in.
    pub epoch: u64,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// What a call of `send` with an idempotency key led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRow {
    /// Hash of what was sent to whom.
    pub digest: [u8; 32],
    /// When.
    pub at_ms: u64,
    /// Recipient as named, chat number, message.
    pub messages: Vec<(String, u32, MessageId)>,
}

/// A durable event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// When.
    pub at_ms: u64,
    /// Whose account; empty for the daemon.
    pub account: String,
    /// What, as JSON (its fields are those of the API).
    pub kind: String,
}

impl EventRow {
    /// The event's kind, as the API has it.
    ///
    /// # Errors
    /// The row was not written by this program.
    pub fn event_kind(&self) -> Result<EventKind, serde_json::Error> {
        serde_json::from_str(&self.kind)
    }
}

/// The first record: whether the root key is the right one, and who wrote the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the layout.
    pub layout: u32,
    /// What protected the root key when the store was made.
    pub key_store: KeyStore,
}
