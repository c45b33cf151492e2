//! Compiles the protobuf schema with a pure-Rust compiler, so that no `protoc` is needed.

use std::io;

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["fastchat/v1/wire.proto"], ["proto"])
        .map_err(|error| io::Error::other(format!("{error:?}")))?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)
}
