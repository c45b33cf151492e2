//! The FastChat daemon's API: one list of methods, spoken as JSON-RPC 2.0 on a Unix socket and as D-Bus on the session bus.
//!
//! [`METHODS`] is that list. The daemon serves it, `fastchatctl` and any other program call it, and a test holds the two
//! transports equal. `docs/ipc.md` shows both with examples.
//!
//! **Invariant**: what a client sends and receives is described by the types here and nowhere else.

mod client;
mod error;
mod event;
mod methods;
mod names;
mod rpc;
mod types;

pub use client::{Client, ClientError, EventStream};
pub use error::{ApiError, ErrorCode};
pub use event::{Event, EventKind};
pub use methods::*;
pub use names::*;
pub use rpc::{Incoming, LINE_LIMIT, Notification, Outgoing, RpcFailure, RpcId};
pub use types::*;

/// How people write where an account and a server are.
pub use fastchat_wire::{Address, AddressError, Link, Pin, ServerAddress};
