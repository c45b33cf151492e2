//! Conversations and memberships in SQLite.
//!
//! **Invariant**: a pair of accounts has at most one direct conversation that is not closed.

use std::collections::BTreeSet;

use bytes::Bytes;
use fastchat_wire::{ConversationId, DeviceId};
use rusqlite::{Connection, Result, Row, params};

use super::{SqliteStore, accounts, blocks, columns, devices};
use crate::{
    Conversations, CreateDirect, DeviceState, Joining, Membership, NewDirect, NewWelcome, OtherDevice, Outcome,
};

impl Conversations for SqliteStore {
    fn create_direct(&self, direct: NewDirect) -> impl Outcome<CreateDirect> {
        self.write(move |connection| create(connection, &direct))
    }

    fn device_state(&self, device: DeviceId, joinings: u32) -> impl Outcome<Option<DeviceState>> {
        self.read(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            state(&transaction, device, joinings)
        })
    }
}

fn create(connection: &Connection, direct: &NewDirect) -> Result<CreateDirect> {
    let Some(_) = accounts::identity_key(connection, &direct.peer)? else { return Ok(CreateDirect::NoPeer) };
    if devices::owner(connection, direct.device)?.as_ref() != Some(&direct.creator) {
        return Ok(CreateDirect::NoDevice);
    }
    if blocks::is_blocked(connection, direct.peer.as_str(), direct.creator.as_str())? {
        return Ok(CreateDirect::Refused);
    }
    let (low, high) = pair(direct);
    if let Some(answer) = same_id(connection, direct, low, high)? {
        return Ok(answer);
    }
    let sql = "SELECT c.id, c.abandoned = 0 AND EXISTS (SELECT 1 FROM member m WHERE m.conversation = c.id
               AND m.device = ?3) FROM conversation c WHERE c.low = ?1 AND c.high = ?2 AND c.closed_by IS NULL";
    let open = columns::first(connection, sql, params![low, high, direct.device.as_bytes()], |row| {
        Ok((columns::conversation(row, 0)?, row.get::<_, bool>(1)?))
    })?;
    match open {
        Some((conversation, member)) if direct.replaces != Some(conversation) => {
            return Ok(CreateDirect::Exists { conversation, member });
        }
        _ => {}
    }
    let expected: BTreeSet<DeviceId> = devices::of_account(connection, &direct.peer)?.into_iter().collect();
    let given: BTreeSet<DeviceId> = direct.welcomes.iter().map(|welcome| welcome.device).collect();
    if expected.is_empty() || expected != given || given.len() != direct.welcomes.len() {
        return Ok(CreateDirect::OtherDevices);
    }
    insert(connection, direct, open.map(|(conversation, _)| conversation))
}

fn pair(direct: &NewDirect) -> (&str, &str) {
    let (one, two) = (direct.creator.as_str(), direct.peer.as_str());
    if one < two { (one, two) } else { (two, one) }
}

/// The answer when a conversation of this id is there: the same call again, or somebody else's id.
fn same_id(connection: &Connection, direct: &NewDirect, low: &str, high: &str) -> Result<Option<CreateDirect>> {
    let sql = "SELECT creator_device = ?2 AND low = ?3 AND high = ?4 AND closed_by IS NULL AND abandoned = 0
               FROM conversation WHERE id = ?1";
    let values = params![direct.conversation.as_bytes(), direct.device.as_bytes(), low, high];
    let same = columns::first(connection, sql, values, |row| row.get::<_, bool>(0))?;
    Ok(same.map(|same| if same { CreateDirect::Repeated } else { CreateDirect::Conflict }))
}

fn insert(connection: &Connection, direct: &NewDirect, closed: Option<ConversationId>) -> Result<CreateDirect> {
    let id = direct.conversation.as_bytes();
    if let Some(closed) = closed {
        let sql = "UPDATE conversation SET closed_by = ?2 WHERE id = ?1";
        columns::execute(connection, sql, [closed.as_bytes(), id])?;
    }
    let (low, high) = pair(direct);
    let sql = "INSERT INTO conversation (id, low, high, creator_device, epoch, created_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let values = params![id, low, high, direct.device.as_bytes(), direct.epoch, direct.now_ms];
    columns::execute(connection, sql, values)?;
    let identity_key = accounts::identity_key(connection, &direct.creator)?.unwrap_or_default();
    insert_member(connection, direct, direct.device, direct.creator.as_str())?;
    for welcome in &direct.welcomes {
        insert_member(connection, direct, welcome.device, direct.peer.as_str())?;
        insert_joining(connection, direct, welcome, &identity_key, closed)?;
    }
    let mut joinings = Vec::with_capacity(direct.welcomes.len());
    for welcome in &direct.welcomes {
        joinings.push((
            welcome.device,
            Joining {
                creator: direct.creator.clone(),
                creator_identity_key: identity_key.clone(),
                welcome: welcome.welcome.clone(),
                friend_key: welcome.friend_key.clone(),
                start_seq: 0,
                replaces: closed,
                time_ms: direct.now_ms,
                membership: fresh_membership(connection, direct.conversation, welcome.device)?,
            },
        ));
    }
    let membership = fresh_membership(connection, direct.conversation, direct.device)?;
    Ok(CreateDirect::Created { joinings, membership, closed })
}

