//! `watch`: events as they happen, across restarts of the daemon.
//!
//! **Invariant**: each durable event after the cursor is printed once, in order; it counts as seen once it is printed.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use fastchat_ipc::{
    AccountState, Chat, ChatKind, Client, ClientError, Empty, ErrorCode, Event, EventKind, EventStream, MessageState,
    OfAccount, method, socket_path,
};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::time::{Instant, sleep, sleep_until};

use crate::commands::{Outcome, account};
use crate::daemon::{CALL, Context, call};
use crate::failure::{Exit, Failure};
use crate::local_time::Clock;
use crate::message_line::{self, state_word};
use crate::output::{BOLD, DIM, GREEN, RED, YELLOW};
use crate::safe_text;

/// The first and the longest wait between attempts to reach a daemon that has gone.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// What `--event` takes.
const KINDS: [&str; 13] = [
    "message_received",
    "message_state",
    "chat_read",
    "chat_changed",
    "group_changed",
    "contact_changed",
    "identity_changed",
    "devices_changed",
    "new_device",
    "presence",
    "account_state",
    "account_changed",
    "events_lost",
];

/// Print what happens, as it happens.
///
/// For people: messages that come, and what needs attention. With --json: every event, one per line, as the daemon's
/// API gives it. When the daemon restarts, the watch goes on after the last event that it printed; it starts none.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Every durable event carries a cursor: keep the last one, and `--since` goes on right after it, whatever has \
restarted. `--since 0` begins with the oldest event that is kept. With --timeout the watch ends then: with exit \
code 3 when --once has seen no event, else with 0.

Examples:
  fastchatctl watch
  fastchatctl watch --event message_received --json | jq -r .message.text
  fastchatctl watch --json --since \"$(cat cursor)\" | while read -r event; do
    jq -r .cursor <<<\"$event\" >cursor
  done
  fastchatctl watch --once --event message_received --timeout 10m")]
pub(crate) struct Watch {
    /// Begin after this cursor; 0 for the oldest event kept
    #[arg(long, value_name = "C", default_value = "", hide_default_value = true)]
    since: String,
    /// Exit after the first event that is printed
    #[arg(long)]
    once: bool,
    /// Only events of this kind; may be given several times
    #[arg(long = "event", value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kinds: Vec<String>,
}

/// A watch under way.
struct Watching<'a> {
    context: &'a Context,
    /// Exit after the first event that is printed.
    once: bool,
    /// Only these kinds; all when empty.
    kinds: Vec<String>,
    /// Only this account's events; empty for all.
    account: String,
    /// Chats by id, as far as they were needed.
    chats: BTreeMap<String, Chat>,
}

impl Watch {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let end = context.timeout.map(|timeout| Instant::now() + timeout);
        let mut client = context.connect().await?;
        client.set_deadline(CALL);
        let account = account_name(&mut client, context).await?;
        let stream = client.subscribe(&self.since).await?;
        let once = self.once;
        let mut watching = Watching { context, once, kinds: self.kinds, account, chats: BTreeMap::new() };
        tokio::select! {
            outcome = watching.follow(stream) => outcome,
            () = reader_gone() => Err(Failure::ReaderGone),
            () = passed(end) => {
                if once {
                    return Err(Failure::new(Exit::Network, "timed_out", "no event came in time"));
                }
                Ok(Exit::Ok)
            }
        }
    }
}

/// Ends when `end` has come; never without one.
async fn passed(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => pending().await,
    }
}

/// Ends when nobody reads our output any more (`| head`), so that a quiet watch does not stay behind.
async fn reader_gone() {
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else { return pending().await };
    // Only asked how it is, never written to: its blocking mode, which stdout shares, stays as it is. A file has no
    // reader, and is refused here.
    let Ok(pipe) = Sender::from_file_unchecked(stdout.into()) else { return pending().await };
    if pipe.ready(Interest::ERROR).await.is_err() {
        // It cannot be known; the next write tells.
        pending().await
    }
}

/// The whole name of the account that `--account` names; empty without it.
async fn account_name(client: &mut Client, context: &Context) -> Result<String, Failure> {
    if context.account.is_empty() {
        return Ok(String::new());
    }
    let listed = call::<method::ListAccounts>(client, &Empty {}).await?.value.accounts;
    let place = account::find(listed.iter().map(|account| account.account.as_str()), &context.account);
    let found = place.and_then(|place| listed.get(place));
    found.map(|found| found.account.clone()).ok_or_else(|| account::no_such_account(&context.account))
}

