//! State that MLS keeps between calls: where it is read from, and the changes that a call makes to it.
//!
//! **Invariant**: nothing is written to the caller's store from here; a [`Trial`] becomes part of a transaction's
//! changes as a whole or not at all.

use std::{cell::RefCell, collections::BTreeMap};

use zeroize::Zeroizing;

/// What a transaction changed: keys with their new values, or `None` for a key to delete. Apply all of it in one atomic
/// transaction. Values may be long (9 KB for two devices, megabytes for big groups). Keys are not secret, but they hold
/// the conversation's id.
pub type Changes = Vec<(Vec<u8>, Option<Zeroizing<Vec<u8>>>)>;

/// The caller's durable state, as of the last applied [`Changes`].
pub trait StateStore {
    /// The value of `key`, if there is one.
    ///
    /// # Errors
    /// The store cannot be read, or the value there is damaged.
    fn read(&self, key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError>;
}

/// The caller's store failed, or what it holds does not decode. Not the fault of any message: try again once it is
/// mended.
#[derive(Debug, thiserror::Error)]
#[error("the key store failed: {0}")]
pub struct StoreError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    /// Wraps the store's own error.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

pub(crate) type Layer = BTreeMap<Vec<u8>, Option<Zeroizing<Vec<u8>>>>;

/// Tells OpenMLS that storage failed; why stays in the [`Trial`], because OpenMLS drops the cause in places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key store failed")]
pub(crate) struct StorageFailed;

impl From<StorageFailed> for StoreError {
    fn from(failed: StorageFailed) -> Self {
        Self::new(failed)
    }
}

/// One call's changes, on top of those of the transaction's earlier calls, on top of the store.
pub(crate) struct Trial<'a> {
    store: &'a dyn StateStore,
    earlier: &'a Layer,
    changed: RefCell<Layer>,
    failure: RefCell<Option<StoreError>>,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(store: &'a dyn StateStore, earlier: &'a Layer) -> Self {
        Self { store, earlier, changed: RefCell::default(), failure: RefCell::default() }
    }

    /// The changes made, or the first failure of the store, whatever became of it since.
    pub(crate) fn finish(self) -> Result<Layer, StoreError> {
        match self.failure.into_inner() {
            Some(failure) => Err(failure),
            None => Ok(self.changed.into_inner()),
        }
    }

    /// Reads the value of `key` and decodes it in place.
    pub(crate) fn read<T>(
        &self,
        key: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StorageFailed> {
        let result = if let Some(value) = self.changed.borrow().get(key).or_else(|| self.earlier.get(key)) {
            value.as_ref().map(|bytes| decode(bytes)).transpose()
        } else {
            self.store.read(key).and_then(|value| value.map(|bytes| decode(&bytes)).transpose())
        };
        result.map_err(|failure| self.note(failure))
    }

    /// Sets (or, with `None`, deletes) the value of `key`.
    pub(crate) fn write(&self, key: Vec<u8>, value: Option<Zeroizing<Vec<u8>>>) {
        self.changed.borrow_mut().insert(key, value);
    }

    /// Keeps the first failure for [`Trial::finish`].
    pub(crate) fn note(&self, failure: StoreError) -> StorageFailed {
        self.failure.borrow_mut().get_or_insert(failure);
        StorageFailed
    }
}
