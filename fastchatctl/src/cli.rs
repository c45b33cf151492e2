//! The command line: global options and the list of commands.
//!
//! **Invariant**: a secret is never an argument: `ps` shows those to everybody.

use clap::{Args, Parser, Subcommand};
use std::time::Duration;

use crate::commands::{
    account, chats, completion, contact, history, key, notify, outbox, rpc, send, sign_in, unlock, unread, watch,
};
use crate::local_time::parse_duration;

/// What follows the list of commands.
const AFTER: &str = "\
Exit codes: 0 ok, 1 usage, 2 internal, 3 network or server, 4 untrusted key, 5 rate limited,
            6 daemon unreachable, 7 not found or refused, 8 queued only (`--wait` not reached)";

/// What the long help adds.
const AFTER_LONG: &str = "\
People, groups and chats are addressed by name or alias.

With --json each command prints the daemon's result as one JSON line (`watch`: one line per event), and a failure as one
line on stderr: {\"error\":{\"code\":…,\"message\":…,\"exit\":…,\"hint\":…,\"data\":…}}.

Environment:
  FASTCHAT_SOCKET  the daemon's socket (default: $XDG_RUNTIME_DIR/fastchat/fastchatd.sock)
  FASTCHATD        the daemon program to start when none answers
  NO_COLOR         set to anything: no colours

Exit codes:
  0 ok    1 usage    2 internal    3 network or server    4 untrusted key    5 rate limited
  6 daemon unreachable    7 not found or refused    8 queued only (`--wait` not reached)

Examples:
  fastchatctl register alice@chat.example.org
  fastchatctl send bob -m 'hi'
  systemctl status nginx | fastchatctl send ops -
  fastchatctl watch --json | jq -r 'select(.event == \"message_received\") | .message.text'";

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
    /// Make an account on a server
    Register(sign_in::Register),
    /// Bring an account to this device
    Login(sign_in::Login),
    /// Remove an account, its keys and its history from this device
    Logout(account::Logout),
    /// Show the daemon and the accounts
    Status(account::Status),
    /// Show which account is the default one
    Whoami(account::Whoami),
    /// Check everything and say how to mend what is wrong
    Doctor(account::Doctor),
    /// Unlock the store
    Unlock(unlock::Unlock),
    /// Send a message
    Send(send::Send),
    /// Print what happens, as it happens
    Watch(watch::Watch),
    /// List the chats, with unread counts
    Chats(chats::Chats),
    /// Show the messages of a chat
    History(history::History),
    /// Count unread messages
    Unread(unread::Unread),
    /// Mark a chat as read
    MarkRead(chats::MarkRead),
    /// List, add, accept, decline, block, rename and remove contacts
    #[command(subcommand)]
    Contact(contact::Contact),
    /// Show, compare and trust keys
    #[command(subcommand)]
    Key(key::Key),
    /// Messages that wait to be sent
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// Notifications on the desktop
    #[command(subcommand)]
    Notify(notify::Notify),
    /// Call any method of the daemon
    Rpc(rpc::Rpc),
    /// Print a completion script for a shell
    Completion(completion::Completion),
}
