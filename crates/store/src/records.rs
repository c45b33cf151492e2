//! What goes into a store and what comes out: plain data with typed ids.
//!
//! **Invariant**: nothing here opens a message or logs in: payloads are ciphertext; of tokens, grants and
//! invites there are only hashes.

mod devices;
mod handshakes;

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId};

pub use self::{
    devices::{
        AddDevice, ChangePassword, Claim, Claimed, DeviceAdded, DeviceChange, DeviceRecord, DeviceSession, GrantHash,
        LinkMailbox, LinkPosted, NewDevice, OFFER_LIFE_MS, Published, RotateIdentity, SETTING_UP_MS, TokenHash,
    },
    handshakes::{
        AppendHandshake, CreateGroup, HandshakeAppended, HandshakeState, KnownEntry, NewCommit, NewGroup, NewHandshake,
        NewLeaf,
    },
};

/// SHA-256 of an invite.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InviteHash(pub [u8; 32]);

/// How a device turns the password into its auth secret (Argon2id).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kdf {
    /// 16 bytes.
    pub salt: Bytes,
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

/// An account to make.
#[derive(Clone)]
pub struct NewAccount {
    /// Its name, unique on the server.
    pub name: AccountName,
    /// For the next device's login.
    pub kdf: Kdf,
    /// bcrypt of the auth secret.
    pub auth_hash: String,
    /// RSA public key (DER).
    pub identity_key: Bytes,
    /// The identity, sealed by the device.
    pub identity_backup: Bytes,
}

/// How [`Accounts::create_account`](crate::Accounts::create_account) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateAccount {
    /// It is there, and its device.
    Created,
    /// The name is somebody's.
    NameTaken,
    /// The device id is somebody's.
    DeviceTaken,
    /// The invite is unknown, used up or expired.
    InviteRefused,
}

/// What the server knows of an account.
#[derive(Clone)]
pub struct AccountRecord {
    /// Its name.
    pub name: AccountName,
    /// How to turn its password into the auth secret.
    pub kdf: Kdf,
    /// bcrypt of the auth secret.
    pub auth_hash: String,
    /// RSA public key (DER).
    pub identity_key: Bytes,
    /// Opaque.
    pub identity_backup: Bytes,
}

/// The MLS Welcome for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWelcome {
    /// For whom.
    pub device: DeviceId,
    /// MLSMessage with this device's secrets alone, without the tree.
    pub welcome: Bytes,
    /// The friend key or join key; opaque.
    pub join_key: Bytes,
}

/// What kind of conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversationKind {
    /// Of two accounts, or of one with itself.
    Direct,
    /// Of any number.
    Group,
}

/// A direct conversation to make.
#[derive(Debug, Clone)]
pub struct NewDirect {
    /// Chosen by the creating device.
    pub conversation: ConversationId,
    /// Who makes it.
    pub creator: AccountName,
    /// With which device.
    pub device: DeviceId,
    /// With whom; the creator himself for what his devices tell each other.
    pub peer: AccountName,
    /// Of the group after its first commit.
    pub epoch: u64,
    /// The group's leaves: exactly the devices of the two accounts that can be written to, and the creating one.
    pub leaves: Vec<NewLeaf>,
    /// Exactly one for each of these but the creating one.
    pub welcomes: Vec<NewWelcome>,
    /// The public state by which handshakes are checked.
    pub state: Bytes,
    /// MLSMessage of `epoch`.
    pub group_info: Bytes,
    /// The ratchet tree that the welcomes belong to.
    pub ratchet_tree: Bytes,
    /// The conversation to close in favour of this one.
    pub replaces: Option<ConversationId>,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// How making a direct conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateDirect {
    /// It is there.
    Created {
        /// For each device that joins.
        joinings: Vec<(DeviceId, Joining)>,
        /// The creating device's membership.
        membership: Membership,
        /// The conversation that was closed in its favour.
        closed: Option<ConversationId>,
    },
    /// This very call was done before.
    Repeated,
    /// The pair has one already.
    Exists {
        /// Which.
        conversation: ConversationId,
        /// Whether the asking device is a member of it and it still takes entries.
        member: bool,
    },
    /// There is no such peer.
    NoPeer,
    /// The asking device is not one of its account's devices (any more).
    NoDevice,
    /// The peer has blocked the creator.
    Refused,
    /// The welcomes are not exactly one for each other device of the two accounts.
    OtherDevices,
    /// A leaf is not what the server knows of its device.
    OtherLeaf(DeviceId),
    /// Another conversation has this id.
    Conflict,
}

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An MLS PrivateMessage.
    Application,
    /// An MLS PublicMessage with a commit.
    Commit,
    /// An MLS PublicMessage by which a member leaves.
    Proposal,
}

/// An entry to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Chosen by the device.
    pub message_id: MessageId,
    /// The sender's epoch.
    pub epoch: u64,
    /// What it carries.
    pub kind: Kind,
    /// Ciphertext.
    pub payload: Bytes,
}

/// Entries to append: all of them, in this order, or none.
#[derive(Debug, Clone)]
pub struct Append {
    /// To which conversation.
    pub conversation: ConversationId,
    /// By which account.
    pub account: AccountName,
    /// By which device.
    pub device: DeviceId,
    /// What.
    pub entries: Vec<NewEntry>,
    /// Unix milliseconds; the time that the entries get.
    pub now_ms: u64,
}

