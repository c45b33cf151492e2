//! What the daemon, the server and the balancer share as services: where logs go, signals, the service manager.
//!
//! **Invariant**: without systemd everything here works, or does nothing.

pub mod lifecycle;
pub mod logging;