fn insert_member(connection: &Connection, direct: &NewDirect, device: DeviceId, account: &str) -> Result<()> {
    let sql = "INSERT INTO member (conversation, device, account, cursor) VALUES (?1, ?2, ?3, 0)";
    columns::execute(connection, sql, params![direct.conversation.as_bytes(), device.as_bytes(), account]).map(drop)
}

fn insert_joining(
    connection: &Connection,
    direct: &NewDirect,
    welcome: &NewWelcome,
    identity_key: &Bytes,
    replaces: Option<ConversationId>,
) -> Result<()> {
    let sql = "INSERT INTO joining VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8)";
    let values = params![
        welcome.device.as_bytes(),
        direct.conversation.as_bytes(),
        direct.creator.as_str(),
        &identity_key[..],
        &welcome.welcome[..],
        &welcome.friend_key[..],
        replaces.as_ref().map(ConversationId::as_bytes),
        direct.now_ms,
    ];
    columns::execute(connection, sql, values).map(drop)
}

fn fresh_membership(connection: &Connection, conversation: ConversationId, device: DeviceId) -> Result<Membership> {
    let others = others(connection, conversation, device)?;
    Ok(Membership { conversation, cursor: 0, head: 0, closed: false, closed_by: None, others })
}

fn state(connection: &Connection, device: DeviceId, limit: u32) -> Result<Option<DeviceState>> {
    if devices::owner(connection, device)?.is_none() {
        return Ok(None);
    }
    let sql = "SELECT c.id, m.cursor, c.head, c.abandoned, c.closed_by FROM member m
               JOIN conversation c ON c.id = m.conversation WHERE m.device = ?1
               AND NOT EXISTS (SELECT 1 FROM joining j WHERE j.device = ?1 AND j.conversation = m.conversation)
               ORDER BY c.id";
    let mut memberships = columns::all(connection, sql, [device.as_bytes()], |row| membership(row, 0))?;
    for membership in &mut memberships {
        membership.others = others(connection, membership.conversation, device)?;
    }
    let sql = "SELECT j.creator, j.creator_identity_key, j.welcome, j.friend_key, j.start_seq, j.replaces, j.time_ms,
               c.id, m.cursor, c.head, c.abandoned, c.closed_by FROM joining j
               JOIN conversation c ON c.id = j.conversation
               JOIN member m ON m.conversation = j.conversation AND m.device = j.device
               WHERE j.device = ?1 ORDER BY j.time_ms, c.id LIMIT ?2";
    let read = |row: &Row<'_>| {
        Ok(Joining {
            creator: columns::account(row, 0)?,
            creator_identity_key: columns::bytes(row, 1)?,
            welcome: columns::bytes(row, 2)?,
            friend_key: columns::bytes(row, 3)?,
            start_seq: row.get(4)?,
            replaces: columns::optional_conversation(row, 5)?,
            time_ms: row.get(6)?,
            membership: membership(row, 7)?,
        })
    };
    let mut joinings = columns::all(connection, sql, params![device.as_bytes(), u64::from(limit) + 1], read)?;
    let more_joinings = joinings.len() > limit as usize;
    joinings.truncate(limit as usize);
    for joining in &mut joinings {
        joining.membership.others = others(connection, joining.membership.conversation, device)?;
    }
    Ok(Some(DeviceState { memberships, joinings, more_joinings }))
}

/// From the columns id, cursor, head, abandoned, closed_by, the first of which is `at`.
fn membership(row: &Row<'_>, at: usize) -> Result<Membership> {
    let closed_by = columns::optional_conversation(row, at + 4)?;
    Ok(Membership {
        conversation: columns::conversation(row, at)?,
        cursor: row.get(at + 1)?,
        head: row.get(at + 2)?,
        closed: row.get::<_, bool>(at + 3)? || closed_by.is_some(),
        closed_by,
        others: Vec::new(),
    })
}

fn others(connection: &Connection, conversation: ConversationId, device: DeviceId) -> Result<Vec<OtherDevice>> {
    let sql = "SELECT account, device, cursor FROM member WHERE conversation = ?1 AND device <> ?2 ORDER BY device";
    columns::all(connection, sql, [conversation.as_bytes(), device.as_bytes()], |row| {
        Ok(OtherDevice { account: columns::account(row, 0)?, device: columns::device(row, 1)?, cursor: row.get(2)? })
    })
}
