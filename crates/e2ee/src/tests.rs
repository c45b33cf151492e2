//! Tests of the crate: known answers, two people over a map in memory, and a server that is hostile.
//!
//! The files in `data` were made with another implementation (Python's `cryptography`), as were the expected values.
//!
//! **Invariant**: a test that expects a refusal also expects that nothing changed.

mod archive;
mod direct;
mod forge;
mod groups;
mod hostile;
mod identity;
mod linking;
mod messages;
mod model;
mod own_devices;
mod password;
mod people;
mod roles;
mod state;
mod world;
