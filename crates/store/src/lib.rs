//! The FastChat server's storage: what a backend must do (traits), the suite that proves it, and the SQLite backend.
//!
//! One trait per concern ([`Accounts`], [`Devices`], [`KeyPackages`], [`Conversations`], [`Handshakes`], [`Log`],
//! [`Cursors`], [`Blocks`], [`Links`], [`Invites`]); [`Store`] is all of them. A backend passes the `conformance` suite
//! before it is used.
//!
//! **Invariant**: when a writing call answers `Ok`, what it did survives a power cut.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod records;
pub mod sqlite;
mod traits;

pub use error::{OpenError, StoreError};
pub use records::{
    AccountRecord, AddDevice, Append, AppendHandshake, Appended, ChangePassword, Claim, Claimed, ConversationKind,
    CreateAccount, CreateDirect, CreateGroup, CursorMove, DeviceAdded, DeviceChange, DeviceRecord, DeviceSession,
    DeviceState, Entry, GrantHash, HandshakeAppended, HandshakeState, Invite, InviteHash, JOININGS_OF_ONE, Joining,
    Kdf, Kind, KnownEntry, LinkMailbox, LinkPosted, Membership, NewAccount, NewCommit, NewDevice, NewDirect, NewEntry,
    NewGroup, NewHandshake, NewInvite, NewLeaf, NewWelcome, OFFER_LIFE_MS, OtherDevice, Page, PageBounds, Published,
    RotateIdentity, SETTING_UP_MS, TELLING_ACCOUNTS, TokenHash,
};
pub use sqlite::SqliteStore;
pub use traits::{
    Accounts, Blocks, Conversations, Cursors, Devices, Handshakes, Invites, KeyPackages, Links, Log, Outcome, Store,
};
