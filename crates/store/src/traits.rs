//! What a backend does, one trait per concern. The `conformance` suite says the same in code.
//!
//! **Invariant**: writing calls take effect in the order in which the methods were *called* (the call queues the
//! work; the returned future only waits for its outcome), and never block the caller: a full queue is
//! [`StoreError::Overloaded`].

use std::future::Future;

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId};

use crate::{
    AccountRecord, AddDevice, Append, AppendHandshake, Appended, ChangePassword, Claim, Claimed, CreateAccount,
    CreateDirect, CreateGroup, CursorMove, DeviceAdded, DeviceChange, DeviceRecord, DeviceSession, DeviceState,
    GrantHash, HandshakeAppended, HandshakeState, Invite, InviteHash, LinkMailbox, LinkPosted, NewAccount, NewDevice,
    NewDirect, NewEntry, NewGroup, NewInvite, Page, PageBounds, Published, RotateIdentity, StoreError, TokenHash,
};

/// The outcome of a call, to be awaited.
pub trait Outcome<T>: Future<Output = Result<T, StoreError>> + Send + 'static {}
impl<T, F: Future<Output = Result<T, StoreError>> + Send + 'static> Outcome<T> for F {}

/// Accounts and the server's own secrets.
pub trait Accounts {
    /// Makes an account with its first device; uses up one use of `invite` if there is one. All or nothing.
    fn create_account(
        &self,
        account: NewAccount,
        device: NewDevice,
        invite: Option<InviteHash>,
        now_ms: u64,
    ) -> impl Outcome<CreateAccount>;

    /// What is known of an account.
    fn account(&self, name: AccountName) -> impl Outcome<Option<AccountRecord>>;

    /// The account's identity key.
    fn identity_key(&self, name: AccountName) -> impl Outcome<Option<Bytes>>;

    /// Replaces the password. `None`: there is no such account, or `only_device` is not its device.
    fn change_password(&self, change: ChangePassword) -> impl Outcome<Option<DeviceChange>>;

    /// Replaces the identity. `None`: there is no such account, or `device` is not its device.
    fn rotate_identity(&self, rotation: RotateIdentity) -> impl Outcome<Option<DeviceChange>>;

    /// A secret of the server by its name: `fresh` becomes it when there is none yet.
    fn server_secret(&self, name: &'static str, fresh: [u8; 32]) -> impl Outcome<[u8; 32]>;
}

/// Devices and their session tokens.
pub trait Devices {
    /// A device comes. If others go by it, the account's direct conversations take no further entries until they are
    /// replaced; otherwise that happens at once only to that of its own devices, and to the others when the new device
    /// can be written to ([`publish_key_packages`](KeyPackages::publish_key_packages)).
    fn add_device(&self, login: AddDevice) -> impl Outcome<DeviceAdded>;

    /// The account's devices, the oldest first.
    fn devices(&self, account: AccountName) -> impl Outcome<Vec<DeviceRecord>>;

    /// `false`: the account has no such device.
    fn rename_device(&self, account: AccountName, device: DeviceId, name: String) -> impl Outcome<bool>;

    /// Notes when a device was connected.
    fn note_seen(&self, device: DeviceId, seen_ms: u64) -> impl Outcome<()>;

    /// Whose token this is; `None` when it is unknown or has ended.
    fn device_by_token(&self, token: TokenHash, now_ms: u64) -> impl Outcome<Option<DeviceSession>>;

    /// One more token for the device; the older ones stay good until they end. `false`: there is no such device.
    fn add_token(&self, device: DeviceId, token: TokenHash, expires_ms: u64, now_ms: u64) -> impl Outcome<bool>;

    /// The device goes, with token, key packages, cursors and joinings. The account's direct conversations take no
    /// further entries until they are replaced. `None`: the account has no such device.
    fn remove_device(&self, account: AccountName, device: DeviceId) -> impl Outcome<Option<DeviceChange>>;
}

/// Key packages, by which somebody is added to a group while offline.
pub trait KeyPackages {
    /// Adds one-time packages (the oldest go when there are more than `keep`) and, if given, replaces the last-resort
    /// one. If the device could not be written to before, the account's direct conversations that it is no member of
    /// take no further entries until they are replaced. `None`: there is no such device.
    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
        keep: u32,
        now_ms: u64,
    ) -> impl Outcome<Option<Published>>;

    /// Takes the oldest one-time package of each of the account's devices that can be written to while there are more
    /// than the reserve, or reads its last-resort one. `None`: there is no such account.
    fn claim_key_packages(&self, claim: Claim) -> impl Outcome<Option<Claimed>>;

    /// Whether the two have a conversation, or had a direct one.
    fn are_acquainted(&self, one: AccountName, other: AccountName) -> impl Outcome<bool>;
}

