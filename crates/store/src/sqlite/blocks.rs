//! Blocks in SQLite.
//!
//! **Invariant**: a block is one-sided: it says who does not want to hear from whom.

use fastchat_wire::AccountName;
use rusqlite::{Connection, Result};

use super::{SqliteStore, accounts, columns};
use crate::{Blocks, Outcome};

impl Blocks for SqliteStore {
    fn set_blocked(&self, owner: AccountName, other: AccountName, blocked: bool) -> impl Outcome<bool> {
        self.write(move |connection| {
            if accounts::identity_key(connection, &other)?.is_none() {
                return Ok(false);
            }
            let sql = if blocked {
                "INSERT OR IGNORE INTO block VALUES (?1, ?2)"
            } else {
                "DELETE FROM block WHERE owner = ?1 AND blocked = ?2"
            };
            columns::execute(connection, sql, [owner.as_str(), other.as_str()])?;
            Ok(true)
        })
    }
}

/// Whether `owner` has blocked `other`.
pub(super) fn is_blocked(connection: &Connection, owner: &str, other: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM block WHERE owner = ?1 AND blocked = ?2";
    Ok(columns::first(connection, sql, [owner, other], |_| Ok(()))?.is_some())
}
