//! `history`: the messages of a chat.
//!
//! **Invariant**: oldest first; where there are older ones, the command that shows them is named.

use clap::{Args, value_parser};
use fastchat_ipc::{HistoryResult, method};

use crate::commands::Outcome;
use crate::daemon::Context;
use crate::failure::Exit;
use crate::local_time::Clock;
use crate::message_line;
use crate::output::DIM;
use crate::safe_text;

/// Show the messages of a chat, newest last.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl history bob
  fastchatctl history bob -n 50 --before 1234
  fastchatctl history ops -n 1000 --json | jq -r '.messages[].text'")]
pub(crate) struct History {
    /// The chat
    chat: String,
    /// How many messages at most
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    number: u32,
    /// Only messages before this position
    #[arg(long, value_name = "POSITION", default_value_t = 0, hide_default_value = true)]
    before: u64,
}

impl History {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let chat = self.chat.clone();
        let request = fastchat_ipc::History {
            account: context.account.clone(),
            chat: self.chat,
            limit: self.number,
            before: self.before,
        };
        let answer = context.call::<method::ReadHistory>(&request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            if answer.value.messages.is_empty() {
                context.out.done("no messages")?;
            }
            context.out.text(page(&answer.value, &Clock::system()))?;
            if let (true, Some(first)) = (answer.value.more, answer.value.messages.first()) {
                let chat = safe_text::argument(&chat);
                let more = format!("fastchatctl history {chat} -n {} --before {}", self.number, first.position);
                context.out.note(format!("{DIM}older: {more}{DIM:#}"));
            }
        }
        Ok(Exit::Ok)
    }
}

fn page(history: &HistoryResult, clock: &Clock) -> String {
    history.messages.iter().map(|message| format!("{}\n", message_line::shown(message, "", clock))).collect()
}
