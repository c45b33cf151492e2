//! FastChat on the command line.
//!
//! A small client of the daemon: reads arguments, makes one call, prints the answer. It holds no state.
//!
//! **Invariant**: everything it can do, the daemon's API can do too.

mod cli;
mod commands;
mod daemon;
mod enrol;
mod failure;
mod local_time;
mod message_line;
mod output;
mod password;
mod qr;
mod safe_text;
mod sas;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::cli::{Cli, Global};
use crate::daemon::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;

fn main() -> ExitCode {
    let exit = match Cli::try_parse() {
        Ok(Cli { global, command: Some(command) }) => run(global, command),
        Ok(Cli { command: None, .. }) => print_help(),
        Err(error) => usage(&error),
    };
    ExitCode::from(exit as u8)
}

fn run(global: Global, command: cli::Command) -> Exit {
    let out = Output { json: global.json, quiet: global.quiet };
    let context = Context { account: global.account, timeout: global.timeout, start: !global.no_start, out };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(command, &context)),
        Err(error) => Err(Failure::new(Exit::Internal, "internal", format!("cannot start: {error}"))),
    };
    outcome.unwrap_or_else(|failure| failure.report(out.json))
}

fn print_help() -> Exit {
    // Nothing is left to do when the help cannot be written.
    let _ = Cli::command().print_help();
    Exit::Ok
}

/// Help and version are not errors; a wrong command line exits with 1.
fn usage(error: &clap::Error) -> Exit {
    let is_json = std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if error.use_stderr() && is_json {
        let message = error.render().to_string();
        let message = message.trim_start_matches("error: ").lines().next().unwrap_or_default().to_owned();
        return Failure::usage(message).next("`fastchatctl --help`").report(true);
    }
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
        _ => Exit::Usage,
    }
}
