//! Devices and session tokens in SQLite.
//!
//! **Invariant**: with a device goes everything that was its own: tokens, key packages, cursors, joinings; and with
//! every change of an account's devices that can be written to its direct conversations close.

use fastchat_wire::{AccountName, ConversationId, DeviceId};
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, accounts, columns, links};
use crate::{
    AddDevice, DeviceAdded, DeviceChange, DeviceRecord, DeviceSession, Devices, NewDevice, NewLeaf, OFFER_LIFE_MS,
    Outcome, SETTING_UP_MS, TokenHash,
};

impl Devices for SqliteStore {
    fn add_device(&self, login: AddDevice) -> impl Outcome<DeviceAdded> {
        self.write(move |connection| add(connection, &login))
    }

    fn devices(&self, account: AccountName) -> impl Outcome<Vec<DeviceRecord>> {
        self.read(move |connection| {
            let sql = "SELECT id, name, certificate, added_ms, seen_ms FROM device WHERE account = ?1
                       ORDER BY added_ms, id";
            columns::all(connection, sql, [account.as_str()], |row| {
                Ok(DeviceRecord {
                    device: columns::device(row, 0)?,
                    name: row.get(1)?,
                    certificate: columns::bytes(row, 2)?,
                    added_ms: row.get(3)?,
                    seen_ms: row.get(4)?,
                })
            })
        })
    }

    fn rename_device(&self, account: AccountName, device: DeviceId, name: String) -> impl Outcome<bool> {
        self.write(move |connection| {
            let sql = "UPDATE device SET name = ?3 WHERE id = ?2 AND account = ?1";
            Ok(columns::execute(connection, sql, params![account.as_str(), device.as_bytes(), name])? > 0)
        })
    }

    fn note_seen(&self, device: DeviceId, seen_ms: u64) -> impl Outcome<()> {
        self.write(move |connection| {
            let sql = "UPDATE device SET seen_ms = ?2 WHERE id = ?1 AND seen_ms < ?2";
            columns::execute(connection, sql, params![device.as_bytes(), seen_ms]).map(drop)
        })
    }

    fn device_by_token(&self, token: TokenHash, now_ms: u64) -> impl Outcome<Option<DeviceSession>> {
        self.read(move |connection| {
            let sql = "SELECT d.account, d.id, d.signature_key, t.expires_ms,
                       (SELECT count(*) FROM key_package k WHERE k.device = d.id AND k.last_resort = 0), d.seen_ms
                       FROM token t JOIN device d ON d.id = t.device WHERE t.hash = ?1 AND t.expires_ms > ?2";
            columns::first(connection, sql, params![token.0, now_ms], |row| {
                Ok(DeviceSession {
                    account: columns::account(row, 0)?,
                    device: columns::device(row, 1)?,
                    signature_key: row.get(2)?,
                    token_expires_ms: row.get(3)?,
                    key_packages: row.get(4)?,
                    seen_ms: row.get(5)?,
                })
            })
        })
    }

    fn add_token(&self, device: DeviceId, token: TokenHash, expires_ms: u64, now_ms: u64) -> impl Outcome<bool> {
        self.write(move |connection| {
            if owner(connection, device)?.is_none() {
                return Ok(false);
            }
            let sql = "DELETE FROM token WHERE device = ?1 AND expires_ms <= ?2";
            columns::execute(connection, sql, params![device.as_bytes(), now_ms])?;
            insert_token(connection, device, token, expires_ms)?;
            Ok(true)
        })
    }

    fn remove_device(&self, account: AccountName, device: DeviceId) -> impl Outcome<Option<DeviceChange>> {
        self.write(move |connection| {
            if owner(connection, device)?.as_ref() != Some(&account) {
                return Ok(None);
            }
            remove(connection, account, vec![device]).map(Some)
        })
    }
}

/// The account that has this device.
pub(super) fn owner(connection: &Connection, device: DeviceId) -> Result<Option<AccountName>> {
    let sql = "SELECT account FROM device WHERE id = ?1";
    columns::first(connection, sql, [device.as_bytes()], |row| columns::account(row, 0))
}

/// The account's devices.
pub(super) fn of_account(connection: &Connection, account: &AccountName) -> Result<Vec<DeviceId>> {
    let sql = "SELECT id FROM device WHERE account = ?1 ORDER BY id";
    columns::all(connection, sql, [account.as_str()], |row| columns::device(row, 0))
}

/// Those of them that others can write to.
pub(super) fn reachable(connection: &Connection, account: &AccountName, now_ms: u64) -> Result<Vec<DeviceId>> {
    let sql = "SELECT id FROM device WHERE account = ?1 AND offered_ms > ?2 ORDER BY id";
    let values = params![account.as_str(), now_ms.saturating_sub(OFFER_LIFE_MS)];
    columns::all(connection, sql, values, |row| columns::device(row, 0))
}

/// Whether the account has another device that has just logged in and cannot be written to yet.
pub(super) fn is_setting_up(connection: &Connection, account: &AccountName, by: DeviceId, now_ms: u64) -> Result<bool> {
    let sql = "SELECT 1 FROM device WHERE account = ?1 AND id <> ?2 AND offered_ms = 0 AND added_ms > ?3 LIMIT 1";
    let values = params![account.as_str(), by.as_bytes(), now_ms.saturating_sub(SETTING_UP_MS)];
    Ok(columns::first(connection, sql, values, |_| Ok(()))?.is_some())
}

