//! The command line: global options and the list of commands.
//!
//! **Invariant**: a secret is never an argument: `ps` shows those to everybody.

use clap::{Args, Parser, Subcommand};
use std::time::Duration;

use crate::commands::{
    account, backup, chats, completion, contact, device, group, history, key, link, notify, outbox, password, rpc,
    send, sign_in, unlock, unread, watch,
};
use crate::local_time::parse_duration;

/// What follows the list of commands.
const AFTER: &str = "\
Exit codes: 0 ok, 1 usage, 2 internal, 3 network or server, 4 untrusted key, 5 rate limited, 6 daemon unreachable, \
7 not found or refused, 8 queued only (`--wait` not reached)";

/// What the long help adds. Paragraphs are one line each: clap wraps them.
const AFTER_LONG: &str = "\
People are addressed by name or alias, groups by their name, or by their id where several have it.

With --json each command prints the daemon's result as one JSON line (`watch`: one line per event), and a failure as \
one line on stderr: {\"error\":{\"code\":…,\"message\":…,\"exit\":…,\"hint\":…,\"data\":…}}.

Environment:
  FASTCHAT_SOCKET  the daemon's socket ($XDG_RUNTIME_DIR/fastchat/fastchatd.sock)
  FASTCHATD        the daemon program to start when none answers
  NO_COLOR         set to anything: no colours

Exit codes:
  0  ok                       5  rate limited
  1  usage                    6  daemon unreachable
  2  internal                 7  not found or refused
  3  network or server        8  queued only (`--wait` not reached)
  4  untrusted key

Examples:
  fastchatctl register alice@chat.example.org
  fastchatctl send bob -m 'hi'
  fastchatctl group create ops bob carol
  systemctl status nginx | fastchatctl send ops -
  fastchatctl watch --event message_received --json | jq -r .message.text";

/// End-to-end encrypted chat on the command line.
#[derive(Debug, Parser)]
#[command(name = "fastchatctl", version, after_help = AFTER, after_long_help = AFTER_LONG)]
#[command(infer_long_args = false, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print the result as JSON, one object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Use this account instead of the default one
    #[arg(long, global = true, value_name = "USER@HOST", default_value = "", hide_default_value = true)]
    pub(crate) account: String,
    /// Wait no longer than this, e.g. 30s, 500ms or 2m
    #[arg(long, global = true, value_name = "D", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print what was asked for and errors, nothing else
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Do not start a daemon when none answers
    #[arg(long, global = true)]
    pub(crate) no_start: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Register(sign_in::Register),
    Login(sign_in::Login),
    Link(link::Link),
    Logout(account::Logout),
    Status(account::Status),
    Whoami(account::Whoami),
    Doctor(account::Doctor),
    Unlock(unlock::Unlock),
    Send(send::Send),
    Watch(watch::Watch),
    Chats(chats::Chats),
    History(history::History),
    Unread(unread::Unread),
    MarkRead(chats::MarkRead),
    #[command(subcommand)]
    Group(group::Group),
    #[command(subcommand)]
    Contact(contact::Contact),
    #[command(subcommand)]
    Key(key::Key),
    #[command(subcommand)]
    Device(device::Device),
    Password(password::Password),
    #[command(subcommand)]
    Backup(backup::Backup),
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    #[command(subcommand)]
    Notify(notify::Notify),
    Rpc(rpc::Rpc),
    Completion(completion::Completion),
}
