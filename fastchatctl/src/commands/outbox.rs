//! `outbox`: messages that wait, are held or failed.
//!
//! **Invariant**: a message is taken back only when it is named, or when all are asked for.

use anstyle::Style;
use clap::{Args, Subcommand};
use fastchat_ipc::{Changed, Chat, Message, Method, OfAccount, OfMessage, method};

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::failure::Exit;
use crate::local_time::Clock;
use crate::message_line::state_word;
use crate::output::{BOLD, DIM, YELLOW, width};
use crate::safe_text;
use crate::table::Table;

/// Messages that wait to be sent.
#[derive(Debug, Subcommand)]
pub(crate) enum Outbox {
    /// List the messages that wait, are held or failed
    #[command(after_long_help = "Example:\n  fastchatctl outbox list")]
    List,
    /// Try held and failed messages again now
    Retry(Retry),
    /// Take messages back that were not sent yet
    Cancel(Cancel),
}

/// Try held and failed messages again now.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  fastchatctl outbox retry\n  fastchatctl outbox retry 019a0b3c-…")]
pub(crate) struct Retry {
    /// The message's id; nothing for all
    #[arg(default_value = "", hide_default_value = true)]
    id: String,
}

/// Take messages back that were not sent yet.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  fastchatctl outbox cancel 019a0b3c-…\n  fastchatctl outbox cancel --all")]
pub(crate) struct Cancel {
    /// The message's id
    #[arg(required_unless_present = "all")]
    id: Option<String>,
    /// All of them
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

impl Outbox {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List => list(context).await,
            Self::Retry(Retry { id }) => change::<method::RetryOutbox>(id, "tried again", context).await,
            Self::Cancel(Cancel { id, .. }) => {
                change::<method::CancelOutbox>(id.unwrap_or_default(), "taken back", context).await
            }
        }
    }
}

async fn change<M>(id: String, done: &str, context: &Context) -> Outcome
where
    M: Method<Params = OfMessage, Result = Changed>,
{
    let answer = context.call::<M>(&OfMessage { account: context.account.clone(), id }).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
        return Ok(Exit::Ok);
    }
    let count = answer.value.changed;
    let messages = if count == 1 { "message" } else { "messages" };
    context.out.done(format!("{count} {messages} {done}"))?;
    Ok(Exit::Ok)
}

async fn list(context: &Context) -> Outcome {
    let of_account = OfAccount { account: context.account.clone() };
    let mut client = context.connect().await?;
    let answer = call::<method::ListOutbox>(&mut client, &of_account).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
        return Ok(Exit::Ok);
    }
    if answer.value.messages.is_empty() {
        context.out.done("nothing waits")?;
        return Ok(Exit::Ok);
    }
    let chats = call::<method::ListChats>(&mut client, &of_account).await?.value.chats;
    context.out.text(page(&answer.value.messages, &chats, &Clock::system(), width()))?;
    Ok(Exit::Ok)
}

fn page(messages: &[Message], chats: &[Chat], clock: &Clock, width: usize) -> String {
    let mut table = Table::default();
    for message in messages {
        let title = chats.iter().find(|chat| chat.id == message.chat).map_or(&message.chat, |chat| &chat.title);
        let why = if message.error.is_empty() { String::new() } else { format!(": {}", message.error) };
        let style = if message.error.is_empty() { Style::new() } else { YELLOW };
        table.line([
            (safe_text::line(&message.id), DIM),
            (clock.stamp(message.sent_at_ms), DIM),
            (safe_text::line(title), BOLD),
            (safe_text::line(&format!("{}{why}", state_word(message.state))), style),
            (safe_text::line(&message.text), Style::new()),
        ]);
    }
    table.show(width)
}