impl Watching<'_> {
    /// Prints events until the first one with `--once`, else for ever.
    async fn follow(&mut self, mut stream: EventStream) -> Outcome {
        loop {
            match stream.next().await {
                Ok(event) => {
                    if self.show(&event).await? && self.once {
                        return Ok(Exit::Ok);
                    }
                }
                Err(error) if has_gone(&error) => {
                    self.context.out.note(format!("{DIM}the daemon went away; waiting for it{DIM:#}"));
                    stream = resume(stream.cursor()).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Prints an event; tells whether it is one that is asked for.
    async fn show(&mut self, event: &Event) -> Result<bool, Failure> {
        let value = serde_json::to_value(event).unwrap_or_default();
        let kind = value.get("event").and_then(Value::as_str).unwrap_or_default();
        if let EventKind::ChatChanged { chat } | EventKind::GroupChanged { chat, .. } = &event.kind {
            self.chats.remove(chat);
        }
        let is_named = self.kinds.iter().any(|named| named == kind);
        let is_other_account = !self.account.is_empty() && !event.account.is_empty() && event.account != self.account;
        if is_other_account || !(self.kinds.is_empty() || is_named) {
            return Ok(false);
        }
        if self.context.out.json {
            self.context.out.json(&value)?;
            return Ok(true);
        }
        match self.line(event, is_named).await {
            Some(line) => self.context.out.text(line).map(|()| true),
            None => Ok(false),
        }
    }

    /// The event for people; `None` for what they need not know, unless its kind was asked for.
    async fn line(&mut self, event: &Event, is_named: bool) -> Option<String> {
        let clock = Clock::system();
        let line = match &event.kind {
            EventKind::MessageReceived { chat, request, message, .. } => {
                return Some(self.message(event, chat, *request, message.as_ref(), &clock).await);
            }
            EventKind::MessageState { chat, id, state } => {
                let needs_attention = matches!(state, MessageState::Held | MessageState::Failed);
                if !needs_attention && !is_named {
                    return None;
                }
                let title = self.title(event, chat).await;
                let style = if needs_attention { YELLOW } else { DIM };
                format!("{style}message to {title} is {} ({}){style:#}", state_word(*state), safe_text::line(id))
            }
            EventKind::IdentityChanged { contact } => {
                let (name, argument) = (safe_text::line(contact), safe_text::argument(contact));
                format!("{RED}the key of {name} has changed; fastchatctl key show {argument}{RED:#}")
            }
            EventKind::AccountState { state: AccountState::Connecting, .. } if !is_named => return None,
            EventKind::AccountState { state, reason } => {
                let (word, style) = account::state_word(*state);
                let reason = reason.as_ref().map(|reason| format!(": {}", safe_text::line(reason))).unwrap_or_default();
                format!("{style}{}: {word}{reason}{style:#}", safe_text::line(&event.account))
            }
            EventKind::NewDevice { device, name } => {
                let (name, device) = (safe_text::line(name), safe_text::argument(device));
                format!("{RED}new device on the account: {name}; not yours? fastchatctl device revoke {device}{RED:#}")
            }
            EventKind::EventsLost {} => {
                format!("{YELLOW}older events are no longer kept; fastchatctl history CHAT shows messages{YELLOW:#}")
            }
            _ if !is_named => return None,
            EventKind::Presence { contact, active, .. } => {
                let (word, style) = if *active { ("is active", GREEN) } else { ("is away", DIM) };
                format!("{style}{} {word}{style:#}", safe_text::line(contact))
            }
            EventKind::ChatRead { chat, unread } => format!("{}: {unread} unread", self.title(event, chat).await),
            EventKind::ChatChanged { chat } => format!("{} has changed", self.title(event, chat).await),
            EventKind::ContactChanged { contact } => format!("contact {} has changed", safe_text::line(contact)),
            EventKind::GroupChanged { chat, .. } => format!("group {} has changed", self.title(event, chat).await),
            EventKind::DevicesChanged {} => "the account's devices have changed".to_owned(),
            EventKind::AccountChanged {} => "the accounts have changed".to_owned(),
        };
        Some(format!("{DIM}{}{DIM:#} {line}", clock.stamp(event.at_ms)))
    }

    async fn message(
        &mut self,
        event: &Event,
        chat: &str,
        request: bool,
        message: Option<&fastchat_ipc::Message>,
        clock: &Clock,
    ) -> String {
        let stamp = clock.stamp(event.at_ms);
        let Some(message) = message else {
            let title = self.title(event, chat).await;
            return format!("{DIM}{stamp}{DIM:#} {title}: {DIM}[no longer in the history]{DIM:#}");
        };
        if request {
            let (name, argument) = (safe_text::line(&message.from), safe_text::argument(&message.from));
            let advice = format!("fastchatctl contact accept {argument}");
            return format!("{DIM}{stamp}{DIM:#} {YELLOW}{name} wants to write to you; {advice}{YELLOW:#}");
        }
        let group = match self.chat(event, chat).await {
            Some(chat) if chat.kind == ChatKind::Group => format!("[{}]", chat.title),
            _ => String::new(),
        };
        message_line::shown(message, &group, clock)
    }

    /// A chat's title, safe to print; its id when there is none.
    async fn title(&mut self, event: &Event, id: &str) -> String {
        let title = self.chat(event, id).await.map_or(id, |chat| &chat.title);
        format!("{BOLD}{}{BOLD:#}", safe_text::line(title))
    }

    /// Looks a chat up; events carry its id alone.
    async fn chat(&mut self, event: &Event, id: &str) -> Option<&Chat> {
        if !self.chats.contains_key(id) {
            let request = OfAccount { account: event.account.clone() };
            let mut client = Client::connect(&socket_path(), CALL).await.ok()?;
            let listed = call::<method::ListChats>(&mut client, &request).await.ok()?.value.chats;
            self.chats.extend(listed.into_iter().map(|chat| (chat.id.clone(), chat)));
        }
        self.chats.get(id)
    }
}

/// Whether the daemon can be waited for.
fn has_gone(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::TimedOut(_) => true,
        ClientError::Broken(cause) => cause.kind() != io::ErrorKind::InvalidData,
        ClientError::Api(error) => matches!(error.code, ErrorCode::Locked | ErrorCode::ShuttingDown),
    }
}

/// Subscribes again from `cursor` on as soon as a daemon answers (and its store is unlocked).
async fn resume(cursor: &str) -> Result<EventStream, Failure> {
    let mut delay = BACK_OFF.0;
    loop {
        let outcome = match Client::connect(&socket_path(), CALL).await {
            Ok(client) => client.subscribe(cursor).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(stream) => return Ok(stream),
            Err(error) if has_gone(&error) => sleep(delay).await,
            Err(error) => return Err(error.into()),
        }
        delay = (delay * 2).min(BACK_OFF.1);
    }
}
