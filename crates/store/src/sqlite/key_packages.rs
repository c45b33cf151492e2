//! Key packages in SQLite.
//!
//! **Invariant**: a one-time package is handed out once.

use bytes::Bytes;
use fastchat_wire::{AccountName, DeviceId};
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, accounts, columns, devices};
use crate::{Claimed, KeyPackages, Outcome};

impl KeyPackages for SqliteStore {
    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
        keep: u32,
    ) -> impl Outcome<Option<u32>> {
        self.write(move |connection| {
            if devices::owner(connection, device)?.is_none() {
                return Ok(None);
            }
            if let Some(body) = &last_resort {
                let sql = "DELETE FROM key_package WHERE device = ?1 AND last_resort = 1";
                columns::execute(connection, sql, [device.as_bytes()])?;
                insert(connection, device, true, body)?;
            }
            for body in &one_time {
                insert(connection, device, false, body)?;
            }
            let sql = "DELETE FROM key_package WHERE number IN (SELECT number FROM key_package
                       WHERE device = ?1 AND last_resort = 0 ORDER BY number DESC LIMIT -1 OFFSET ?2)";
            columns::execute(connection, sql, params![device.as_bytes(), keep])?;
            let sql = "SELECT count(*) FROM key_package WHERE device = ?1 AND last_resort = 0";
            columns::first(connection, sql, [device.as_bytes()], |row| row.get(0))
        })
    }

    fn claim_key_packages(&self, account: AccountName) -> impl Outcome<Option<Claimed>> {
        self.write(move |connection| {
            let Some(identity_key) = accounts::identity_key(connection, &account)? else { return Ok(None) };
            let mut claimed = Claimed { identity_key, packages: Vec::new(), without: 0 };
            for device in devices::of_account(connection, &account)? {
                match take(connection, device)? {
                    Some(package) => claimed.packages.push((device, package)),
                    None => claimed.without += 1,
                }
            }
            Ok(Some(claimed))
        })
    }
}

fn insert(connection: &Connection, device: DeviceId, last_resort: bool, body: &Bytes) -> Result<()> {
    let sql = "INSERT INTO key_package (device, last_resort, body) VALUES (?1, ?2, ?3)";
    columns::execute(connection, sql, params![device.as_bytes(), last_resort, &body[..]]).map(drop)
}

fn take(connection: &Connection, device: DeviceId) -> Result<Option<Bytes>> {
    let sql = "DELETE FROM key_package WHERE number = (SELECT number FROM key_package
               WHERE device = ?1 AND last_resort = 0 ORDER BY number LIMIT 1) RETURNING body";
    // All rows, so that the statement runs to its end.
    if let Some(package) = columns::all(connection, sql, [device.as_bytes()], |row| columns::bytes(row, 0))?.pop() {
        return Ok(Some(package));
    }
    let sql = "SELECT body FROM key_package WHERE device = ?1 AND last_resort = 1";
    columns::first(connection, sql, [device.as_bytes()], |row| columns::bytes(row, 0))
}
