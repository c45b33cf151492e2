//! Cursors in SQLite, and the trimming of what everybody has.
//!
//! **Invariant**: a cursor never moves back and never past the log's head, or its device's end in it.

use std::collections::BTreeSet;

use rusqlite::{Connection, Result, params};

use super::{SqliteStore, columns};
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
            let sql = "DELETE FROM joining WHERE conversation = ?1 AND device = ?2 AND start_seq <= ?3";
            columns::execute(connection, sql, params![conversation, device, seq])?;
        }
    }
    for conversation in moved {
        // Who was removed and has the entry that says so needs nothing more.
        let sql = "DELETE FROM member WHERE conversation = ?1 AND cursor >= ends_at RETURNING device";
        for device in columns::all(connection, sql, [conversation], |row| columns::device(row, 0))? {
            let sql = "DELETE FROM joining WHERE conversation = ?1 AND device = ?2";
            columns::execute(connection, sql, [conversation, device.as_bytes()])?;
        }
        let sql = "DELETE FROM entry WHERE conversation = ?1
                   AND seq <= (SELECT min(cursor) FROM member WHERE conversation = ?1)";
        columns::execute(connection, sql, [conversation])?;
    }
    Ok(())
}
