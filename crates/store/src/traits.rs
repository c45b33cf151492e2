//! What a backend does, one trait per concern. The `conformance` suite says the same in code.
//!
//! **Invariant**: writing calls take effect in the order in which the methods were *called* (the call queues the
//! work; the returned future only waits for its outcome), and never block the caller: a full queue is
//! [`StoreError::Overloaded`].

use std::future::Future;

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId};

use crate::{
    AccountRecord, Append, Appended, Claimed, CreateAccount, CreateDirect, CursorMove, DeviceSession, DeviceState,
    Invite, InviteHash, NewAccount, NewDevice, NewDirect, NewInvite, Page, PageBounds, RemovedDevice, ReplaceDevice,
    Replacement, StoreError, TokenHash,
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

    /// A secret of the server by its name: `fresh` becomes it when there is none yet.
    fn server_secret(&self, name: &'static str, fresh: [u8; 32]) -> impl Outcome<[u8; 32]>;
}

/// Devices and their session tokens.
pub trait Devices {
    /// The account's devices go (with tokens, key packages, cursors and joinings), the new one comes. Conversations
    /// of the old ones take no further entries until they are replaced.
    fn replace_device(&self, login: ReplaceDevice) -> impl Outcome<Replacement>;

    /// Whose token this is; `None` when it is unknown or has ended.
    fn device_by_token(&self, token: TokenHash, now_ms: u64) -> impl Outcome<Option<DeviceSession>>;

    /// One more token for the device; the older ones stay good until they end. `false`: there is no such device.
    fn add_token(&self, device: DeviceId, token: TokenHash, expires_ms: u64, now_ms: u64) -> impl Outcome<bool>;

    /// The device goes, as in [`Devices::replace_device`].
    fn remove_device(&self, device: DeviceId) -> impl Outcome<Option<RemovedDevice>>;
}

/// Key packages, by which somebody is added to a group while offline.
pub trait KeyPackages {
    /// Adds one-time packages (the oldest go when there are more than `keep`) and, if given, replaces the last-resort
    /// one. Answers how many one-time packages there are; `None`: there is no such device.
    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
        keep: u32,
    ) -> impl Outcome<Option<u32>>;

    /// Takes the oldest one-time package of each of the account's devices, or reads its last-resort one. `None`:
    /// there is no such account.
    fn claim_key_packages(&self, account: AccountName) -> impl Outcome<Option<Claimed>>;
}

/// Conversations and who is in them.
pub trait Conversations {
    /// Makes the one direct conversation of a pair, or names the one that is there.
    fn create_direct(&self, direct: NewDirect) -> impl Outcome<CreateDirect>;

    /// All that a session of the device needs to begin, with at most `joinings` joinings. `None`: no such device.
    fn device_state(&self, device: DeviceId, joinings: u32) -> impl Outcome<Option<DeviceState>>;
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

    /// Removes entries older than `before_ms`, at most `limit` of them. Answers how many: fewer than `limit` means
    /// that there are no more.
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
    Accounts + Devices + KeyPackages + Conversations + Log + Cursors + Blocks + Invites + Clone + Send + Sync + 'static
{
    /// Waits until the store has failed for good, and says why: the process must then stop.
    fn failed(&self) -> impl Future<Output = String> + Send + 'static;

    /// Finishes what is queued and closes. Calls after this answer [`StoreError::Closed`].
    fn shut_down(&self) -> impl Outcome<()>;
}
