//! Conversations and memberships in SQLite.
//!
//! **Invariant**: a pair of accounts has at most one direct conversation that is not closed.

use std::collections::BTreeSet;

use fastchat_wire::{AccountName, ConversationId, DeviceId};
use rusqlite::{Connection, Result, Row, params};

use super::{
    SqliteStore, accounts, blocks, columns, devices, handshakes,
    joinings::{self, Joiners},
};
use crate::{
    Conversations, CreateDirect, CreateGroup, DeviceState, Membership, NewDirect, NewGroup, OtherDevice, Outcome,
    TELLING_ACCOUNTS,
};

/// Groups that a device learns of at once that it is no member of.
const UNJOINED: u32 = 1_000;

impl Conversations for SqliteStore {
    fn create_direct(&self, direct: NewDirect) -> impl Outcome<CreateDirect> {
        self.write(move |connection| create(connection, &direct))
    }

    fn create_group(&self, group: NewGroup) -> impl Outcome<CreateGroup> {
        self.write(move |connection| create_group(connection, &group))
    }

    fn device_state(&self, device: DeviceId, joinings: u32) -> impl Outcome<Option<DeviceState>> {
        self.read(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            state(&transaction, device, joinings)
        })
    }
}

// ------------------------------------------------------------ direct

fn create(connection: &Connection, direct: &NewDirect) -> Result<CreateDirect> {
    if accounts::identity_key(connection, &direct.peer)?.is_none() {
        return Ok(CreateDirect::NoPeer);
    }
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
               AND m.device = ?3) FROM conversation c
               WHERE c.kind = 1 AND c.low = ?1 AND c.high = ?2 AND c.closed_by IS NULL";
    let open = columns::first(connection, sql, params![low, high, direct.device.as_bytes()], |row| {
        Ok((columns::conversation(row, 0)?, row.get::<_, bool>(1)?))
    })?;
    match open {
        Some((conversation, member)) if direct.replaces != Some(conversation) => {
            return Ok(CreateDirect::Exists { conversation, member });
        }
        _ => {}
    }
    if let Some(refusal) = other_devices(connection, direct)? {
        return Ok(refusal);
    }
    insert(connection, direct, open.map(|(conversation, _)| conversation))
}

fn pair(direct: &NewDirect) -> (&str, &str) {
    let (one, two) = (direct.creator.as_str(), direct.peer.as_str());
    if one < two { (one, two) } else { (two, one) }
}

/// The answer when a conversation of this id is there: the same call again, or somebody else's id.
fn same_id(connection: &Connection, direct: &NewDirect, low: &str, high: &str) -> Result<Option<CreateDirect>> {
    let sql = "SELECT kind = 1 AND creator_device = ?2 AND low = ?3 AND high = ?4 AND closed_by IS NULL
               AND abandoned = 0 FROM conversation WHERE id = ?1";
    let values = params![direct.conversation.as_bytes(), direct.device.as_bytes(), low, high];
    let same = columns::first(connection, sql, values, |row| row.get::<_, bool>(0))?;
    Ok(same.map(|same| if same { CreateDirect::Repeated } else { CreateDirect::Conflict }))
}

/// Welcomes and leaves must be those of the devices that can be written to, and of the one that asks.
fn other_devices(connection: &Connection, direct: &NewDirect) -> Result<Option<CreateDirect>> {
    if direct.creator == direct.peer
        && devices::is_setting_up(connection, &direct.creator, direct.device, direct.now_ms)?
    {
        return Ok(Some(CreateDirect::OtherDevices));
    }
    let reachable = |account| devices::reachable(connection, account, direct.now_ms);
    let of_peer = reachable(&direct.peer)?;
    if of_peer.is_empty() {
        return Ok(Some(CreateDirect::OtherDevices));
    }
    let mut all: BTreeSet<DeviceId> = reachable(&direct.creator)?.into_iter().collect();
    all.extend(of_peer);
    all.insert(direct.device);
    let mut given: BTreeSet<DeviceId> = direct.welcomes.iter().map(|welcome| welcome.device).collect();
    let is_new = given.len() == direct.welcomes.len() && given.insert(direct.device);
    if !is_new || given != all {
        return Ok(Some(CreateDirect::OtherDevices));
    }
    let leaves: BTreeSet<DeviceId> = direct.leaves.iter().map(|leaf| leaf.device).collect();
    if leaves != all || leaves.len() != direct.leaves.len() {
        return Ok(Some(CreateDirect::OtherLeaf(direct.device)));
    }
    for leaf in &direct.leaves {
        if !devices::is_leaf(connection, leaf)? {
            return Ok(Some(CreateDirect::OtherLeaf(leaf.device)));
        }
    }
    Ok(None)
}

