//! The logs in SQLite.
//!
//! **Invariant**: a seq is taken from the conversation's head in the transaction that inserts its entry: seqs are
//! dense.

use fastchat_wire::{ConversationId, DeviceId, MessageId};
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, blocks, columns, conversations, cursors};
use crate::{Append, Appended, Entry, Kind, Log, NewEntry, Outcome, Page, PageBounds};

impl Log for SqliteStore {
    fn append(&self, append: Append) -> impl Outcome<Appended> {
        self.write(move |connection| run(connection, &append))
    }

    fn read_after(
        &self,
        conversation: ConversationId,
        device: DeviceId,
        after: u64,
        bounds: PageBounds,
    ) -> impl Outcome<Page> {
        self.read(move |connection| read(connection, conversation, device, after, bounds))
    }

    fn expire(&self, before_ms: u64, limit: u32) -> impl Outcome<u32> {
        self.write(move |connection| expire(connection, before_ms, limit))
    }
}

/// A conversation's state, as far as appending needs it.
struct Target {
    epoch: u64,
    abandoned: bool,
    closed_by: Option<ConversationId>,
    other: String,
    is_member: bool,
    is_direct: bool,
}

/// What a resend is compared with.
pub(super) struct Known {
    pub(super) seq: u64,
    pub(super) device: DeviceId,
    pub(super) time_ms: u64,
    pub(super) same: bool,
}

fn run(connection: &Connection, append: &Append) -> Result<Appended> {
    let Some(target) = target(connection, append)? else { return Ok(Appended::NotFound) };
    if !target.is_member {
        return Ok(match target.closed_by {
            Some(by) => Appended::Closed { by: Some(by) },
            None => Appended::NotAMember,
        });
    }
    let mut known = Vec::with_capacity(append.entries.len());
    for (at, entry) in append.entries.iter().enumerate() {
        let earlier = append.entries.get(..at).unwrap_or_default();
        let found = find(connection, append.conversation, entry)?;
        let other = found.as_ref().is_some_and(|found| found.device != append.device || !found.same);
        if other || earlier.iter().any(|earlier| earlier.message_id == entry.message_id) {
            return Ok(Appended::Conflict(entry.message_id));
        }
        known.push(found);
    }
    let fresh: Vec<&NewEntry> =
        append.entries.iter().zip(&known).filter_map(|(entry, known)| known.is_none().then_some(entry)).collect();
    if let Some(refusal) = refusal(connection, append, &target, &fresh)? {
        return Ok(refusal);
    }
    insert(connection, append, &known)
}

fn target(connection: &Connection, append: &Append) -> Result<Option<Target>> {
    let sql = "SELECT c.epoch, c.abandoned, c.closed_by, iif(c.low = ?3, c.high, c.low), m.device IS NOT NULL,
               c.kind = 1 FROM conversation c LEFT JOIN member m ON m.conversation = c.id AND m.device = ?2
               AND m.account = ?3 AND m.ends_at IS NULL
               WHERE c.id = ?1 AND (c.kind = 2 OR ?3 IN (c.low, c.high))";
    let values = params![append.conversation.as_bytes(), append.device.as_bytes(), append.account.as_str()];
    columns::first(connection, sql, values, |row| {
        Ok(Target {
            epoch: row.get(0)?,
            abandoned: row.get(1)?,
            closed_by: columns::optional_conversation(row, 2)?,
            other: row.get(3)?,
            is_member: row.get(4)?,
            is_direct: row.get(5)?,
        })
    })
}

pub(super) fn find(connection: &Connection, conversation: ConversationId, entry: &NewEntry) -> Result<Option<Known>> {
    let sql = "SELECT seq, device, time_ms, expired OR (epoch = ?3 AND kind = ?4 AND payload = ?5)
               FROM entry WHERE conversation = ?1 AND message_id = ?2";
    let id: MessageId = entry.message_id;
    let kind = columns::kind_number(entry.kind);
    let values = params![conversation.as_bytes(), id.as_bytes(), entry.epoch, kind, &entry.payload[..]];
    columns::first(connection, sql, values, |row| {
        Ok(Known { seq: row.get(0)?, device: columns::device(row, 1)?, time_ms: row.get(2)?, same: row.get(3)? })
    })
}

/// Why the entries that are not there yet cannot be appended.
fn refusal(connection: &Connection, append: &Append, target: &Target, fresh: &[&NewEntry]) -> Result<Option<Appended>> {
    if fresh.is_empty() {
        return Ok(None);
    }
    if target.abandoned || target.closed_by.is_some() {
        return Ok(Some(Appended::Closed { by: target.closed_by }));
    }
    // In a group it is its admins who say who may write.
    if target.is_direct && blocks::is_blocked(connection, &target.other, append.account.as_str())? {
        return Ok(Some(Appended::Refused));
    }
    if fresh.iter().any(|entry| entry.kind != Kind::Application) {
        return Ok(Some(Appended::HandshakeRefused));
    }
    if fresh.iter().any(|entry| entry.epoch != target.epoch) {
        return Ok(Some(Appended::StaleEpoch { current: target.epoch }));
    }
    Ok(None)
}

