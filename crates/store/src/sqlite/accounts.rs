//! Accounts and the server's secrets in SQLite.
//!
//! **Invariant**: an account never exists without the device that made it having existed.

use bytes::Bytes;
use fastchat_wire::AccountName;
use rusqlite::{Connection, Result, params};

use super::{SqliteStore, columns, devices, invites};
use crate::{
    AccountRecord, Accounts, ChangePassword, CreateAccount, DeviceChange, InviteHash, Kdf, NewAccount, NewDevice,
    Outcome, RotateIdentity,
};

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

    fn change_password(&self, change: ChangePassword) -> impl Outcome<Option<DeviceChange>> {
        self.write(move |connection| change_password(connection, change))
    }

    fn rotate_identity(&self, rotation: RotateIdentity) -> impl Outcome<Option<DeviceChange>> {
        self.write(move |connection| rotate(connection, rotation))
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

fn change_password(connection: &Connection, change: ChangePassword) -> Result<Option<DeviceChange>> {
    let ended = match change.only_device {
        Some(device) => match devices::keep_only(connection, change.account.clone(), device)? {
            Some(ended) => ended,
            None => return Ok(None),
        },
        None => DeviceChange { account: change.account.clone(), removed: Vec::new(), closed: Vec::new() },
    };
    let sql = "UPDATE account SET kdf_salt = ?2, kdf_memory_kib = ?3, kdf_iterations = ?4, kdf_parallelism = ?5,
               auth_hash = ?6, identity_backup = ?7 WHERE name = ?1";
    let ChangePassword { account, kdf, auth_hash, identity_backup, .. } = &change;
    let values = params![
        account.as_str(),
        &kdf.salt[..],
        kdf.memory_kib,
        kdf.iterations,
        kdf.parallelism,
        auth_hash,
        &identity_backup[..],
    ];
    Ok((columns::execute(connection, sql, values)? > 0).then_some(ended))
}

fn rotate(connection: &Connection, rotation: RotateIdentity) -> Result<Option<DeviceChange>> {
    let RotateIdentity { account, identity_key, identity_backup, device, certificate } = rotation;
    let Some(change) = devices::keep_only(connection, account.clone(), device)? else { return Ok(None) };
    replace_identity(connection, &account, &identity_key, &identity_backup)?;
    let sql = "UPDATE device SET certificate = ?2, offered_ms = 0 WHERE id = ?1";
    columns::execute(connection, sql, params![device.as_bytes(), &certificate[..]])?;
    // They were made under the old identity.
    columns::execute(connection, "DELETE FROM key_package WHERE device = ?1", [device.as_bytes()])?;
    Ok(Some(change))
}

/// The account goes by this identity from now on.
pub(super) fn replace_identity(
    connection: &Connection,
    account: &AccountName,
    key: &Bytes,
    backup: &Bytes,
) -> Result<()> {
    let sql = "UPDATE account SET identities = identities + (identity_key <> ?2), identity_key = ?2,
               identity_backup = ?3 WHERE name = ?1";
    columns::execute(connection, sql, params![account.as_str(), &key[..], &backup[..]]).map(drop)
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
        "INSERT INTO account (name, kdf_salt, kdf_memory_kib, kdf_iterations, kdf_parallelism, auth_hash, identity_key,
         identity_backup, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
    devices::insert(connection, &account.name, device, now_ms)?;
    Ok(CreateAccount::Created)
}
