//! The commands, one file each or one file per group.
//!
//! **Invariant**: a command asks for nothing on the terminal unless somebody sits there.

pub(crate) mod account;
pub(crate) mod backup;
pub(crate) mod chats;
pub(crate) mod completion;
pub(crate) mod contact;
pub(crate) mod device;
pub(crate) mod group;
pub(crate) mod history;
pub(crate) mod key;
pub(crate) mod link;
pub(crate) mod notify;
pub(crate) mod outbox;
pub(crate) mod password;
pub(crate) mod rpc;
pub(crate) mod send;
pub(crate) mod sign_in;
pub(crate) mod unlock;
pub(crate) mod unread;
pub(crate) mod watch;

use crate::cli::Command;
use crate::daemon::Context;
use crate::failure::{Exit, Failure};

/// How a command ends: with an exit code, having printed its result, or early.
pub(crate) type Outcome = Result<Exit, Failure>;

/// Carries a command out.
pub(crate) async fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Register(command) => command.run(context).await,
        Command::Login(command) => command.run(context).await,
        Command::Link(command) => command.run(context).await,
        Command::Logout(command) => command.run(context).await,
        Command::Status(command) => command.run(context).await,
        Command::Whoami(command) => command.run(context).await,
        Command::Doctor(command) => command.run(context).await,
        Command::Unlock(command) => command.run(context).await,
        Command::Send(command) => command.run(context).await,
        Command::Watch(command) => command.run(context).await,
        Command::Chats(command) => command.run(context).await,
        Command::History(command) => command.run(context).await,
        Command::Unread(command) => command.run(context).await,
        Command::MarkRead(command) => command.run(context).await,
        Command::Group(command) => command.run(context).await,
        Command::Contact(command) => command.run(context).await,
        Command::Key(command) => command.run(context).await,
        Command::Device(command) => command.run(context).await,
        Command::Password(command) => command.run(context).await,
        Command::Backup(command) => command.run(context).await,
        Command::Outbox(command) => command.run(context).await,
        Command::Notify(command) => command.run(context).await,
        Command::Rpc(command) => command.run(context).await,
        Command::Completion(command) => command.run(context),
    }
}
