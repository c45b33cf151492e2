//! `notify`: how notifications show on this desktop.
//!
//! **Invariant**: each verb is one method of the API.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use fastchat_ipc::{Chat, DoNotDisturb, Empty, Method, NotifyStatus, OfChat, Preview, SetPreview, method};

use crate::commands::Outcome;
use crate::daemon::{Answer, Context};
use crate::failure::Exit;
use crate::local_time::{Clock, parse_duration};
use crate::output::DIM;
use crate::safe_text;

/// Notifications on the desktop.
#[derive(Debug, Subcommand)]
pub(crate) enum Notify {
    /// Show how notifications are shown here
    #[command(after_long_help = "Example:\n  fastchatctl notify status")]
    Status,
    /// Show a test notification
    #[command(after_long_help = "Example:\n  fastchatctl notify test")]
    Test,
    /// Turn a chat's notifications off
    Mute(Which),
    /// Turn a chat's notifications on again
    Unmute(Which),
    /// Turn do-not-disturb on or off; without an argument, show how it is
    Dnd(Dnd),
    /// Set how much notifications show
    Preview(SetTo),
}

/// A chat.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  fastchatctl notify mute ops\n  fastchatctl notify unmute ops")]
pub(crate) struct Which {
    /// The chat
    chat: String,
}

/// Turn do-not-disturb on or off; without an argument, show how it is.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl notify dnd on
  fastchatctl notify dnd 30m
  fastchatctl notify dnd off")]
pub(crate) struct Dnd {
    /// on, off, or for how long
    #[arg(value_name = "on|off|D", value_parser = parse_quiet)]
    to: Option<Quiet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quiet {
    On,
    Off,
    For(Duration),
}

fn parse_quiet(text: &str) -> Result<Quiet, String> {
    match text {
        "on" => Ok(Quiet::On),
        "off" => Ok(Quiet::Off),
        other => parse_duration(other).map(Quiet::For).map_err(|error| format!("neither `on` nor `off`, and {error}")),
    }
}

/// Set how much notifications show.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  fastchatctl notify preview sender")]
pub(crate) struct SetTo {
    /// How much
    #[arg(value_enum)]
    preview: Shown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shown {
    /// Sender and text
    Full,
    /// The sender alone
    Sender,
    /// That something has come
    None,
}

impl Notify {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Status => print(&context.call::<method::NotificationStatus>(&Empty {}).await?, true, context),
            Self::Test => {
                let answer = context.call::<method::TestNotification>(&Empty {}).await?;
                print(&answer, false, context)
            }
            Self::Mute(which) => set::<method::MuteChat>(which, "is muted", context).await,
            Self::Unmute(which) => set::<method::UnmuteChat>(which, "is not muted any more", context).await,
            Self::Dnd(dnd) => dnd.run(context).await,
            Self::Preview(set) => set.run(context).await,
        }
    }
}

impl Dnd {
    async fn run(self, context: &Context) -> Outcome {
        let Some(to) = self.to else {
            let answer = context.call::<method::NotificationStatus>(&Empty {}).await?;
            return print_part(&answer, quiet_line(&answer.value), context);
        };
        let request = match to {
            Quiet::On => DoNotDisturb { on: true, for_ms: 0 },
            Quiet::Off => DoNotDisturb { on: false, for_ms: 0 },
            Quiet::For(time) => DoNotDisturb { on: true, for_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX) },
        };
        let answer = context.call::<method::SetDoNotDisturb>(&request).await?;
        print_part(&answer, quiet_line(&answer.value), context)
    }
}

impl SetTo {
    async fn run(self, context: &Context) -> Outcome {
        let preview = match self.preview {
            Shown::Full => Preview::Full,
            Shown::Sender => Preview::Sender,
            Shown::None => Preview::None,
        };
        let answer = context.call::<method::SetNotificationPreview>(&SetPreview { preview }).await?;
        print_part(&answer, format!("notifications show {}", preview_words(answer.value.preview)), context)
    }
}

async fn set<M: Method<Params = OfChat, Result = Chat>>(which: Which, done: &str, context: &Context) -> Outcome {
    let answer = context.call::<M>(&OfChat { account: context.account.clone(), chat: which.chat }).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
    } else {
        context.out.done(format!("{} {done}", safe_text::line(&answer.value.title)))?;
    }
    Ok(Exit::Ok)
}

fn print_part(answer: &Answer<NotifyStatus>, text: String, context: &Context) -> Outcome {
    if context.out.json {
        context.out.json(&answer.raw)?;
    } else {
        context.out.done(text)?;
    }
    Ok(Exit::Ok)
}

fn print(answer: &Answer<NotifyStatus>, is_asked_for: bool, context: &Context) -> Outcome {
    if context.out.json {
        context.out.json(&answer.raw)?;
    } else if is_asked_for {
        context.out.text(described(&answer.value))?;
    } else {
        context.out.done(format!("shown by {}", backend_words(&answer.value)))?;
    }
    Ok(Exit::Ok)
}

fn described(status: &NotifyStatus) -> String {
    let reply = match status.reply.as_str() {
        "inline" => "in the notification",
        "command" => "with the configured command",
        _ => "not from the notification",
    };
    let muted = status.muted.iter().map(|chat| safe_text::line(chat)).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "{DIM}shown by{DIM:#}        {}\n{DIM}reply{DIM:#}           {reply}\n{DIM}preview{DIM:#}         {}\n\
         {DIM}do not disturb{DIM:#}  {}\n",
        backend_words(status),
        preview_words(status.preview),
        quiet_words(status)
    );
    if !muted.is_empty() {
        text.push_str(&format!("{DIM}muted{DIM:#}           {muted}\n"));
    }
    text
}

fn backend_words(status: &NotifyStatus) -> String {
    match status.backend.as_str() {
        "none" => "nobody: there is no notification service".to_owned(),
        _ if status.server.is_empty() => safe_text::line(&status.backend),
        _ => safe_text::line(&status.server),
    }
}

fn preview_words(preview: Preview) -> &'static str {
    match preview {
        Preview::Full => "sender and text",
        Preview::Sender => "the sender alone",
        Preview::None => "only that something has come",
    }
}

fn quiet_line(status: &NotifyStatus) -> String {
    format!("do not disturb: {}", quiet_words(status))
}

fn quiet_words(status: &NotifyStatus) -> String {
    let until = Clock::system().stamp(status.dnd_until_ms);
    match (status.dnd, until.is_empty()) {
        (false, _) => "off".to_owned(),
        (true, true) => "on".to_owned(),
        (true, false) => format!("on until {until}"),
    }
}