fn insert(connection: &Connection, append: &Append, known: &[Option<Known>]) -> Result<Appended> {
    let fresh = known.iter().filter(|known| known.is_none()).count() as u64;
    let mut next = 0;
    if fresh > 0 {
        let sql = "UPDATE conversation SET head = head + ?2 WHERE id = ?1 RETURNING head - ?2 + 1";
        let values = params![append.conversation.as_bytes(), fresh];
        next = columns::all(connection, sql, values, |row| row.get(0))?.pop().unwrap_or(0);
    }
    let (mut seqs, mut new, mut time_ms) = (Vec::with_capacity(known.len()), Vec::new(), append.now_ms);
    for (entry, known) in append.entries.iter().zip(known) {
        if let Some(known) = known {
            seqs.push(known.seq);
            time_ms = known.time_ms;
            continue;
        }
        let entry = Entry {
            seq: next,
            message_id: entry.message_id,
            account: append.account.clone(),
            device: append.device,
            epoch: entry.epoch,
            kind: entry.kind,
            payload: entry.payload.clone(),
            time_ms: append.now_ms,
        };
        insert_entry(connection, append.conversation, &entry)?;
        seqs.push(next);
        time_ms = append.now_ms;
        next += 1;
        new.push(entry);
    }
    Ok(Appended::Accepted { seqs, time_ms, new })
}

pub(super) fn insert_entry(connection: &Connection, conversation: ConversationId, entry: &Entry) -> Result<()> {
    let sql = "INSERT INTO entry (conversation, seq, message_id, account, device, epoch, kind, payload, time_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        conversation.as_bytes(),
        entry.seq,
        entry.message_id.as_bytes(),
        entry.account.as_str(),
        entry.device.as_bytes(),
        entry.epoch,
        columns::kind_number(entry.kind),
        &entry.payload[..],
        entry.time_ms,
    ];
    columns::execute(connection, sql, values).map(drop)
}

fn read(
    connection: &Connection,
    conversation: ConversationId,
    device: DeviceId,
    after: u64,
    bounds: PageBounds,
) -> Result<Page> {
    // One read transaction: head, expiry and entries belong together.
    let transaction = connection.unchecked_transaction()?;
    let sql = "SELECT coalesce(m.ends_at, c.head), c.expired_through, m.starts_after
               FROM conversation c JOIN member m ON m.conversation = c.id
               WHERE c.id = ?1 AND m.device = ?2";
    let ends = columns::first(&transaction, sql, [conversation.as_bytes(), device.as_bytes()], |row| {
        Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?, row.get::<_, u64>(2)?))
    })?;
    let Some((head, expired, starts_after)) = ends else { return Ok(Page::default()) };
    // Nobody reads from before his time or after it.
    let (after, expired) = (after.max(starts_after), expired.min(head));
    let start = after.max(expired);
    let mut page = Page { entries: Vec::new(), head, expired_through: if expired > after { expired } else { 0 } };
    let sql = "SELECT seq, message_id, account, device, epoch, kind, iif(device = ?3, x'', payload), time_ms
               FROM entry WHERE conversation = ?1 AND seq > ?2 AND seq <= ?5 ORDER BY seq LIMIT ?4";
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows =
        statement.query(params![conversation.as_bytes(), start, device.as_bytes(), bounds.entries.max(1), head])?;
    let mut bytes = 0_usize;
    while let Some(row) = rows.next()? {
        let entry = Entry {
            seq: row.get(0)?,
            message_id: columns::message(row, 1)?,
            account: columns::account(row, 2)?,
            device: columns::device(row, 3)?,
            epoch: row.get(4)?,
            kind: columns::kind(row, 5)?,
            payload: columns::bytes(row, 6)?,
            time_ms: row.get(7)?,
        };
        bytes = bytes.saturating_add(entry.payload.len());
        if !page.entries.is_empty() && bytes > bounds.bytes {
            break;
        }
        page.entries.push(entry);
    }
    Ok(page)
}

fn expire(connection: &Connection, before_ms: u64, limit: u32) -> Result<u32> {
    // Numbers grow with time, so the oldest come first and the search ends early.
    let sql = "SELECT conversation, max(seq), count(*) FROM (SELECT conversation, seq, time_ms FROM entry
               WHERE expired = 0 ORDER BY number LIMIT ?2) WHERE time_ms < ?1 GROUP BY conversation";
    let old = columns::all(connection, sql, params![before_ms, limit], |row| {
        Ok((columns::conversation(row, 0)?, row.get::<_, u64>(1)?, row.get::<_, u32>(2)?))
    })?;
    let mut count = 0;
    for (conversation, through, entries) in old {
        let values = params![conversation.as_bytes(), through];
        let sql = "UPDATE conversation SET expired_through = max(expired_through, ?2) WHERE id = ?1";
        columns::execute(connection, sql, values)?;
        // Its sender has not seen it in the log yet and may send it again: keep the id.
        let sql = "UPDATE entry SET payload = x'', expired = 1 WHERE conversation = ?1 AND seq <= ?2
                   AND EXISTS (SELECT 1 FROM member m
                   WHERE m.conversation = ?1 AND m.device = entry.device AND m.cursor < entry.seq)";
        columns::execute(connection, sql, values)?;
        let sql = "DELETE FROM entry WHERE conversation = ?1 AND seq <= ?2 AND expired = 0";
        columns::execute(connection, sql, values)?;
        let sql = "DELETE FROM member WHERE conversation = ?1 AND ends_at <= ?2 RETURNING device";
        for device in columns::all(connection, sql, values, |row| columns::device(row, 0))? {
            cursors::forget_joining(connection, conversation.as_bytes(), device)?;
        }
        count += entries;
    }
    conversations::forget_closed(connection, before_ms, limit)?;
    Ok(count)
}