/// The device has offered a key package of last resort. If nobody could write to it before, it has to come into the
/// account's direct conversations: those that it is no member of close.
pub(super) fn offer(
    connection: &Connection,
    account: AccountName,
    device: DeviceId,
    now_ms: u64,
) -> Result<Option<DeviceChange>> {
    let was_reachable = reachable(connection, &account, now_ms)?.contains(&device);
    let sql = "UPDATE device SET offered_ms = ?2 WHERE id = ?1";
    columns::execute(connection, sql, params![device.as_bytes(), now_ms])?;
    if was_reachable {
        return Ok(None);
    }
    let sql = "UPDATE conversation SET abandoned = 1 WHERE kind = 1 AND closed_by IS NULL AND abandoned = 0
               AND (low = ?1 OR high = ?1) AND NOT EXISTS (SELECT 1 FROM member m
               WHERE m.conversation = conversation.id AND m.device = ?2) RETURNING id";
    let values = params![account.as_str(), device.as_bytes()];
    let closed = columns::all(connection, sql, values, |row| columns::conversation(row, 0))?;
    Ok(Some(DeviceChange { account, removed: Vec::new(), closed }))
}

/// Whether a leaf is what we know of its device.
pub(super) fn is_leaf(connection: &Connection, leaf: &NewLeaf) -> Result<bool> {
    let sql = "SELECT 1 FROM device d JOIN account a ON a.name = d.account
               WHERE d.id = ?1 AND d.account = ?2 AND d.signature_key = ?3 AND a.identity_key = ?4
               AND d.certificate = ?5";
    let values = params![
        leaf.device.as_bytes(),
        leaf.account.as_str(),
        &leaf.signature_key[..],
        &leaf.identity_key[..],
        &leaf.certificate[..],
    ];
    Ok(columns::first(connection, sql, values, |_| Ok(()))?.is_some())
}

pub(super) fn insert(connection: &Connection, account: &AccountName, device: &NewDevice, now_ms: u64) -> Result<()> {
    let sql = "INSERT INTO device (id, account, signature_key, certificate, name, added_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let id = device.device.as_bytes();
    let values = params![id, account.as_str(), device.signature_key, &device.certificate[..], device.name, now_ms];
    columns::execute(connection, sql, values)?;
    insert_token(connection, device.device, device.token, device.token_expires_ms)
}

fn insert_token(connection: &Connection, device: DeviceId, token: TokenHash, expires_ms: u64) -> Result<()> {
    let sql = "INSERT INTO token VALUES (?1, ?2, ?3)";
    columns::execute(connection, sql, params![token.0, device.as_bytes(), expires_ms]).map(drop)
}

fn add(connection: &Connection, login: &AddDevice) -> Result<DeviceAdded> {
    let account = login.account.as_str();
    let again = match owner(connection, login.device.device)? {
        Some(owner) if owner != login.account => return Ok(DeviceAdded::DeviceTaken),
        again => again.is_some(),
    };
    if columns::first(connection, "SELECT 1 FROM account WHERE name = ?1", [account], |_| Ok(()))?.is_none() {
        return Ok(DeviceAdded::NoAccount);
    }
    // The grant first: without a good one, nobody learns anything about the account.
    if let Some(grant) = login.grant
        && !links::is_good_grant(connection, &login.account, grant, login.now_ms)?
    {
        return Ok(DeviceAdded::GrantRefused);
    }
    let there = of_account(connection, &login.account)?;
    if login.identity.is_none() && !again && there.len() >= login.most as usize {
        return Ok(DeviceAdded::TooMany);
    }
    if login.grant.is_some() {
        links::use_grant(connection, &login.account)?;
    }
    let goes = |device: &DeviceId| login.identity.is_some() || *device == login.device.device;
    if let Some((key, backup)) = &login.identity {
        accounts::replace_identity(connection, &login.account, key, backup)?;
    }
    let gone: Vec<DeviceId> = there.into_iter().filter(goes).collect();
    let change = if gone.is_empty() {
        // What the account's devices tell each other from now on is for the new one too.
        DeviceChange { account: login.account.clone(), removed: gone, closed: close_own(connection, &login.account)? }
    } else {
        remove(connection, login.account.clone(), gone)?
    };
    insert(connection, &login.account, &login.device, login.now_ms)?;
    Ok(DeviceAdded::Done(change))
}

/// The account's devices but for one go, and its direct conversations close. `None`: that one is not its device.
pub(super) fn keep_only(
    connection: &Connection,
    account: AccountName,
    device: DeviceId,
) -> Result<Option<DeviceChange>> {
    let (kept, others): (Vec<_>, Vec<_>) =
        of_account(connection, &account)?.into_iter().partition(|known| *known == device);
    if kept.is_empty() { Ok(None) } else { remove(connection, account, others).map(Some) }
}

fn remove(connection: &Connection, account: AccountName, removed: Vec<DeviceId>) -> Result<DeviceChange> {
    let closed = close_directs(connection, &account)?;
    for device in &removed {
        columns::execute(connection, "DELETE FROM device WHERE id = ?1", [device.as_bytes()])?;
    }
    Ok(DeviceChange { account, removed, closed })
}

/// Closes what the account's devices have among themselves.
fn close_own(connection: &Connection, account: &AccountName) -> Result<Vec<ConversationId>> {
    let sql = "UPDATE conversation SET abandoned = 1 WHERE kind = 1 AND closed_by IS NULL AND abandoned = 0
               AND low = ?1 AND high = ?1 RETURNING id";
    columns::all(connection, sql, [account.as_str()], |row| columns::conversation(row, 0))
}

fn close_directs(connection: &Connection, account: &AccountName) -> Result<Vec<ConversationId>> {
    let sql = "UPDATE conversation SET abandoned = 1 WHERE kind = 1 AND closed_by IS NULL AND abandoned = 0
               AND (low = ?1 OR high = ?1) RETURNING id";
    columns::all(connection, sql, [account.as_str()], |row| columns::conversation(row, 0))
}
