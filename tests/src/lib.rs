//! What the end-to-end tests stand on: real processes in private directories, and the people who use them.
//!
//! The programs are those that stand beside the test's own executable (`target/<profile>/`); `FASTCHAT_BIN` names
//! another directory. Every process is ended with the value that holds it, and the end of its log is printed then: test
//! runners show that when the test fails.
//!
//! **Invariant**: nothing here touches the user's own daemon, bus, files or configuration; every wait has a deadline.

mod ctl;
mod daemon;
mod devices;
mod false_server;
mod groups;
mod insider;
mod person;
mod private_bus;
mod process;
mod programs;
mod server;
mod tls;

pub use ctl::{Ctl, Ended};
pub use daemon::Daemon;
pub use false_server::{FalseServer, Twist, in_deliveries_to};
pub use groups::{agree, members_of, of};
pub use insider::{Builder, Forged, Forger, Insider, Room, State, Wire, external};
pub use person::{PASSWORD, Person};
pub use private_bus::PrivateBus;
pub use process::{PATIENCE, Running, within};
pub use programs::program;
pub use server::Server;
pub use tls::{anybody, self_signed};
