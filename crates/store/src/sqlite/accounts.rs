//! Accounts and the server's secrets in SQLite.
//!
//! **Invariant**: an account never exists without the device that made it having existed.

use bytes::Bytes;
use fastchat_wire::AccountName;
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, columns, devices, invites};
use crate::{AccountRecord, Accounts, CreateAccount, InviteHash, Kdf, NewAccount, NewDevice, Outcome};

impl Accounts for SqliteStore {
    fn create_account(
        &self,
        account: NewAccount,
        device: NewDevice,
        invite: Option<InviteHash>,
        now_ms: u64,
    ) -> impl Outcome<CreateAccount> {
        self.write(move |connection| create(connection, &account, &device, invite, now_ms))
    }

    fn account(&self, name: AccountName) -> impl Outcome<Option<AccountRecord>> {
        self.read(move |connection| {
            let sql = "SELECT kdf_salt, kdf_memory_kib, kdf_iterations, kdf_parallelism, auth_hash, identity_key,
                       identity_backup FROM account WHERE name = ?1";
            columns::first(connection, sql, [name.as_str()], |row| {
                Ok(AccountRecord {
                    kdf: Kdf {
                        salt: columns::bytes(row, 0)?,
                        memory_kib: row.get(1)?,
                        iterations: row.get(2)?,
                        parallelism: row.get(3)?,
                    },
                    auth_hash: row.get(4)?,
                    identity_key: columns::bytes(row, 5)?,
                    identity_backup: columns::bytes(row, 6)?,
                    name: name.clone(),
                })
            })
        })
    }

    fn identity_key(&self, name: AccountName) -> impl Outcome<Option<Bytes>> {
        self.read(move |connection| identity_key(connection, &name))
    }

    fn server_secret(&self, name: &'static str, fresh: [u8; 32]) -> impl Outcome<[u8; 32]> {
        self.write(move |connection| {
            columns::execute(connection, "INSERT OR IGNORE INTO secret VALUES (?1, ?2)", params![name, fresh])?;
            connection.query_row("SELECT value FROM secret WHERE name = ?1", [name], |row| row.get(0))
        })
    }
}

pub(super) fn identity_key(connection: &Connection, name: &AccountName) -> Result<Option<Bytes>> {
    let sql = "SELECT identity_key FROM account WHERE name = ?1";
    columns::first(connection, sql, [name.as_str()], |row| columns::bytes(row, 0))
}

fn create(
    connection: &Connection,
    account: &NewAccount,
    device: &NewDevice,
    invite: Option<InviteHash>,
    now_ms: u64,
) -> Result<CreateAccount> {
    // The invite first: without one, nobody learns which names are taken.
    if let Some(invite) = invite
        && !invites::is_good(connection, invite, now_ms)?
    {
        return Ok(CreateAccount::InviteRefused);
    }
    if identity_key(connection, &account.name)?.is_some() {
        return Ok(CreateAccount::NameTaken);
    }
    if devices::owner(connection, device.device)?.is_some() {
        return Ok(CreateAccount::DeviceTaken);
    }
    if let Some(invite) = invite {
        invites::use_once(connection, invite)?;
    }
    columns::execute(
        connection,
        "INSERT INTO account VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            account.name.as_str(),
            &account.kdf.salt[..],
            account.kdf.memory_kib,
            account.kdf.iterations,
            account.kdf.parallelism,
            account.auth_hash,
            &account.identity_key[..],
            &account.identity_backup[..],
            now_ms,
        ],
    )?;
    devices::insert(connection, &account.name, device)?;
    Ok(CreateAccount::Created)
}
