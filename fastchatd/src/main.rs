//! The FastChat daemon.
fn main() {}
