//! The FastChat server: takes devices' connections, orders and stores their ciphertext, delivers it.
//!
//! [`core`] decides (no I/O), [`hub`] carries out, [`connection`] speaks with one device, [`handshakes`] checks what
//! changes a conversation, [`run`] puts it together.
//!
//! **Invariant**: nothing here can open a message: the server sees ciphertext, public keys and hashes.

pub mod auth;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod connection;
pub mod core;
pub mod handshakes;
pub mod hub;
pub mod invite;
pub mod listen;
pub mod rates;
pub mod run;
