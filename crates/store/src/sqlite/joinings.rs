//! What a device must get before it is part of a conversation, in SQLite.
//!
//! **Invariant**: a Welcome is kept until its device has taken it, and its tree until the last device has.

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId};
use rusqlite::{Connection, Result, Row, params};

use super::{accounts, columns, conversations};
use crate::{JOININGS_OF_ONE, Joining, NewWelcome};

/// The most bytes of joinings that are read at once, but always one joining.
const AT_ONCE: usize = 8 << 20;

/// Those who join a conversation by one commit.
pub(super) struct Joiners<'a> {
    pub(super) conversation: ConversationId,
    pub(super) creator: &'a AccountName,
    /// With whom, in a direct conversation.
    pub(super) peer: Option<&'a AccountName>,
    pub(super) welcomes: &'a [NewWelcome],
    /// Of the Welcomes.
    pub(super) epoch: u64,
    pub(super) ratchet_tree: &'a Bytes,
    pub(super) start_seq: u64,
    pub(super) replaces: Option<ConversationId>,
    pub(super) now_ms: u64,
}

/// Keeps the joinings; the devices are members already.
pub(super) fn insert(connection: &Connection, joiners: &Joiners<'_>) -> Result<Vec<(DeviceId, Joining)>> {
    if joiners.welcomes.is_empty() {
        return Ok(Vec::new());
    }
    let id = joiners.conversation.as_bytes();
    for welcome in joiners.welcomes {
        // One that it did not take before it was removed.
        let sql = "DELETE FROM joining WHERE device = ?1 AND conversation = ?2";
        columns::execute(connection, sql, [welcome.device.as_bytes(), id])?;
    }
    let sql = "INSERT INTO welcome_tree VALUES (?1, ?2, ?3)";
    columns::execute(connection, sql, params![id, joiners.epoch, &joiners.ratchet_tree[..]])?;
    let identity_key = accounts::identity_key(connection, joiners.creator)?.unwrap_or_default();
    let mut joinings = Vec::with_capacity(joiners.welcomes.len());
    for welcome in joiners.welcomes {
        insert_one(connection, joiners, welcome, &identity_key)?;
        let membership = conversations::membership_of(connection, joiners.conversation, welcome.device)?;
        let Some(membership) = membership else { continue };
        let joining = Joining {
            creator: joiners.creator.clone(),
            creator_identity_key: identity_key.clone(),
            peer: joiners.peer.cloned(),
            welcome: welcome.welcome.clone(),
            join_key: welcome.join_key.clone(),
            ratchet_tree: joiners.ratchet_tree.clone(),
            group: joiners.peer.is_none(),
            start_seq: joiners.start_seq,
            replaces: joiners.replaces,
            time_ms: joiners.now_ms,
            membership,
        };
        joinings.push((welcome.device, joining));
    }
    Ok(joinings)
}

fn insert_one(connection: &Connection, joiners: &Joiners<'_>, welcome: &NewWelcome, identity: &Bytes) -> Result<()> {
    let sql = "INSERT INTO joining (device, conversation, creator, creator_identity_key, welcome, join_key, start_seq,
               replaces, time_ms, tree_epoch) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        welcome.device.as_bytes(),
        joiners.conversation.as_bytes(),
        joiners.creator.as_str(),
        &identity[..],
        &welcome.welcome[..],
        &welcome.join_key[..],
        joiners.start_seq,
        joiners.replaces.as_ref().map(ConversationId::as_bytes),
        joiners.now_ms,
        joiners.epoch,
    ];
    columns::execute(connection, sql, values).map(drop)
}

/// The oldest joinings of a device and whether there are more; and the creators of too many.
pub(super) fn of_device(
    connection: &Connection,
    device: DeviceId,
    limit: u32,
) -> Result<(Vec<Joining>, bool, Vec<AccountName>)> {
    let waiting = waiting(connection, device)?;
    // Row numbers grow with time.
    let sql = "SELECT j.creator, j.creator_identity_key, j.welcome, j.join_key, j.start_seq, j.replaces, j.time_ms,
               c.kind, t.tree, c.id, iif(j.creator = c.low, c.high, c.low)
               FROM (SELECT rowid AS number, row_number() OVER (PARTITION BY creator ORDER BY rowid) AS place
               FROM joining WHERE device = ?1) p JOIN joining j ON j.rowid = p.number
               JOIN conversation c ON c.id = j.conversation
               LEFT JOIN welcome_tree t ON t.conversation = j.conversation AND t.epoch = j.tree_epoch
               WHERE p.place <= ?3 ORDER BY j.rowid LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![device.as_bytes(), u64::from(limit) + 1, JOININGS_OF_ONE])?;
    let (mut joinings, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        let Some(joining) = joining(connection, device, row)? else { continue };
        bytes = bytes.saturating_add(joining.ratchet_tree.len() + joining.welcome.len() + joining.join_key.len());
        if joinings.len() >= limit as usize || (bytes > AT_ONCE && !joinings.is_empty()) {
            return Ok((joinings, true, waiting));
        }
        joinings.push(joining);
    }
    Ok((joinings, false, waiting))
}

fn waiting(connection: &Connection, device: DeviceId) -> Result<Vec<AccountName>> {
    let sql = "SELECT creator FROM joining WHERE device = ?1 GROUP BY creator HAVING count(*) > ?2";
    columns::all(connection, sql, params![device.as_bytes(), JOININGS_OF_ONE], |row| columns::account(row, 0))
}

fn joining(connection: &Connection, device: DeviceId, row: &Row<'_>) -> Result<Option<Joining>> {
    let conversation = columns::conversation(row, 9)?;
    let Some(membership) = conversations::membership_of(connection, conversation, device)? else { return Ok(None) };
    let group = columns::conversation_kind(row, 7)? == crate::ConversationKind::Group;
    Ok(Some(Joining {
        creator: columns::account(row, 0)?,
        creator_identity_key: columns::bytes(row, 1)?,
        peer: if group { None } else { Some(columns::account(row, 10)?) },
        welcome: columns::bytes(row, 2)?,
        join_key: columns::bytes(row, 3)?,
        start_seq: row.get(4)?,
        replaces: columns::optional_conversation(row, 5)?,
        time_ms: row.get(6)?,
        group,
        ratchet_tree: row.get::<_, Option<Vec<u8>>>(8)?.unwrap_or_default().into(),
        membership,
    }))
}