/// How an append ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// All entries are in the log.
    Accepted {
        /// One for each entry, in order.
        seqs: Vec<u64>,
        /// The time of the last of them.
        time_ms: u64,
        /// Those of them that were not there before, ready to deliver.
        new: Vec<Entry>,
    },
    /// There is no such conversation.
    NotFound,
    /// The device is not a member of it.
    NotAMember,
    /// It takes no more entries: replaced `by` another; or (`None`) the devices of a direct conversation's members
    /// are others by now, or the group was deleted.
    Closed {
        /// The conversation that took its place.
        by: Option<ConversationId>,
    },
    /// The other member has blocked the sender.
    Refused,
    /// Written for another epoch than the conversation's.
    StaleEpoch {
        /// The conversation's.
        current: u64,
    },
    /// The same id with other content.
    Conflict(MessageId),
    /// A commit or proposal: these come by [`Handshakes::append_handshake`](crate::Handshakes::append_handshake).
    HandshakeRefused,
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place: dense, from 1.
    pub seq: u64,
    /// Chosen by the sending device.
    pub message_id: MessageId,
    /// The sending account.
    pub account: AccountName,
    /// The sending device.
    pub device: DeviceId,
    /// The log's epoch at this place.
    pub epoch: u64,
    /// What it carries.
    pub kind: Kind,
    /// Ciphertext; empty when read by the device that sent it.
    pub payload: Bytes,
    /// When it was accepted, Unix milliseconds.
    pub time_ms: u64,
}

/// How much to read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageBounds {
    /// At most so many entries.
    pub entries: u32,
    /// At most so many payload bytes, but always one entry.
    pub bytes: usize,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// In order, dense from `max(after, expired_through) + 1` on.
    pub entries: Vec<Entry>,
    /// The log's last seq.
    pub head: u64,
    /// Entries up to here were removed before this reader came for them; 0: none that it lacks.
    pub expired_through: u64,
}

/// How far a device has come in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorMove {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Which device.
    pub device: DeviceId,
    /// Everything up to here is durable there.
    pub seq: u64,
    /// It has taken its Joining (whose start is no later than `seq`).
    pub joined: bool,
}

/// A device of another member of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherDevice {
    /// Whose.
    pub account: AccountName,
    /// Which.
    pub device: DeviceId,
    /// How far it has come.
    pub cursor: u64,
}

/// A conversation as one of its devices sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Which.
    pub conversation: ConversationId,
    /// How far the device has come.
    pub cursor: u64,
    /// The log's last seq.
    pub head: u64,
    /// The log's epoch: the device is a member of it, unless `ends_at` says otherwise.
    pub epoch: u64,
    /// It takes no more entries.
    pub closed: bool,
    /// The conversation that took its place.
    pub closed_by: Option<ConversationId>,
    /// The last seq that the device gets: that of the commit by which it was removed.
    pub ends_at: Option<u64>,
    /// The other members' devices; none where there are more than [`TELLING_ACCOUNTS`] accounts.
    pub others: Vec<OtherDevice>,
    /// How many accounts are members.
    pub accounts: u32,
}

/// Where more accounts than these are members, nobody is told how far the others have come.
pub const TELLING_ACCOUNTS: u32 = 50;

/// A device gets at most so many joinings of one creator before it has taken some of them: there may be a reason why it
/// takes none of his, and others' must not wait for that.
pub const JOININGS_OF_ONE: u32 = 8;

/// A conversation that a device was added to and has not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// The account that made the Welcome.
    pub creator: AccountName,
    /// Its identity key at that time.
    pub creator_identity_key: Bytes,
    /// With whom it made a direct conversation: the creator itself for one with its own devices; `None` for a group.
    pub peer: Option<AccountName>,
    /// MLSMessage.
    pub welcome: Bytes,
    /// The friend key or join key; opaque.
    pub join_key: Bytes,
    /// The ratchet tree that the Welcome belongs to.
    pub ratchet_tree: Bytes,
    /// A group rather than a direct conversation.
    pub group: bool,
    /// The seq of the commit that added the device; 0 for a direct conversation.
    pub start_seq: u64,
    /// The conversation that was closed in favour of this one.
    pub replaces: Option<ConversationId>,
    /// When it was made, Unix milliseconds.
    pub time_ms: u64,
    /// The device's place in it.
    pub membership: Membership,
}

/// All that a session needs to begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceState {
    /// The conversations whose Joining was taken.
    pub memberships: Vec<Membership>,
    /// The oldest of the others: a bounded number, and at most [`JOININGS_OF_ONE`] of each creator.
    pub joinings: Vec<Joining>,
    /// There are more joinings than these, leaving those of [`waiting`](Self::waiting) aside.
    pub more_joinings: bool,
    /// Creators of more than [`JOININGS_OF_ONE`].
    pub waiting: Vec<AccountName>,
    /// Groups that the account is in, under the identity that it has now, and this device is no member of.
    pub unjoined: Vec<ConversationId>,
}

/// An invite to make.
#[derive(Clone)]
pub struct NewInvite {
    /// Of the invite's text.
    pub hash: InviteHash,
    /// How many accounts it makes.
    pub uses: u32,
    /// Unix milliseconds.
    pub expires_ms: u64,
    /// For the operator.
    pub note: String,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// An invite as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The first eight hex digits of its hash.
    pub id: String,
    /// How many accounts it still makes.
    pub uses_left: u32,
    /// Unix milliseconds.
    pub expires_ms: u64,
    /// For the operator.
    pub note: String,
    /// Unix milliseconds.
    pub created_ms: u64,
}
