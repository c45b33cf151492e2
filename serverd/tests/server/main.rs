//! The server from outside: a real process, spoken to over TLS.
//!
//! **Invariant**: every wait has a bound, and no test depends on another's server.

mod client;
mod conversations;
mod durability;
mod greeting;
mod hostile;
mod server;
