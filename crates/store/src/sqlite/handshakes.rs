//! Commits and proposals in SQLite.
//!
//! **Invariant**: the public state, the epoch, the roster and the entry that brought them change in one transaction,
//! and only if nothing came between the reading of the state and this.

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId};
use rusqlite::{Connection, Result, params};

use super::{
    SqliteStore, blocks, columns, conversations, devices,
    joinings::{self, Joiners},
    log,
};
use crate::{
    AppendHandshake, ConversationKind, Entry, HandshakeAppended, HandshakeState, Handshakes, KnownEntry, NewCommit,
    NewEntry, NewHandshake, Outcome,
};

impl Handshakes for SqliteStore {
    fn handshake_head(
        &self,
        conversation: ConversationId,
        account: AccountName,
        device: DeviceId,
        entry: NewEntry,
    ) -> impl Outcome<Option<HandshakeState>> {
        self.read(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            asked(&transaction, conversation, &account, device, Some(&entry))
        })
    }

    fn handshake_state(
        &self,
        conversation: ConversationId,
        account: AccountName,
        device: DeviceId,
        entry: Option<NewEntry>,
    ) -> impl Outcome<Option<HandshakeState>> {
        self.read(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            read(&transaction, conversation, &account, device, entry.as_ref())
        })
    }

    fn append_handshake(&self, append: AppendHandshake) -> impl Outcome<HandshakeAppended> {
        self.write(move |connection| append_one(connection, &append))
    }
}

pub(super) fn save_state(
    connection: &Connection,
    conversation: ConversationId,
    state: &Bytes,
    group_info: &Bytes,
) -> Result<()> {
    let sql = "INSERT INTO public_state VALUES (?1, ?2, ?3) ON CONFLICT (conversation)
               DO UPDATE SET state = excluded.state, group_info = excluded.group_info";
    columns::execute(connection, sql, params![conversation.as_bytes(), &state[..], &group_info[..]]).map(drop)
}

/// The conversation takes no more handshakes.
pub(super) fn forget_state(connection: &Connection, conversation: ConversationId) -> Result<()> {
    let sql = "DELETE FROM public_state WHERE conversation = ?1";
    columns::execute(connection, sql, [conversation.as_bytes()]).map(drop)
}

fn read(
    connection: &Connection,
    conversation: ConversationId,
    account: &AccountName,
    device: DeviceId,
    entry: Option<&NewEntry>,
) -> Result<Option<HandshakeState>> {
    let Some(mut found) = asked(connection, conversation, account, device, entry)? else { return Ok(None) };
    if found.known.is_none() && entry.is_none_or(|entry| entry.epoch == found.epoch) {
        let sql = "SELECT state, group_info FROM public_state WHERE conversation = ?1";
        let both = columns::first(connection, sql, [conversation.as_bytes()], |row| {
            Ok((columns::bytes(row, 0)?, columns::bytes(row, 1)?))
        })?;
        (found.state, found.group_info) = both.unwrap_or_default();
    }
    Ok(Some(found))
}

/// All but the public state.
fn asked(
    connection: &Connection,
    conversation: ConversationId,
    account: &AccountName,
    device: DeviceId,
    entry: Option<&NewEntry>,
) -> Result<Option<HandshakeState>> {
    let Some(mut found) = head(connection, conversation, account, device)? else { return Ok(None) };
    if let Some(entry) = entry {
        found.known = known(connection, conversation, device, entry)?;
    }
    Ok(Some(found))
}

/// All but the public state and the known entry.
fn head(
    connection: &Connection,
    conversation: ConversationId,
    account: &AccountName,
    device: DeviceId,
) -> Result<Option<HandshakeState>> {
    let sql = "SELECT c.kind, c.epoch, c.pending, c.head, c.abandoned, c.closed_by,
               EXISTS (SELECT 1 FROM member m WHERE m.conversation = ?1 AND m.device = ?2 AND m.ends_at IS NULL),
               iif(c.kind = 1, ?3 IN (c.low, c.high),
               EXISTS (SELECT 1 FROM roster r WHERE r.conversation = ?1 AND r.account = ?3))
               FROM conversation c WHERE c.id = ?1";
    let values = params![conversation.as_bytes(), device.as_bytes(), account.as_str()];
    columns::first(connection, sql, values, |row| {
        let closed_by = columns::optional_conversation(row, 5)?;
        Ok(HandshakeState {
            kind: columns::conversation_kind(row, 0)?,
            epoch: row.get(1)?,
            pending: row.get(2)?,
            head: row.get(3)?,
            closed: row.get::<_, bool>(4)? || closed_by.is_some(),
            closed_by,
            member: row.get(6)?,
            account_member: row.get(7)?,
            known: None,
            state: Bytes::new(),
            group_info: Bytes::new(),
        })
    })
}

