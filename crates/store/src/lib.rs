//! The FastChat server's storage: what a backend must do (traits), the suite that proves it, and the SQLite backend.
//!
//! One trait per concern ([`Accounts`], [`Devices`], [`KeyPackages`], [`Conversations`], [`Log`], [`Cursors`],
//! [`Blocks`], [`Invites`]); [`Store`] is all of them. A backend passes the `conformance` suite before it is used.
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
    AccountRecord, Append, Appended, Claimed, CreateAccount, CreateDirect, CursorMove, DeviceSession, DeviceState,
    Entry, Invite, InviteHash, Joining, Kdf, Kind, Membership, NewAccount, NewDevice, NewDirect, NewEntry, NewInvite,
    NewWelcome, OtherDevice, Page, PageBounds, RemovedDevice, ReplaceDevice, Replacement, TokenHash,
};
pub use sqlite::SqliteStore;
pub use traits::{Accounts, Blocks, Conversations, Cursors, Devices, Invites, KeyPackages, Log, Outcome, Store};
