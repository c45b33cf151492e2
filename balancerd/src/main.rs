//! `fastchat-balancer`: will tell a connecting device which of several servers to use.
//!
//! The protocol has its answer already (`Redirect`, which devices follow); one server needs no balancer. Until there is
//! more than one, this program says so and ends.
//!
//! **Invariant**: nobody can mistake it for a balancer that works.

use std::process::ExitCode;

use clap::Parser;

/// The FastChat balancer: tells a connecting device which of several servers to use
///
/// Not there yet: run one fastchat-server, which needs no balancer.
#[derive(Parser)]
#[command(version)]
struct Cli {}

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    eprintln!(
        "fastchat-balancer: balancing is not there yet\n  next: `fastchat-server run`; one server needs no balancer"
    );
    ExitCode::FAILURE
}