fn known(
    connection: &Connection,
    conversation: ConversationId,
    device: DeviceId,
    entry: &NewEntry,
) -> Result<Option<KnownEntry>> {
    let found = log::find(connection, conversation, entry)?;
    Ok(found.map(|found| {
        if found.same && found.device == device {
            KnownEntry::Same { seq: found.seq, time_ms: found.time_ms }
        } else {
            KnownEntry::Other
        }
    }))
}

fn append_one(connection: &Connection, append: &AppendHandshake) -> Result<HandshakeAppended> {
    let (conversation, entry) = (append.conversation, &append.entry);
    match known(connection, conversation, append.device, entry)? {
        Some(KnownEntry::Same { seq, time_ms }) => return Ok(HandshakeAppended::Accepted { seq, time_ms, new: None }),
        Some(KnownEntry::Other) => return Ok(HandshakeAppended::Conflict),
        None => {}
    }
    let Some(there) = head(connection, conversation, &append.account, append.device)? else {
        return Ok(HandshakeAppended::NotFound);
    };
    let external = append.commit.as_ref().is_some_and(|commit| commit.external);
    let may = if external { there.account_member } else { there.member };
    if !may || devices::owner(connection, append.device)?.as_ref() != Some(&append.account) {
        return Ok(HandshakeAppended::NotAMember);
    }
    if there.closed {
        return Ok(HandshakeAppended::Closed { by: there.closed_by });
    }
    if there.epoch != entry.epoch {
        return Ok(HandshakeAppended::StaleEpoch { current: there.epoch });
    }
    if there.pending != append.pending {
        return Ok(HandshakeAppended::Raced);
    }
    if there.kind == ConversationKind::Direct && is_blocked_by_peer(connection, append)? {
        return Ok(HandshakeAppended::Refused(append.account.clone()));
    }
    if let Some(commit) = &append.commit
        && let Some(refusal) = refusal(connection, append, commit)?
    {
        return Ok(refusal);
    }
    insert(connection, append, there.kind)
}

fn is_blocked_by_peer(connection: &Connection, append: &AppendHandshake) -> Result<bool> {
    let sql = "SELECT 1 FROM conversation c JOIN block b ON b.owner = iif(c.low = ?2, c.high, c.low)
               AND b.blocked = ?2 WHERE c.id = ?1";
    let values = params![append.conversation.as_bytes(), append.account.as_str()];
    Ok(columns::first(connection, sql, values, |_| Ok(()))?.is_some())
}

/// What only the store can know against a commit.
fn refusal(connection: &Connection, append: &AppendHandshake, commit: &NewCommit) -> Result<Option<HandshakeAppended>> {
    for leaf in commit.added.iter().chain(&commit.reidentified) {
        if !devices::is_leaf(connection, leaf)? {
            return Ok(Some(HandshakeAppended::OtherLeaf(leaf.device)));
        }
    }
    for account in &commit.joined {
        if blocks::is_blocked(connection, account.as_str(), append.account.as_str())? {
            return Ok(Some(HandshakeAppended::Refused(account.clone())));
        }
    }
    Ok(None)
}