/// Conversations and who is in them.
pub trait Conversations {
    /// Makes the one direct conversation of a pair, or names the one that is there.
    fn create_direct(&self, direct: NewDirect) -> impl Outcome<CreateDirect>;

    /// Makes a group with one member.
    fn create_group(&self, group: NewGroup) -> impl Outcome<CreateGroup>;

    /// All that a session of the device needs to begin, with at most `joinings` joinings. `None`: no such device.
    fn device_state(&self, device: DeviceId, joinings: u32) -> impl Outcome<Option<DeviceState>>;
}

/// Commits and proposals.
pub trait Handshakes {
    /// What [`handshake_state`](Handshakes::handshake_state) answers, but for the public state and the GroupInfo, which
    /// are large: enough to refuse most of what is refused.
    fn handshake_head(
        &self,
        conversation: ConversationId,
        account: AccountName,
        device: DeviceId,
        entry: NewEntry,
    ) -> impl Outcome<Option<HandshakeState>>;

    /// What a handshake of the device is checked with (`entry`: which one), or what it joins with. `None`: there is
    /// no such conversation.
    fn handshake_state(
        &self,
        conversation: ConversationId,
        account: AccountName,
        device: DeviceId,
        entry: Option<NewEntry>,
    ) -> impl Outcome<Option<HandshakeState>>;

    /// Appends a handshake and takes over the state after it, if nothing came between; durable when this answers.
    fn append_handshake(&self, append: AppendHandshake) -> impl Outcome<HandshakeAppended>;
}

/// The logs.
pub trait Log {
    /// Appends entries, durable when this answers.
    fn append(&self, append: Append) -> impl Outcome<Appended>;

    /// Entries after `after` for a device. The page is empty when it is no member.
    fn read_after(
        &self,
        conversation: ConversationId,
        device: DeviceId,
        after: u64,
        bounds: PageBounds,
    ) -> impl Outcome<Page>;

    /// Removes entries older than `before_ms`, at most `limit` of them, and conversations that are over and have no
    /// members any more (those that were replaced: not before that is older). Answers how many entries: fewer than
    /// `limit` means that there are no more.
    fn expire(&self, before_ms: u64, limit: u32) -> impl Outcome<u32>;
}

/// How far each device has come.
pub trait Cursors {
    /// Moves cursors forward (never back) and trims what every member device has.
    fn save_cursors(&self, moves: Vec<CursorMove>) -> impl Outcome<()>;
}

/// Who does not want to hear from whom.
pub trait Blocks {
    /// `owner` blocks `other`, or no longer. `false`: there is no such account.
    fn set_blocked(&self, owner: AccountName, other: AccountName, blocked: bool) -> impl Outcome<bool>;
}

/// How a new device meets one that is logged in.
pub trait Links {
    /// Makes a mailbox with its first message. `false`: there are as many as there may be (those whose time is over
    /// do not count).
    fn open_link(&self, link: [u8; 16], message: Bytes, expires_ms: u64, most: u32, now_ms: u64) -> impl Outcome<bool>;

    /// Puts a message in, if its side has no more than `most` there.
    fn post_link(
        &self,
        link: [u8; 16],
        from_new_device: bool,
        message: Bytes,
        most: u32,
        now_ms: u64,
    ) -> impl Outcome<LinkPosted>;

    /// The messages of the other side after the first `after`. `None`: unknown, or its time is over.
    fn link_messages(
        &self,
        link: [u8; 16],
        to_new_device: bool,
        after: u32,
        now_ms: u64,
    ) -> impl Outcome<Option<LinkMailbox>>;

    /// Lets one new device of the account log in until then. An older one that was not used is worth nothing more.
    fn grant_login(&self, account: AccountName, grant: GrantHash, expires_ms: u64) -> impl Outcome<()>;
}

/// Invites, for servers where not everybody may register.
pub trait Invites {
    /// Makes one.
    fn create_invite(&self, invite: NewInvite) -> impl Outcome<()>;

    /// Those that are still good.
    fn invites(&self, now_ms: u64) -> impl Outcome<Vec<Invite>>;

    /// Ends the one whose id begins with `id`. `false`: none or several do.
    fn revoke_invite(&self, id: String) -> impl Outcome<bool>;
}

/// All of it.
pub trait Store:
    Accounts
    + Devices
    + KeyPackages
    + Conversations
    + Handshakes
    + Log
    + Cursors
    + Blocks
    + Links
    + Invites
    + Clone
    + Send
    + Sync
    + 'static
{
    /// Waits until the store has failed for good, and says why: the process must then stop.
    fn failed(&self) -> impl Future<Output = String> + Send + 'static;

    /// Finishes what is queued and closes. Calls after this answer [`StoreError::Closed`].
    fn shut_down(&self) -> impl Outcome<()>;
}
