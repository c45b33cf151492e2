//! Invites in SQLite.
//!
//! **Invariant**: an invite makes no more accounts than it has uses, and none after its time.

use rusqlite::{Connection, Result, params};

use super::{SqliteStore, columns};
use crate::{Invite, InviteHash, Invites, NewInvite, Outcome};

impl Invites for SqliteStore {
    fn create_invite(&self, invite: NewInvite) -> impl Outcome<()> {
        self.write(move |connection| {
            let sql = "INSERT INTO invite VALUES (?1, ?2, ?3, ?4, ?5)";
            let values = params![invite.hash.0, invite.uses, invite.expires_ms, invite.note, invite.now_ms];
            columns::execute(connection, sql, values).map(drop)
        })
    }

    fn invites(&self, now_ms: u64) -> impl Outcome<Vec<Invite>> {
        self.read(move |connection| {
            let sql = "SELECT lower(substr(hex(hash), 1, 8)), uses_left, expires_ms, note, created_ms FROM invite
                       WHERE uses_left > 0 AND expires_ms > ?1 ORDER BY created_ms, hash";
            columns::all(connection, sql, [now_ms], |row| {
                Ok(Invite {
                    id: row.get(0)?,
                    uses_left: row.get(1)?,
                    expires_ms: row.get(2)?,
                    note: row.get(3)?,
                    created_ms: row.get(4)?,
                })
            })
        })
    }

    fn revoke_invite(&self, id: String) -> impl Outcome<bool> {
        self.write(move |connection| {
            if id.len() < 8 || !id.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Ok(false);
            }
            let sql = "SELECT hash FROM invite WHERE substr(hex(hash), 1, length(?1)) = upper(?1)";
            let found = columns::all(connection, sql, [&id], |row| row.get::<_, [u8; 32]>(0))?;
            let [hash] = found[..] else { return Ok(false) };
            columns::execute(connection, "DELETE FROM invite WHERE hash = ?1", [hash])?;
            Ok(true)
        })
    }
}

pub(super) fn is_good(connection: &Connection, invite: InviteHash, now_ms: u64) -> Result<bool> {
    let sql = "SELECT 1 FROM invite WHERE hash = ?1 AND uses_left > 0 AND expires_ms > ?2";
    Ok(columns::first(connection, sql, params![invite.0, now_ms], |_| Ok(()))?.is_some())
}

pub(super) fn use_once(connection: &Connection, invite: InviteHash) -> Result<()> {
    let sql = "UPDATE invite SET uses_left = uses_left - 1 WHERE hash = ?1";
    columns::execute(connection, sql, [invite.0]).map(drop)
}
