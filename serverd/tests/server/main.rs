//! The server from outside: a real process, spoken to over TLS.
//!
//! **Invariant**: every wait has a bound, and no test depends on another's server.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says so by panicking")]

mod client;
mod conversations;
mod devices;
mod durability;
mod greeting;
mod groups;
mod hostile;
mod hostile_members;
mod links;
mod mls;
mod server;
mod service;
