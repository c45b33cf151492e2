//! Groups and the messages that change them, as far as a store knows: opaque states, compared and swapped.
//!
//! **Invariant**: a store checks what only it can know (which devices there are, who has blocked whom, that nothing
//! came between); what MLS says was checked before.

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId};

use super::{ConversationKind, Entry, Joining, Membership, NewEntry, NewWelcome};

/// A leaf that comes into a conversation. It must be what the store knows of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLeaf {
    /// Whose.
    pub account: AccountName,
    /// Which.
    pub device: DeviceId,
    /// Ed25519 public key.
    pub signature_key: Bytes,
    /// RSA public key (DER) of the account.
    pub identity_key: Bytes,
    /// The content of its credential.
    pub certificate: Bytes,
}

/// A group to make, with one member.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Chosen by the creating device.
    pub conversation: ConversationId,
    /// The creating device.
    pub creator: NewLeaf,
    /// The public state by which handshakes are checked.
    pub state: Bytes,
    /// MLSMessage of epoch 0.
    pub group_info: Bytes,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// How making a group ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateGroup {
    /// It is there.
    Created(Membership),
    /// This very call was done before.
    Repeated,
    /// The creating device is not what the store knows of it.
    OtherLeaf,
    /// Another conversation has this id.
    Conflict,
}

/// What a handshake is checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeState {
    /// Of what kind the conversation is.
    pub kind: ConversationKind,
    /// Its epoch.
    pub epoch: u64,
    /// Leave proposals of this epoch.
    pub pending: u32,
    /// The log's last seq.
    pub head: u64,
    /// It takes no more entries.
    pub closed: bool,
    /// The conversation that took its place.
    pub closed_by: Option<ConversationId>,
    /// The asking device is a member.
    pub member: bool,
    /// The asking account is one.
    pub account_member: bool,
    /// What the log has under the asked message id.
    pub known: Option<KnownEntry>,
    /// The public state; empty when `known`, or when the asked entry is not for this epoch.
    pub state: Bytes,
    /// MLSMessage of this epoch; empty likewise.
    pub group_info: Bytes,
}

/// What the log has under a message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownEntry {
    /// The very entry.
    Same {
        /// Its place.
        seq: u64,
        /// When it was accepted, Unix milliseconds.
        time_ms: u64,
    },
    /// Another one.
    Other,
}

/// A handshake to append, and the conversation's state after it.
#[derive(Debug, Clone)]
pub struct AppendHandshake {
    /// To which conversation.
    pub conversation: ConversationId,
    /// By which account.
    pub account: AccountName,
    /// By which device.
    pub device: DeviceId,
    /// The message. It is for the epoch that the state was read at.
    pub entry: NewEntry,
    /// The pending proposals that the state was read with.
    pub pending: u32,
    /// The public state after the message.
    pub state: Bytes,
    /// For a commit, what else it changes.
    pub commit: Option<NewCommit>,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// What a commit changes.
#[derive(Debug, Clone, Default)]
pub struct NewCommit {
    /// MLSMessage of the new epoch.
    pub group_info: Bytes,
    /// Of the new epoch; kept while somebody has a Welcome to take.
    pub ratchet_tree: Bytes,
    /// One for each added device.
    pub welcomes: Vec<NewWelcome>,
    /// Leaves that come (the committing device's own among them, if it joins by this commit).
    pub added: Vec<NewLeaf>,
    /// Devices whose leaves go (and do not come again in the same commit).
    pub removed: Vec<DeviceId>,
    /// Accounts that had no leaf and have one now.
    pub joined: Vec<AccountName>,
    /// Accounts that have no leaf any more.
    pub left: Vec<AccountName>,
    /// The committing device joins by this commit.
    pub external: bool,
    /// The committing device's leaf, when it is under another identity than before.
    pub reidentified: Option<NewLeaf>,
    /// The group ends with this commit.
    pub deleted: bool,
}

/// How appending a handshake ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeAppended {
    /// It is in the log.
    Accepted {
        /// Its place.
        seq: u64,
        /// When it was accepted, Unix milliseconds.
        time_ms: u64,
        /// What is new; `None`: it was there before.
        new: Option<Box<NewHandshake>>,
    },
    /// There is no such conversation.
    NotFound,
    /// The device is not a member of it.
    NotAMember,
    /// It takes no more entries.
    Closed {
        /// The conversation that took its place.
        by: Option<ConversationId>,
    },
    /// An account that is added has blocked the committing one; or in a direct conversation, the other one has (then
    /// this names the committing one itself).
    Refused(AccountName),
    /// Another commit was first.
    StaleEpoch {
        /// The conversation's epoch.
        current: u64,
    },
    /// A proposal came between.
    Raced,
    /// The same id with other content.
    Conflict,
    /// A leaf is not what the store knows of its device.
    OtherLeaf(DeviceId),
}

/// What a handshake has brought about, for those who are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHandshake {
    /// As it stands in the log.
    pub entry: Entry,
    /// The committing device's place, when it joined by this commit.
    pub own: Option<Membership>,
    /// For each device that joins.
    pub joinings: Vec<(DeviceId, Joining)>,
    /// Devices that get nothing after this entry.
    pub removed: Vec<DeviceId>,
    /// Accounts that are members from now on.
    pub joined: Vec<AccountName>,
    /// How many accounts are members.
    pub accounts: u32,
    /// The group takes no more entries.
    pub deleted: bool,
}
