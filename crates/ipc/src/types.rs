//! What the methods take and give.
//!
//! Times are milliseconds of Unix time. An account is named `alice@host:port`; a contact by its name on the account's
//! server, or by the alias that was set for it; a chat by its id, its contact's name or alias.
//!
//! **Invariant**: parameters with an unknown field are refused, results may grow fields.

mod account;
mod chat;
mod contact;
mod daemon;
mod message;
mod notify;

pub use account::*;
pub use chat::*;
pub use contact::*;
pub use daemon::*;
pub use message::*;
pub use notify::*;
