//! JSON-RPC 2.0, one object per line.
//!
//! **Invariant**: a line is at most [`LINE_LIMIT`] bytes; a longer one ends the connection.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ApiError, ErrorCode, Event};

/// The longest line either side reads, in bytes without the newline.
pub const LINE_LIMIT: usize = 1 << 20;

/// A request's id: a number or a string, as the client likes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RpcId {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

/// A line from a client.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Incoming {
    /// Always "2.0".
    pub jsonrpc: String,
    /// Absent: no answer is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RpcId>,
    /// One of [`crate::METHODS`].
    pub method: String,
    /// An object with the method's parameters; absent is the same as empty.
    #[serde(default)]
    pub params: Value,
}

/// A line to a client that answers one of its requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Always "2.0".
    pub jsonrpc: String,
    /// The request's id; `None` (null) when it could not be read.
    pub id: Option<RpcId>,
    /// The method's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RpcFailure>,
}

impl Outgoing {
    /// The answer to `id`.
    #[must_use]
    pub fn answer(id: Option<RpcId>, outcome: Result<Value, ApiError>) -> Self {
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error.into())),
        };
        Self { jsonrpc: "2.0".into(), id, result, error }
    }
}

/// JSON-RPC's error object; `data` is the whole [`ApiError`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RpcFailure {
    /// [`ErrorCode::json_rpc`].
    pub code: i64,
    /// For people.
    pub message: String,
    /// The failure in full.
    pub data: Option<ApiError>,
}

impl From<ApiError> for RpcFailure {
    fn from(error: ApiError) -> Self {
        Self { code: error.code.json_rpc(), message: error.message.clone(), data: Some(error) }
    }
}

impl From<RpcFailure> for ApiError {
    fn from(failure: RpcFailure) -> Self {
        failure.data.unwrap_or_else(|| Self::new(ErrorCode::Internal, failure.message))
    }
}

/// A line to a client that answers nothing: an event of its subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Always "2.0".
    pub jsonrpc: String,
    /// Always "event".
    pub method: String,
    /// The event.
    pub params: Event,
}

impl Notification {
    /// The line for `event`.
    #[must_use]
    pub fn event(event: Event) -> Self {
        Self { jsonrpc: "2.0".into(), method: "event".into(), params: event }
    }
}
