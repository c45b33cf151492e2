//! The daemon itself: its state, its methods, its events.
//!
//! **Invariant**: a cursor is opaque text that only grows.

use serde::{Deserialize, Serialize};

use super::{Account, KeyStore};

/// No parameters, or nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// The daemon at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Whether the store is locked.
    pub locked: bool,
    /// What protects the store; `auto` while it is not made yet.
    pub key_store: KeyStore,
    /// Whether the session bus is connected and the name is ours.
    pub bus: bool,
    /// The cursor of the newest event.
    pub cursor: String,
    /// All accounts; the first is the default one.
    pub accounts: Vec<Account>,
}

/// Result of one check of [`Doctor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but could be better.
    Warning,
    /// Does not work.
    Failed,
}

/// One check of [`Doctor`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing has to be done.
    pub next: String,
}

/// What could be wrong, and how to mend it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Doctor {
    /// Every check, in the order in which they build on each other.
    pub checks: Vec<Check>,
}

/// Parameters of `events.read`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadEvents {
    /// After this cursor; empty for the oldest kept.
    #[serde(default)]
    pub since: String,
    /// How many at most, 1 to 1000; 0 for the default (100).
    #[serde(default)]
    pub limit: u32,
    /// How long to wait for the first one, milliseconds, 60000 at most.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Result of `events.read`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// In order.
    pub events: Vec<crate::Event>,
    /// Read on from here.
    pub cursor: String,
}

/// Parameters of `events.subscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// First what came after this cursor; empty for from now on. `0` is the oldest kept.
    #[serde(default)]
    pub since: String,
}

/// Result of `events.subscribe`: events follow as `event` notifications on the same connection (as `Event` signals on
/// D-Bus, where what came before `cursor` is read with `ReadEvents`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscribed {
    /// Where the subscription begins.
    pub cursor: String,
}

/// A method, as `rpc.discover` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MethodInfo {
    /// Its JSON-RPC name.
    pub name: String,
    /// Its D-Bus interface (after `org.fastchat.FastChat1.`) and member, `Account.Send`.
    pub dbus: String,
    /// What it does.
    pub summary: String,
}

/// Result of `rpc.discover`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Discovery {
    /// Version of the daemon.
    pub version: String,
    /// All methods.
    pub methods: Vec<MethodInfo>,
}
