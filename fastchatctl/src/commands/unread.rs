//! `unread`: counts for people, scripts and status bars.
//!
//! **Invariant**: a status bar gets an object that it can show even when no daemon answers.

use clap::{Args, ValueEnum};
use fastchat_ipc::{OfAccount, method};
use serde_json::{Value, json};

use crate::commands::Outcome;
use crate::daemon::Context;
use crate::failure::{Exit, Failure};

/// Count unread messages, direct and group apart, and requests.
#[derive(Debug, Args)]
#[command(after_long_help = "\
In waybar's configuration:
  \"custom/fastchat\": {\"exec\": \"fastchatctl unread --format waybar\", \"return-type\": \"json\", \"interval\": 10}
The class is `unread`, `request`, `none` or `offline`; the text is empty when there is nothing to show.

Examples:
  fastchatctl unread
  fastchatctl unread --format json
  fastchatctl unread --format waybar")]
pub(crate) struct Unread {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Plain)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// In words
    Plain,
    /// As the daemon's result (the same as --json)
    Json,
    /// For waybar's custom module with return-type json
    Waybar,
}

impl Unread {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let outcome = context.call::<method::CountUnread>(&OfAccount { account: context.account.clone() }).await;
        match (self.format, outcome) {
            (Format::Waybar, Ok(answer)) => context.out.json(&bar(answer.value))?,
            (Format::Waybar, Err(failure)) => {
                context.out.json(&bar_without_daemon())?;
                return Err(failure);
            }
            (_, Err(failure)) => return Err(failure),
            (Format::Plain, Ok(answer)) if !context.out.json => plain(answer.value, context)?,
            (Format::Plain | Format::Json, Ok(answer)) => context.out.json(&answer.raw)?,
        }
        Ok(Exit::Ok)
    }
}

fn plain(unread: fastchat_ipc::Unread, context: &Context) -> Result<(), Failure> {
    context.out.text(in_words(unread))
}

/// `2 direct, 1 in groups, 0 requests`.
pub(crate) fn in_words(unread: fastchat_ipc::Unread) -> String {
    let requests = if unread.requests == 1 { "request" } else { "requests" };
    format!("{} direct, {} in groups, {} {requests}", unread.direct, unread.group, unread.requests)
}

fn bar(unread: fastchat_ipc::Unread) -> Value {
    let messages = unread.direct.saturating_add(unread.group);
    let class = match (messages, unread.requests) {
        (0, 0) => "none",
        (0, _) => "request",
        _ => "unread",
    };
    let count = messages.saturating_add(unread.requests);
    let text = if count > 0 { count.to_string() } else { String::new() };
    json!({ "text": text, "tooltip": format!("FastChat: {}", in_words(unread)), "class": class, "alt": class })
}

fn bar_without_daemon() -> Value {
    json!({ "text": "", "tooltip": "FastChat: no count; fastchatctl status", "class": "offline", "alt": "offline" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_nothing_when_nothing_is_unread() {
        let nothing = bar(fastchat_ipc::Unread { direct: 0, group: 0, requests: 0 });
        assert_eq!((&nothing["text"], &nothing["class"]), (&json!(""), &json!("none")));
        let some = bar(fastchat_ipc::Unread { direct: 2, group: 1, requests: 1 });
        assert_eq!((&some["text"], &some["class"]), (&json!("4"), &json!("unread")));
        assert_eq!(some["tooltip"], "FastChat: 2 direct, 1 in groups, 1 request");
        let request = bar(fastchat_ipc::Unread { direct: 0, group: 0, requests: 1 });
        assert_eq!((&request["text"], &request["class"]), (&json!("1"), &json!("request")));
    }
}
