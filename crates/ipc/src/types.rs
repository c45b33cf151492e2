//! What the methods take and give.
//!
//! Times are milliseconds of Unix time. An account is named `alice@host:port`; a contact by its name on the account's
//! server, or by the alias that was set for it; a chat by its id, its contact's name or alias.
//!
//! **Invariant**: parameters with an unknown field are refused, results may grow fields.

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

/// No parameters, or nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

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

/// The daemon at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Whether the store is locked.
    pub locked: bool,
    /// What protects the store; `auto` while it is not made yet.
    pub key_store: KeyStore,
    /// Whether the session bus is connected and the name is ours.
    pub bus: bool,
    /// The cursor of the newest event.
    pub cursor: String,
    /// All accounts; the first is the default one.
    pub accounts: Vec<Account>,
}

/// Result of one check of [`Doctor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but could be better.
    Warning,
    /// Does not work.
    Failed,
}

/// One check of [`Doctor`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing has to be done.
    pub next: String,
}

/// What could be wrong, and how to mend it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Doctor {
    /// Every check, in the order in which they build on each other.
    pub checks: Vec<Check>,
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
    /// On the recipient's device.
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
    /// Names, aliases or chat ids; at most 64.
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
    /// The contact of a direct chat.
    pub contact: String,
    /// Messages not read yet.
    pub unread: u64,
    /// Whether its notifications are off.
    pub muted: bool,
    /// Whether it is a request of somebody who is not a contact yet.
    pub request: bool,
    /// Whether sending is held because the contact's key changed.
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

/// How much a notification shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preview {
    /// Sender and text.
    #[default]
    Full,
    /// The sender alone.
    Sender,
    /// That something has come.
    None,
}

/// Result of `notify.status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotifyStatus {
    /// `service` (a notification service with its name), `basic`, or `none`.
    pub backend: String,
    /// The notification service's name and version; empty when there is none.
    pub server: String,
    /// What the service advertises.
    pub capabilities: Vec<String>,
    /// `inline`, `command` or `none`: how Reply works.
    pub reply: String,
    /// How much is shown.
    pub preview: Preview,
    /// Whether do-not-disturb is on.
    pub dnd: bool,
    /// When it ends; 0 for never.
    pub dnd_until_ms: u64,
    /// Muted chats, `account chat-title`.
    pub muted: Vec<String>,
}

/// Parameters of `notify.dnd`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoNotDisturb {
    /// On or off.
    pub on: bool,
    /// For how long, milliseconds; 0 until it is turned off.
    #[serde(default)]
    pub for_ms: u64,
}

/// Parameters of `notify.preview`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPreview {
    /// How much to show.
    pub preview: Preview,
}

/// Parameters of `events.read`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadEvents {
    /// After this cursor; empty for the oldest kept.
    #[serde(default)]
    pub since: String,
    /// How many at most, 1 to 1000; 0 for the default (100).
    #[serde(default)]
    pub limit: u32,
    /// How long to wait for the first one, milliseconds, 60000 at most.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Result of `events.read`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// In order.
    pub events: Vec<crate::Event>,
    /// Read on from here.
    pub cursor: String,
}

/// Parameters of `events.subscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// First what came after this cursor; empty for from now on. `0` is the oldest kept.
    #[serde(default)]
    pub since: String,
}

/// Result of `events.subscribe`: events follow as `event` notifications on the same connection (as `Event` signals on
/// D-Bus, where what came before `cursor` is read with `ReadEvents`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscribed {
    /// Where the subscription begins.
    pub cursor: String,
}

/// A method, as `rpc.discover` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MethodInfo {
    /// Its JSON-RPC name.
    pub name: String,
    /// Its D-Bus interface (after `org.fastchat.FastChat1.`) and member, `Account.Send`.
    pub dbus: String,
    /// What it does.
    pub summary: String,
}

/// Result of `rpc.discover`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Discovery {
    /// Version of the daemon.
    pub version: String,
    /// All methods.
    pub methods: Vec<MethodInfo>,
}