fn insert(connection: &Connection, direct: &NewDirect, closed: Option<ConversationId>) -> Result<CreateDirect> {
    let id = direct.conversation.as_bytes();
    if let Some(closed) = closed {
        let sql = "UPDATE conversation SET closed_by = ?2 WHERE id = ?1";
        columns::execute(connection, sql, [closed.as_bytes(), id])?;
        handshakes::forget_state(connection, closed)?;
        leave_closed(connection, closed, direct.device)?;
    }
    let (low, high) = pair(direct);
    let sql = "INSERT INTO conversation (id, kind, low, high, creator_device, epoch, created_ms, accounts)
               VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let accounts = if low == high { 1 } else { 2 };
    let values = params![id, low, high, direct.device.as_bytes(), direct.epoch, direct.now_ms, accounts];
    columns::execute(connection, sql, values)?;
    handshakes::save_state(connection, direct.conversation, &direct.state, &direct.group_info)?;
    for leaf in &direct.leaves {
        insert_member(connection, direct.conversation, leaf.device, &leaf.account, 0, 0)?;
    }
    let joinings = joinings::insert(
        connection,
        &Joiners {
            conversation: direct.conversation,
            creator: &direct.creator,
            peer: Some(&direct.peer),
            welcomes: &direct.welcomes,
            epoch: direct.epoch,
            ratchet_tree: &direct.ratchet_tree,
            start_seq: 0,
            replaces: closed,
            now_ms: direct.now_ms,
        },
    )?;
    match membership_of(connection, direct.conversation, direct.device)? {
        Some(membership) => Ok(CreateDirect::Created { joinings, membership, closed }),
        None => Ok(CreateDirect::NoDevice),
    }
}

/// A member from now on, also one that was removed before: it has `cursor` and gets what comes after `starts_after`.
pub(super) fn insert_member(
    connection: &Connection,
    conversation: ConversationId,
    device: DeviceId,
    account: &AccountName,
    cursor: u64,
    starts_after: u64,
) -> Result<()> {
    let sql = "INSERT INTO member (conversation, device, account, cursor, starts_after) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (conversation, device) DO UPDATE SET account = excluded.account, cursor = excluded.cursor,
               starts_after = excluded.starts_after, ends_at = NULL";
    let values = params![conversation.as_bytes(), device.as_bytes(), account.as_str(), cursor, starts_after];
    columns::execute(connection, sql, values).map(drop)
}

/// A device that knows the newest conversation of this one's pair is no member any more of those that were replaced and
/// that it has all of: they would add up for good.
pub(super) fn leave_closed(connection: &Connection, conversation: ConversationId, device: DeviceId) -> Result<()> {
    let sql = "DELETE FROM member WHERE device = ?2 AND EXISTS (SELECT 1 FROM conversation c
               JOIN conversation closed ON closed.low = c.low AND closed.high = c.high
               WHERE c.id = ?1 AND c.kind = 1 AND closed.id = member.conversation AND closed.kind = 1
               AND closed.closed_by IS NOT NULL AND member.cursor >= closed.head)
               AND NOT EXISTS (SELECT 1 FROM joining j WHERE j.device = ?2 AND j.conversation = member.conversation)";
    columns::execute(connection, sql, [conversation.as_bytes(), device.as_bytes()]).map(drop)
}

/// Removes conversations without members that were replaced before `before_ms`, and deleted groups without members; at
/// most `limit` of them. Until then who comes late is told what became of them.
pub(super) fn forget_closed(connection: &Connection, before_ms: u64, limit: u32) -> Result<()> {
    let sql = "SELECT c.id FROM conversation c LEFT JOIN conversation next ON next.id = c.closed_by
               WHERE c.closed_by IS NOT NULL AND coalesce(next.created_ms, 0) < ?1
               AND NOT EXISTS (SELECT 1 FROM member m WHERE m.conversation = c.id)
               UNION ALL SELECT c.id FROM conversation c WHERE c.kind = 2 AND c.abandoned = 1 AND c.closed_by IS NULL
               AND NOT EXISTS (SELECT 1 FROM member m WHERE m.conversation = c.id) LIMIT ?2";
    for id in columns::all(connection, sql, params![before_ms, limit], |row| columns::conversation(row, 0))? {
        columns::execute(connection, "DELETE FROM entry WHERE conversation = ?1", [id.as_bytes()])?;
        columns::execute(connection, "DELETE FROM conversation WHERE id = ?1", [id.as_bytes()])?;
    }
    Ok(())
}

// ------------------------------------------------------------ groups

