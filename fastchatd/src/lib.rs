//! The FastChat daemon as a library, so that its parts can be tested without a process; the program is `main.rs`.
//!
//! **Invariant**: the engine's thread alone touches the store; everything else talks to it through [`api::Api`].

pub mod api;
pub mod backup;
pub mod bus;
pub mod config;
pub mod core;
mod device_link;
pub mod engine;
pub mod fault;
pub mod link;
pub mod notify;
pub mod root_key;
pub mod rpc;
pub mod sign_in;
pub mod store;
