//! Links between a new device and one that is logged in, in SQLite.
//!
//! **Invariant**: a mailbox and a grant are worth nothing after their time, used or not.

use bytes::Bytes;
use fastchat_wire::AccountName;
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, columns};
use crate::{GrantHash, LinkMailbox, LinkPosted, Links, Outcome};

impl Links for SqliteStore {
    fn open_link(&self, link: [u8; 16], message: Bytes, expires_ms: u64, most: u32, now_ms: u64) -> impl Outcome<bool> {
        self.write(move |connection| {
            columns::execute(connection, "DELETE FROM link WHERE expires_ms <= ?1", [now_ms])?;
            let count: Option<u32> = columns::first(connection, "SELECT count(*) FROM link", [], |row| row.get(0))?;
            if count.is_none_or(|count| count >= most) {
                return Ok(false);
            }
            columns::execute(connection, "INSERT INTO link VALUES (?1, ?2)", params![link, expires_ms])?;
            insert(connection, link, true, 1, &message)?;
            Ok(true)
        })
    }

    fn post_link(
        &self,
        link: [u8; 16],
        from_new_device: bool,
        message: Bytes,
        most: u32,
        now_ms: u64,
    ) -> impl Outcome<LinkPosted> {
        self.write(move |connection| {
            if expiry(connection, link, now_ms)?.is_none() {
                return Ok(LinkPosted::NotFound);
            }
            let sql = "SELECT count(*) FROM link_message WHERE link = ?1 AND from_new_device = ?2";
            let count: u32 =
                columns::first(connection, sql, params![link, from_new_device], |row| row.get(0))?.unwrap_or_default();
            if count >= most {
                return Ok(LinkPosted::Full);
            }
            insert(connection, link, from_new_device, count + 1, &message)?;
            Ok(LinkPosted::Done)
        })
    }

    fn link_messages(
        &self,
        link: [u8; 16],
        to_new_device: bool,
        after: u32,
        now_ms: u64,
    ) -> impl Outcome<Option<LinkMailbox>> {
        self.read(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            let Some(expires_ms) = expiry(&transaction, link, now_ms)? else { return Ok(None) };
            let sql = "SELECT body FROM link_message WHERE link = ?1 AND from_new_device = ?2 AND number > ?3
                       ORDER BY number";
            let values = params![link, !to_new_device, after];
            let messages = columns::all(&transaction, sql, values, |row| columns::bytes(row, 0))?;
            Ok(Some(LinkMailbox { messages, expires_ms }))
        })
    }

    fn grant_login(&self, account: AccountName, grant: GrantHash, expires_ms: u64) -> impl Outcome<()> {
        self.write(move |connection| {
            let sql = "INSERT INTO login_grant VALUES (?1, ?2, ?3)
                       ON CONFLICT (account) DO UPDATE SET hash = excluded.hash, expires_ms = excluded.expires_ms";
            columns::execute(connection, sql, params![account.as_str(), grant.0, expires_ms]).map(drop)
        })
    }
}

fn expiry(connection: &Connection, link: [u8; 16], now_ms: u64) -> Result<Option<u64>> {
    let sql = "SELECT expires_ms FROM link WHERE id = ?1 AND expires_ms > ?2";
    columns::first(connection, sql, params![link, now_ms], |row| row.get(0))
}

fn insert(connection: &Connection, link: [u8; 16], from_new_device: bool, number: u32, body: &Bytes) -> Result<()> {
    let sql = "INSERT INTO link_message VALUES (?1, ?2, ?3, ?4)";
    columns::execute(connection, sql, params![link, from_new_device, number, &body[..]]).map(drop)
}

/// Whether the grant is the account's and its time is not over.
pub(super) fn is_good_grant(
    connection: &Connection,
    account: &AccountName,
    grant: GrantHash,
    now_ms: u64,
) -> Result<bool> {
    let sql = "SELECT 1 FROM login_grant WHERE account = ?1 AND hash = ?2 AND expires_ms > ?3";
    Ok(columns::first(connection, sql, params![account.as_str(), grant.0, now_ms], |_| Ok(()))?.is_some())
}

/// The account's grant is used up.
pub(super) fn use_grant(connection: &Connection, account: &AccountName) -> Result<()> {
    columns::execute(connection, "DELETE FROM login_grant WHERE account = ?1", [account.as_str()]).map(drop)
}
