//! The root key in `root.key`, readable by its user alone: for machines where nobody is there to unlock anything.
//!
//! **Invariant**: a key file that exists is never overwritten or removed.

use std::path::Path;

use fastchat_ipc::{ApiError, ErrorCode};

use super::{RootKey, record};

const NAME: &str = "root.key";

/// Reads the key; `None` when there is no such file.
pub(super) fn read(data: &Path) -> Result<Option<RootKey>, ApiError> {
    let path = data.join(NAME);
    let Some(bytes) = record::read_private(&path)? else { return Ok(None) };
    RootKey::from_bytes(&bytes).map(Some).ok_or_else(|| {
        ApiError::new(ErrorCode::Internal, format!("{} is damaged: it does not have 32 bytes", path.display()))
            .hint("put it back from a backup: without it the store cannot be opened")
    })
}

/// Makes the key. One that lies there already (made, but not recorded before a crash) is taken over.
pub(super) fn create(data: &Path) -> Result<RootKey, ApiError> {
    if let Some(key) = read(data)? {
        return Ok(key);
    }
    let key = RootKey::generate();
    record::write_private(&data.join(NAME), key.as_bytes())?;
    Ok(key)
}

/// The record says that the key is in a file, but there is none.
pub(super) fn missing(data: &Path) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("{} is gone", data.join(NAME).display()))
        .hint("put it back from a backup: without it the store cannot be opened")
}