fn create_group(connection: &Connection, group: &NewGroup) -> Result<CreateGroup> {
    let (id, creator) = (group.conversation.as_bytes(), &group.creator);
    let sql = "SELECT kind = ?3 AND creator_device = ?2 FROM conversation WHERE id = ?1";
    let values = params![id, creator.device.as_bytes(), columns::GROUP];
    if let Some(same) = columns::first(connection, sql, values, |row| row.get(0))? {
        return Ok(if same { CreateGroup::Repeated } else { CreateGroup::Conflict });
    }
    if !devices::is_leaf(connection, creator)? {
        return Ok(CreateGroup::OtherLeaf);
    }
    let sql = "INSERT INTO conversation (id, kind, low, high, creator_device, epoch, created_ms, accounts)
               VALUES (?1, ?2, '', '', ?3, 0, ?4, 1)";
    let values = params![id, columns::GROUP, creator.device.as_bytes(), group.now_ms];
    columns::execute(connection, sql, values)?;
    handshakes::save_state(connection, group.conversation, &group.state, &group.group_info)?;
    enter_roster(connection, group.conversation, &creator.account)?;
    insert_member(connection, group.conversation, creator.device, &creator.account, 0, 0)?;
    let membership = membership_of(connection, group.conversation, creator.device)?;
    Ok(membership.map_or(CreateGroup::OtherLeaf, CreateGroup::Created))
}

/// The account has leaves in the group, under the identity that it has now.
pub(super) fn enter_roster(connection: &Connection, group: ConversationId, account: &AccountName) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO roster SELECT ?1, name, identities FROM account WHERE name = ?2";
    columns::execute(connection, sql, params![group.as_bytes(), account.as_str()]).map(drop)
}

// ------------------------------------------------------------ what a session begins with

fn state(connection: &Connection, device: DeviceId, limit: u32) -> Result<Option<DeviceState>> {
    let Some(account) = devices::owner(connection, device)? else { return Ok(None) };
    let sql = "SELECT c.id, m.cursor, c.head, c.abandoned, c.closed_by, m.ends_at, c.epoch, c.accounts
               FROM member m JOIN conversation c ON c.id = m.conversation WHERE m.device = ?1
               AND NOT EXISTS (SELECT 1 FROM joining j WHERE j.device = ?1 AND j.conversation = m.conversation)
               ORDER BY c.id";
    let mut memberships = columns::all(connection, sql, [device.as_bytes()], membership)?;
    for membership in &mut memberships {
        complete(connection, membership, &account)?;
    }
    let (joinings, more_joinings, waiting) = joinings::of_device(connection, device, limit)?;
    // Under another identity than it has in the group, the account's devices cannot come in.
    let sql = "SELECT c.id FROM roster r JOIN conversation c ON c.id = r.conversation
               JOIN account a ON a.name = r.account AND a.identities = r.identity
               WHERE r.account = ?1 AND c.abandoned = 0 AND NOT EXISTS (SELECT 1 FROM member m
               WHERE m.conversation = r.conversation AND m.device = ?2 AND m.ends_at IS NULL)
               ORDER BY c.id LIMIT ?3";
    let values = params![account.as_str(), device.as_bytes(), UNJOINED];
    let unjoined = columns::all(connection, sql, values, |row| columns::conversation(row, 0))?;
    Ok(Some(DeviceState { memberships, joinings, more_joinings, waiting, unjoined }))
}

/// A device's place in a conversation.
pub(super) fn membership_of(
    connection: &Connection,
    conversation: ConversationId,
    device: DeviceId,
) -> Result<Option<Membership>> {
    let sql = "SELECT c.id, m.cursor, c.head, c.abandoned, c.closed_by, m.ends_at, c.epoch, c.accounts, m.account
               FROM member m JOIN conversation c ON c.id = m.conversation
               WHERE m.conversation = ?1 AND m.device = ?2";
    let found = columns::first(connection, sql, [conversation.as_bytes(), device.as_bytes()], |row| {
        Ok((membership(row)?, columns::account(row, 8)?))
    })?;
    let Some((mut membership, account)) = found else { return Ok(None) };
    complete(connection, &mut membership, &account)?;
    Ok(Some(membership))
}

/// From the columns id, cursor, head, abandoned, closed_by, ends_at, epoch, accounts.
fn membership(row: &Row<'_>) -> Result<Membership> {
    let closed_by = columns::optional_conversation(row, 4)?;
    let ends_at: Option<u64> = row.get(5)?;
    Ok(Membership {
        conversation: columns::conversation(row, 0)?,
        cursor: row.get(1)?,
        head: row.get(2)?,
        epoch: row.get(6)?,
        closed: row.get::<_, bool>(3)? || closed_by.is_some() || ends_at.is_some(),
        closed_by,
        ends_at,
        others: Vec::new(),
        accounts: row.get(7)?,
    })
}

/// Adds the others' devices where these are told.
fn complete(connection: &Connection, membership: &mut Membership, own: &AccountName) -> Result<()> {
    if membership.accounts > TELLING_ACCOUNTS || membership.ends_at.is_some() {
        return Ok(());
    }
    let sql = "SELECT account, device, cursor FROM member
               WHERE conversation = ?1 AND account <> ?2 AND ends_at IS NULL ORDER BY device";
    let values = params![membership.conversation.as_bytes(), own.as_str()];
    membership.others = columns::all(connection, sql, values, |row| {
        Ok(OtherDevice { account: columns::account(row, 0)?, device: columns::device(row, 1)?, cursor: row.get(2)? })
    })?;
    Ok(())
}
