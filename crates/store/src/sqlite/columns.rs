//! Typed columns: from a row to ids, names and bytes.
//!
//! **Invariant**: a value that is not what its column should hold is an error, never a default.

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId};
use rusqlite::{
    Connection, OptionalExtension, Params, Result, Row,
    types::{FromSqlError, Type},
};
use uuid::Uuid;

use crate::{ConversationKind, Kind};

pub(super) fn conversation(row: &Row<'_>, column: usize) -> Result<ConversationId> {
    Ok(ConversationId(Uuid::from_bytes(row.get(column)?)))
}

pub(super) fn optional_conversation(row: &Row<'_>, column: usize) -> Result<Option<ConversationId>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(|bytes| ConversationId(Uuid::from_bytes(bytes))))
}

pub(super) fn device(row: &Row<'_>, column: usize) -> Result<DeviceId> {
    Ok(DeviceId(Uuid::from_bytes(row.get(column)?)))
}

pub(super) fn message(row: &Row<'_>, column: usize) -> Result<MessageId> {
    Ok(MessageId(Uuid::from_bytes(row.get(column)?)))
}

pub(super) fn account(row: &Row<'_>, column: usize) -> Result<AccountName> {
    let name: String = row.get(column)?;
    name.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn bytes(row: &Row<'_>, column: usize) -> Result<Bytes> {
    Ok(Bytes::from(row.get::<_, Vec<u8>>(column)?))
}

pub(super) fn kind(row: &Row<'_>, column: usize) -> Result<Kind> {
    match row.get::<_, i64>(column)? {
        1 => Ok(Kind::Application),
        2 => Ok(Kind::Commit),
        3 => Ok(Kind::Proposal),
        other => {
            let error = FromSqlError::OutOfRange(other);
            Err(rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
        }
    }
}

pub(super) fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Application => 1,
        Kind::Commit => 2,
        Kind::Proposal => 3,
    }
}

/// The conversation's kind as its column has it.
pub(super) const DIRECT: i64 = 1;
/// See [`DIRECT`].
pub(super) const GROUP: i64 = 2;

pub(super) fn conversation_kind(row: &Row<'_>, column: usize) -> Result<ConversationKind> {
    match row.get::<_, i64>(column)? {
        DIRECT => Ok(ConversationKind::Direct),
        GROUP => Ok(ConversationKind::Group),
        other => {
            let error = FromSqlError::OutOfRange(other);
            Err(rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
        }
    }
}

/// Runs a statement that gives no rows; answers how many rows it changed.
pub(super) fn execute(connection: &Connection, sql: &str, parameters: impl Params) -> Result<usize> {
    connection.prepare_cached(sql)?.execute(parameters)
}

/// The first row, if there is one.
pub(super) fn first<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    connection.prepare_cached(sql)?.query_row(parameters, read).optional()
}

/// All rows.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnMut(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(parameters, read)?.collect()
}
