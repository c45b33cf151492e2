//! FastChat's end-to-end encryption: account identities, certified devices, friend keys, conversations.
//!
//! RFC 9420 (MLS) through OpenMLS with the hybrid post-quantum suite `0x004E` (X-Wing, AES-256-GCM, SHA-384, Ed25519).
//! OpenMLS never looks inside a credential: every leaf is verified here, against an identity that the caller knows.
//! The crate does no I/O. It reads state through [`StateStore`] and hands back [`Changes`], which the caller applies in
//! one atomic transaction together with what belongs to them (message row, cursor, outbox row).
//!
//! **Invariant**: a [`Transaction`] method that fails has changed nothing, and nothing is shown as somebody's message
//! unless a device that their account identity certified has signed it for this conversation and this message id.

mod archive;
mod certificate;
mod commit;
mod content;
mod create;
mod device;
mod encoding;
mod identity;
mod join;
mod key_package;
mod linking;
mod message;
mod mls;
mod password;
mod process;
mod rejoin;
mod safety;
mod shared_key;
mod state;
mod storage;
pub mod sync;
#[cfg(test)]
mod tests;
mod transaction;
mod welcome;

pub use archive::{
    ARCHIVE_HEADER_BYTES, ARCHIVE_SEGMENT_BYTES, ArchiveError, ArchiveKey, ArchiveOpener, ArchiveSealer,
    MAX_RECORD_BYTES,
};
pub use certificate::CertificateError;
pub use commit::{Change, CommitError, MergeError, Prepared};
pub use content::{Body, Content, ContentError, MAX_TEXT_BYTES, Text};
pub use create::{CreateError, Created, PeerPackages};
pub use device::{Device, DeviceError};
pub use fastchat_mls::{Actor, Effect, GroupProfile, Leaf, Leaving, ProfileError, Refusal, Roster};
pub use identity::{Fingerprint, Identity, IdentityError, IdentityKey};
pub use join::{Join, JoinError};
pub use key_package::{KEY_PACKAGE_LIFETIME, KeyPackageError};
pub use linking::{
    Agreed, HalfAgreed, KnownDevice, LinkError, LinkPackage, MAX_LINK_MESSAGE_BYTES, NewDevice, Offered, Ready,
    Revealed, is_link_done, link_abort, link_done,
};
pub use message::{MAX_PAYLOAD_BYTES, OpenError, Opened, SealError, Sealed};
pub use password::{BackupError, BackupKey, KdfParams, PasswordError, PasswordKeys};
pub use process::{Applied, ProcessError, Processed};
pub use safety::safety_number;
pub use shared_key::SharedKeyError;
pub use state::{Changes, StateStore, StoreError};
pub use sync::Sync;
pub use transaction::Transaction;
pub use welcome::WelcomeFor;
