//! FastChat on the command line.
fn main() {}
