//! `fastchatctl` as a process, against a daemon that the tests play.
//!
//! **Invariant**: no test needs a real daemon, a terminal's size, or the tester's configuration.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something went wrong")]

mod commands;
mod daemon_start;
mod devices;
mod fake_daemon;
mod safety;
mod send;
mod sign_in;
mod watch;