fn insert(connection: &Connection, append: &AppendHandshake, kind: ConversationKind) -> Result<HandshakeAppended> {
    let (id, entry) = (append.conversation.as_bytes(), &append.entry);
    let sql = match append.commit {
        Some(_) => {
            "UPDATE conversation SET head = head + 1, epoch = epoch + 1, pending = 0 WHERE id = ?1
             RETURNING head, accounts"
        }
        None => "UPDATE conversation SET head = head + 1, pending = pending + 1 WHERE id = ?1 RETURNING head, accounts",
    };
    let counts = columns::all(connection, sql, [id], |row| Ok((row.get::<_, u64>(0)?, row.get(1)?)))?.pop();
    let (seq, accounts) = counts.unwrap_or_default();
    let entry = Entry {
        seq,
        message_id: entry.message_id,
        account: append.account.clone(),
        device: append.device,
        epoch: entry.epoch,
        kind: entry.kind,
        payload: entry.payload.clone(),
        time_ms: append.now_ms,
    };
    log::insert_entry(connection, append.conversation, &entry)?;
    let mut new = NewHandshake {
        own: None,
        joinings: Vec::new(),
        removed: Vec::new(),
        joined: Vec::new(),
        accounts,
        deleted: false,
        entry,
    };
    match &append.commit {
        Some(commit) => apply(connection, append, commit, seq, kind, &mut new)?,
        None => {
            let sql = "UPDATE public_state SET state = ?2 WHERE conversation = ?1";
            columns::execute(connection, sql, params![id, &append.state[..]])?;
        }
    }
    if append.commit.as_ref().is_some_and(|commit| commit.external) {
        new.own = conversations::membership_of(connection, append.conversation, append.device)?;
    }
    Ok(HandshakeAppended::Accepted { seq, time_ms: append.now_ms, new: Some(Box::new(new)) })
}

fn apply(
    connection: &Connection,
    append: &AppendHandshake,
    commit: &NewCommit,
    seq: u64,
    kind: ConversationKind,
    new: &mut NewHandshake,
) -> Result<()> {
    let (conversation, id) = (append.conversation, append.conversation.as_bytes());
    save_state(connection, conversation, &append.state, &commit.group_info)?;
    for device in &commit.removed {
        let sql = "UPDATE member SET ends_at = ?3 WHERE conversation = ?1 AND device = ?2 AND ends_at IS NULL";
        if columns::execute(connection, sql, params![id, device.as_bytes(), seq])? > 0 {
            new.removed.push(*device);
        }
    }
    for leaf in &commit.added {
        // Who joins by his own commit finds it in the log as his own entry; who is added begins after it.
        let start = if leaf.device == append.device { seq - 1 } else { seq };
        conversations::insert_member(connection, conversation, leaf.device, &leaf.account, start, start)?;
        if leaf.device == append.device {
            let sql = "DELETE FROM joining WHERE device = ?1 AND conversation = ?2";
            columns::execute(connection, sql, [leaf.device.as_bytes(), id])?;
        }
    }
    for account in &commit.joined {
        conversations::enter_roster(connection, conversation, account)?;
    }
    if let Some(leaf) = commit.reidentified.as_ref().filter(|_| kind == ConversationKind::Group) {
        conversations::enter_roster(connection, conversation, &leaf.account)?;
    }
    for account in &commit.left {
        let sql = "DELETE FROM roster WHERE conversation = ?1 AND account = ?2";
        columns::execute(connection, sql, params![id, account.as_str()])?;
    }
    if !(commit.joined.is_empty() && commit.left.is_empty()) {
        let sql = "UPDATE conversation SET accounts = (SELECT count(*) FROM roster WHERE conversation = ?1)
                   WHERE id = ?1 RETURNING accounts";
        new.accounts = columns::all(connection, sql, [id], |row| row.get(0))?.pop().unwrap_or(0);
    }
    new.joinings = joinings::insert(
        connection,
        &Joiners {
            conversation,
            creator: &append.account,
            peer: None,
            welcomes: &commit.welcomes,
            epoch: append.entry.epoch + 1,
            ratchet_tree: &commit.ratchet_tree,
            start_seq: seq,
            replaces: None,
            now_ms: append.now_ms,
        },
    )?;
    new.joined.clone_from(&commit.joined);
    if commit.deleted {
        columns::execute(connection, "UPDATE conversation SET abandoned = 1 WHERE id = ?1", [id])?;
        forget_state(connection, conversation)?;
        new.deleted = true;
    }
    Ok(())
}
