//! What the methods take and give.
//!
//! Times are milliseconds of Unix time. An account is named `alice@host:port`; a contact by its name on the account's
//! server, or by the alias that was set for it; a chat by its id, its contact's name or alias, or its group's name where
//! no other has it.
//!
//! **Invariant**: parameters with an unknown field are refused, results may grow fields.

mod account;
mod backup;
mod chat;
mod contact;
mod daemon;
mod device;
mod group;
mod message;
mod notify;

pub use account::*;
pub use backup::*;
pub use chat::*;
pub use contact::*;
pub use daemon::*;
pub use device::*;
pub use group::*;
pub use message::*;
pub use notify::*;
