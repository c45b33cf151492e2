//! Cursors in SQLite, and the trimming of what everybody has.
//!
//! **Invariant**: a cursor never moves back and never past the log's head, or its device's end in it.

use std::collections::BTreeSet;

use fastchat_wire::{ConversationId, DeviceId};
use rusqlite::{Connection, Result, params};
use uuid::Uuid;

use super::{SqliteStore, columns, conversations};
use crate::{CursorMove, Cursors, Outcome};

impl Cursors for SqliteStore {
    fn save_cursors(&self, moves: Vec<CursorMove>) -> impl Outcome<()> {
        self.write(move |connection| save(connection, &moves))
    }
}

fn save(connection: &Connection, moves: &[CursorMove]) -> Result<()> {
    let mut moved = BTreeSet::new();
    for CursorMove { conversation, device, seq, joined } in moves {
        let (conversation, device) = (conversation.as_bytes(), device.as_bytes());
        let sql = "UPDATE member SET cursor = ?3 WHERE conversation = ?1 AND device = ?2 AND cursor < ?3
                   AND ?3 <= coalesce(ends_at, (SELECT head FROM conversation WHERE id = ?1))";
        if columns::execute(connection, sql, params![conversation, device, seq])? > 0 {
            moved.insert(conversation);
        }
        if *joined {
            joined_anew(connection, conversation, device, *seq)?;
        }
    }
    for conversation in moved {
        trim(connection, conversation)?;
    }
    Ok(())
}

/// The device has taken its Joining, and knows by it which conversation is replaced.
fn joined_anew(connection: &Connection, conversation: &[u8; 16], device: &[u8; 16], seq: u64) -> Result<()> {
    let sql = "DELETE FROM joining WHERE conversation = ?1 AND device = ?2 AND start_seq <= ?3";
    if columns::execute(connection, sql, params![conversation, device, seq])? > 0 {
        let id = |bytes: &[u8; 16]| Uuid::from_bytes(*bytes);
        conversations::leave_closed(connection, ConversationId(id(conversation)), DeviceId(id(device)))?;
    }
    Ok(())
}

/// The device is no member any more: its Welcome is of no use.
pub(super) fn forget_joining(connection: &Connection, conversation: &[u8; 16], device: DeviceId) -> Result<()> {
    let sql = "DELETE FROM joining WHERE conversation = ?1 AND device = ?2";
    columns::execute(connection, sql, [conversation, device.as_bytes()]).map(drop)
}

/// Members that need nothing more go, and then the entries that nobody needs.
fn trim(connection: &Connection, conversation: &[u8; 16]) -> Result<()> {
    // Who was removed and has the entry that says so.
    let sql = "DELETE FROM member WHERE conversation = ?1 AND cursor >= ends_at RETURNING device";
    for device in columns::all(connection, sql, [conversation], |row| columns::device(row, 0))? {
        forget_joining(connection, conversation, device)?;
    }
    // Who has all of a conversation that was replaced, or of a group that was deleted.
    let sql = "DELETE FROM member WHERE conversation = ?1 AND cursor >= (SELECT head FROM conversation
               WHERE id = ?1 AND (closed_by IS NOT NULL OR (kind = 2 AND abandoned = 1)))
               AND NOT EXISTS (SELECT 1 FROM joining j WHERE j.conversation = ?1 AND j.device = member.device)";
    columns::execute(connection, sql, [conversation])?;
    let sql = "DELETE FROM entry WHERE conversation = ?1 AND seq <= coalesce(
               (SELECT min(cursor) FROM member WHERE conversation = ?1),
               (SELECT head FROM conversation WHERE id = ?1))";
    columns::execute(connection, sql, [conversation]).map(drop)
}
