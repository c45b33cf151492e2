//! `fastchatctl` as a process, against a daemon that the tests play.
//!
//! **Invariant**: no test needs a real daemon, a terminal's size, or the tester's configuration.

mod commands;
mod daemon_start;
mod fake_daemon;
mod safety;
mod send;
mod sign_in;
mod watch;
