//! The tables, and how older databases become current.
//!
//! **Invariant**: migrations only go forward, each in one transaction with its version number; a newer database is
//! left alone.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::OpenError;

/// One step per version; a released step is never edited.
const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2];

const VERSION_1: &str = "
CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;

CREATE TABLE account (
    name TEXT PRIMARY KEY,
    kdf_salt BLOB NOT NULL,
    kdf_memory_kib INTEGER NOT NULL,
    kdf_iterations INTEGER NOT NULL,
    kdf_parallelism INTEGER NOT NULL,
    auth_hash TEXT NOT NULL,
    identity_key BLOB NOT NULL,
    identity_backup BLOB NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE device (
    id BLOB PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    signature_key BLOB NOT NULL,
    certificate BLOB NOT NULL,
    name TEXT NOT NULL
) STRICT;
CREATE INDEX device_by_account ON device (account);

CREATE TABLE token (
    hash BLOB PRIMARY KEY,
    device BLOB NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX token_by_device ON token (device);

CREATE TABLE key_package (
    number INTEGER PRIMARY KEY,
    device BLOB NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    last_resort INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX key_package_by_device ON key_package (device, last_resort);

-- low and high: the pair of a direct conversation, in the order of their names.
-- abandoned: a member's device is gone for good; nothing more is appended, the pair may replace it.
CREATE TABLE conversation (
    id BLOB PRIMARY KEY,
    low TEXT NOT NULL,
    high TEXT NOT NULL,
    creator_device BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    head INTEGER NOT NULL DEFAULT 0,
    expired_through INTEGER NOT NULL DEFAULT 0,
    abandoned INTEGER NOT NULL DEFAULT 0,
    closed_by BLOB,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX conversation_of_pair ON conversation (low, high) WHERE closed_by IS NULL;

CREATE TABLE member (
    conversation BLOB NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    device BLOB NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    account TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    PRIMARY KEY (conversation, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX member_by_device ON member (device);

CREATE TABLE joining (
    device BLOB NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    conversation BLOB NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    creator TEXT NOT NULL,
    creator_identity_key BLOB NOT NULL,
    welcome BLOB NOT NULL,
    friend_key BLOB NOT NULL,
    start_seq INTEGER NOT NULL,
    replaces BLOB,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (device, conversation)
) STRICT;

-- expired: retention took the payload; the row stays so that a resend by its sender is still known.
CREATE TABLE entry (
    number INTEGER PRIMARY KEY,
    conversation BLOB NOT NULL,
    seq INTEGER NOT NULL,
    message_id BLOB NOT NULL,
    account TEXT NOT NULL,
    device BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    payload BLOB NOT NULL,
    time_ms INTEGER NOT NULL,
    expired INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX entry_by_seq ON entry (conversation, seq);
CREATE UNIQUE INDEX entry_by_message ON entry (conversation, message_id);

CREATE TABLE block (
    owner TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    blocked TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    PRIMARY KEY (owner, blocked)
) STRICT, WITHOUT ROWID;

CREATE TABLE invite (
    hash BLOB PRIMARY KEY,
    uses_left INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    note TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
";

const VERSION_2: &str = "
ALTER TABLE device ADD COLUMN added_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN seen_ms INTEGER NOT NULL DEFAULT 0;
-- offered_ms: when its key package of last resort came; 0: there is none. Others write to it for 80 days from then on.
ALTER TABLE device ADD COLUMN offered_ms INTEGER NOT NULL DEFAULT 0;
UPDATE device SET offered_ms = unixepoch() * 1000
WHERE EXISTS (SELECT 1 FROM key_package k WHERE k.device = device.id AND k.last_resort = 1);

-- How many identities it has had.
ALTER TABLE account ADD COLUMN identities INTEGER NOT NULL DEFAULT 1;

-- kind: 1 direct (low = high for one's own), 2 group (low and high are empty).
-- pending: leave proposals of this epoch. accounts: how many are members.
-- abandoned: from now on also a group that was deleted.
ALTER TABLE conversation ADD COLUMN kind INTEGER NOT NULL DEFAULT 1;
ALTER TABLE conversation ADD COLUMN pending INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversation ADD COLUMN accounts INTEGER NOT NULL DEFAULT 2;
DROP INDEX conversation_of_pair;
CREATE UNIQUE INDEX conversation_of_pair ON conversation (low, high) WHERE kind = 1 AND closed_by IS NULL;
CREATE INDEX conversation_replaced ON conversation (closed_by) WHERE closed_by IS NOT NULL;
CREATE INDEX conversation_deleted ON conversation (id) WHERE kind = 2 AND abandoned = 1;
-- Who knows whom, also by one that was replaced.
CREATE INDEX conversation_of_acquaintances ON conversation (low, high) WHERE kind = 1;
CREATE INDEX conversation_by_high ON conversation (high) WHERE kind = 1 AND closed_by IS NULL;
-- Conversations of version 1 have no public state: they are made anew.
UPDATE conversation SET abandoned = 1 WHERE closed_by IS NULL;

-- Apart from the conversation: its row is written with each message.
CREATE TABLE public_state (
    conversation BLOB PRIMARY KEY REFERENCES conversation (id) ON DELETE CASCADE,
    state BLOB NOT NULL,
    group_info BLOB NOT NULL
) STRICT;

-- The accounts with a leaf in a group, whether or not their devices are members. identity: under which of its
-- identities.
CREATE TABLE roster (
    conversation BLOB NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    account TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    identity INTEGER NOT NULL,
    PRIMARY KEY (conversation, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX roster_by_account ON roster (account);

-- starts_after: the device gets nothing up to here. ends_at: and nothing after this; the row goes with its Ack.
ALTER TABLE member ADD COLUMN starts_after INTEGER NOT NULL DEFAULT 0;
ALTER TABLE member ADD COLUMN ends_at INTEGER;

-- tree_epoch: the tree that belongs to the Welcome; NULL in version 1, whose Welcomes carry it.
ALTER TABLE joining RENAME COLUMN friend_key TO join_key;
ALTER TABLE joining ADD COLUMN tree_epoch INTEGER;
CREATE INDEX joining_by_tree ON joining (conversation, tree_epoch);

-- One for all that join by the same commit; it goes with the last of them.
CREATE TABLE welcome_tree (
    conversation BLOB NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    epoch INTEGER NOT NULL,
    tree BLOB NOT NULL,
    PRIMARY KEY (conversation, epoch)
) STRICT;
CREATE TRIGGER welcome_tree_of_the_last AFTER DELETE ON joining WHEN OLD.tree_epoch IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM joining WHERE conversation = OLD.conversation AND tree_epoch = OLD.tree_epoch)
BEGIN
    DELETE FROM welcome_tree WHERE conversation = OLD.conversation AND epoch = OLD.tree_epoch;
END;

CREATE TABLE link (id BLOB PRIMARY KEY, expires_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE link_message (
    link BLOB NOT NULL REFERENCES link (id) ON DELETE CASCADE,
    from_new_device INTEGER NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (link, from_new_device, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE login_grant (
    account TEXT PRIMARY KEY REFERENCES account (name) ON DELETE CASCADE,
    hash BLOB NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Brings the database up to date.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    migrate_to(MIGRATIONS, connection, path)
}

/// For tests: as the first version left a database.
#[cfg(test)]
pub(super) fn migrate_to_first(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    migrate_to(&[VERSION_1], connection, path)
}

fn migrate_to(steps: &[&str], connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let known = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    let database = |cause| OpenError::Database { path: path.to_owned(), cause };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(database)?;
    let found: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for step in steps.iter().skip(found as usize) {
        transaction.execute_batch(step).map_err(database)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known).map_err(database)?;
    }
    transaction.commit().map_err(database)
}
