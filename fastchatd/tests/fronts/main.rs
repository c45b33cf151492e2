//! The daemon's fronts against a made-up engine: socket, D-Bus on a private bus, notifications with a made-up service.
//!
//! **Invariant**: no test needs the user's session, a network or a sleep.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

mod bus_objects;
mod bus_parity;
mod engine;
mod notifications;
mod private_bus;
mod socket;
