//! What can go wrong with a store, sorted by what the server does about it.
//!
//! **Invariant**: an error whose outcome is unknown is [`StoreError::Fatal`], never one that invites going on.

use std::{path::PathBuf, sync::Arc};

/// Why a call to a store failed. Outcomes that are part of the protocol (a stale epoch, a taken name) are not errors:
/// each operation has its own enum for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room left on the disk. Nothing of this call was written; others may go on.
    #[error("the disk is full")]
    StorageFull,
    /// More calls are waiting than the store's queue holds. Nothing was done; try again later.
    #[error("the store has too much to do")]
    Overloaded,
    /// The disk or the database file failed. What was written is unknown: the process must stop and start anew.
    #[error("the store failed and must be reopened: {0}")]
    Fatal(Arc<str>),
    /// This call failed and was rolled back; the store goes on.
    #[error("the store could not do this: {0}")]
    Internal(Arc<str>),
    /// The store was shut down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// An error that concerns one call alone.
    #[must_use]
    pub fn internal(text: impl std::fmt::Display) -> Self {
        Self::Internal(text.to_string().into())
    }
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made, read or written.
    #[error("{path}: {cause}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Another server works on this directory.
    #[error("{0} is in use by another server: stop that one, or choose another data directory")]
    InUse(PathBuf),
    /// A newer version of the program wrote it.
    #[error("{path} has schema {found}, this version knows up to {known}: install the newer fastchat-server again")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest that this build knows.
        known: u32,
    },
    /// There is no database yet.
    #[error("{0} does not exist: start `fastchat-server run` with this data directory first")]
    Missing(PathBuf),
    /// The database library says no.
    #[error("{path}: {cause}")]
    Database {
        /// The database.
        path: PathBuf,
        /// What the library says.
        cause: rusqlite::Error,
    },
}
