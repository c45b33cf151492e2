//! Devices and session tokens in SQLite.
//!
//! **Invariant**: with a device goes everything that was its own: tokens, key packages, cursors, joinings.

use fastchat_wire::{AccountName, DeviceId};
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, columns};
use crate::{DeviceSession, Devices, NewDevice, Outcome, RemovedDevice, ReplaceDevice, Replacement, TokenHash};

impl Devices for SqliteStore {
    fn replace_device(&self, login: ReplaceDevice) -> impl Outcome<Replacement> {
        self.write(move |connection| replace(connection, &login))
    }

    fn device_by_token(&self, token: TokenHash, now_ms: u64) -> impl Outcome<Option<DeviceSession>> {
        self.read(move |connection| {
            let sql = "SELECT d.account, d.id, d.signature_key, t.expires_ms,
                       (SELECT count(*) FROM key_package k WHERE k.device = d.id AND k.last_resort = 0)
                       FROM token t JOIN device d ON d.id = t.device WHERE t.hash = ?1 AND t.expires_ms > ?2";
            columns::first(connection, sql, params![token.0, now_ms], |row| {
                Ok(DeviceSession {
                    account: columns::account(row, 0)?,
                    device: columns::device(row, 1)?,
                    signature_key: row.get(2)?,
                    token_expires_ms: row.get(3)?,
                    key_packages: row.get(4)?,
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

    fn remove_device(&self, device: DeviceId) -> impl Outcome<Option<RemovedDevice>> {
        self.write(move |connection| match owner(connection, device)? {
            Some(_) => remove(connection, device).map(Some),
            None => Ok(None),
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

pub(super) fn insert(connection: &Connection, account: &AccountName, device: &NewDevice) -> Result<()> {
    let sql = "INSERT INTO device VALUES (?1, ?2, ?3, ?4, ?5)";
    let id = device.device.as_bytes();
    let values = params![id, account.as_str(), device.signature_key, &device.certificate[..], device.name];
    columns::execute(connection, sql, values)?;
    insert_token(connection, device.device, device.token, device.token_expires_ms)
}

fn insert_token(connection: &Connection, device: DeviceId, token: TokenHash, expires_ms: u64) -> Result<()> {
    let sql = "INSERT INTO token VALUES (?1, ?2, ?3)";
    columns::execute(connection, sql, params![token.0, device.as_bytes(), expires_ms]).map(drop)
}

fn replace(connection: &Connection, login: &ReplaceDevice) -> Result<Replacement> {
    let account = login.account.as_str();
    match owner(connection, login.device.device)? {
        Some(owner) if owner != login.account => return Ok(Replacement::DeviceTaken),
        _ => {}
    }
    if columns::first(connection, "SELECT 1 FROM account WHERE name = ?1", [account], |_| Ok(()))?.is_none() {
        return Ok(Replacement::NoAccount);
    }
    if let Some((key, backup)) = &login.identity {
        let sql = "UPDATE account SET identity_key = ?2, identity_backup = ?3 WHERE name = ?1";
        columns::execute(connection, sql, params![account, &key[..], &backup[..]])?;
    }
    let old = of_account(connection, &login.account)?;
    let removed = old.into_iter().map(|device| remove(connection, device)).collect::<Result<_>>()?;
    insert(connection, &login.account, &login.device)?;
    Ok(Replacement::Done(removed))
}

fn remove(connection: &Connection, device: DeviceId) -> Result<RemovedDevice> {
    let id = device.as_bytes();
    let sql = "UPDATE conversation SET abandoned = 1 WHERE closed_by IS NULL AND abandoned = 0
               AND id IN (SELECT conversation FROM member WHERE device = ?1) RETURNING id";
    let left = columns::all(connection, sql, [id], |row| columns::conversation(row, 0))?;
    columns::execute(connection, "DELETE FROM device WHERE id = ?1", [id])?;
    Ok(RemovedDevice { device, left })
}
