//! Key packages in SQLite.
//!
//! **Invariant**: a one-time package is handed out once.

use bytes::Bytes;
use fastchat_wire::{AccountName, DeviceId};
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, accounts, columns, devices};
use crate::{Claim, Claimed, KeyPackages, Outcome, Published};

/// Also a conversation that was closed counts: they knew each other.
pub(super) const ACQUAINTED: &str = "SELECT 1 FROM conversation WHERE kind = 1 AND low = ?1 AND high = ?2
    UNION ALL SELECT 1 FROM roster a JOIN roster b ON a.conversation = b.conversation
    WHERE a.account = ?1 AND b.account = ?2 LIMIT 1";

impl KeyPackages for SqliteStore {
    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
        keep: u32,
        now_ms: u64,
    ) -> impl Outcome<Option<Published>> {
        self.write(move |connection| {
            let Some(account) = devices::owner(connection, device)? else { return Ok(None) };
            let mut change = None;
            if let Some(body) = &last_resort {
                let sql = "DELETE FROM key_package WHERE device = ?1 AND last_resort = 1";
                columns::execute(connection, sql, [device.as_bytes()])?;
                insert(connection, device, true, body)?;
                change = devices::offer(connection, account, device, now_ms)?;
            }
            for body in &one_time {
                insert(connection, device, false, body)?;
            }
            let sql = "DELETE FROM key_package WHERE number IN (SELECT number FROM key_package
                       WHERE device = ?1 AND last_resort = 0 ORDER BY number DESC LIMIT -1 OFFSET ?2)";
            columns::execute(connection, sql, params![device.as_bytes(), keep])?;
            let sql = "SELECT count(*) FROM key_package WHERE device = ?1 AND last_resort = 0";
            let one_time = columns::first(connection, sql, [device.as_bytes()], |row| row.get(0))?;
            Ok(one_time.map(|one_time| Published { one_time, change }))
        })
    }

    fn claim_key_packages(&self, claim: Claim) -> impl Outcome<Option<Claimed>> {
        self.write(move |connection| claim_all(connection, &claim))
    }

    fn are_acquainted(&self, one: AccountName, other: AccountName) -> impl Outcome<bool> {
        self.read(move |connection| {
            let (low, high) = if one < other { (&one, &other) } else { (&other, &one) };
            Ok(columns::first(connection, ACQUAINTED, [low.as_str(), high.as_str()], |_| Ok(()))?.is_some())
        })
    }
}

fn claim_all(connection: &Connection, claim: &Claim) -> Result<Option<Claimed>> {
    let Some(identity_key) = accounts::identity_key(connection, &claim.account)? else { return Ok(None) };
    let own = devices::owner(connection, claim.by)?.as_ref() == Some(&claim.account);
    let is_setting_up = own && devices::is_setting_up(connection, &claim.account, claim.by, claim.now_ms)?;
    let mut claimed = Claimed { identity_key, packages: Vec::new(), is_setting_up };
    if is_setting_up {
        return Ok(Some(claimed));
    }
    for device in devices::reachable(connection, &claim.account, claim.now_ms)? {
        if device == claim.by {
            continue;
        }
        let Some((number, one_time, body)) = offer(connection, device, claim.reserve)? else { continue };
        if one_time {
            columns::execute(connection, "DELETE FROM key_package WHERE number = ?1", [number])?;
        }
        claimed.packages.push((device, body));
    }
    Ok(Some(claimed))
}

/// The package that a device has for the next one who asks: its number, whether it is one-time, and itself.
fn offer(connection: &Connection, device: DeviceId, reserve: u32) -> Result<Option<(i64, bool, Bytes)>> {
    let sql = "SELECT number, last_resort, body FROM key_package WHERE device = ?1 AND (last_resort = 1 OR ?2 <
               (SELECT count(*) FROM key_package WHERE device = ?1 AND last_resort = 0))
               ORDER BY last_resort, number LIMIT 1";
    columns::first(connection, sql, params![device.as_bytes(), reserve], |row| {
        Ok((row.get(0)?, !row.get::<_, bool>(1)?, columns::bytes(row, 2)?))
    })
}

fn insert(connection: &Connection, device: DeviceId, last_resort: bool, body: &Bytes) -> Result<()> {
    let sql = "INSERT INTO key_package (device, last_resort, body) VALUES (?1, ?2, ?3)";
    columns::execute(connection, sql, params![device.as_bytes(), last_resort, &body[..]]).map(drop)
}
