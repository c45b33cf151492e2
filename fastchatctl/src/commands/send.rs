//! `send`: a text to one or more people.
//!
//! **Invariant**: a message that was queued is sent once, even when the daemon's connection breaks during the call.

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use clap::{Args, ValueEnum};
use fastchat_ipc::{Account, AccountState, Empty, ErrorCode, MessageState, SendResult, Sent, Wait, method};
use serde_json::Value;
use uuid::Uuid;

use crate::commands::{Outcome, account};
use crate::daemon::{Answer, CALL, Context, call};
use crate::failure::{Exit, Failure};
use crate::message_line::state_word;
use crate::safe_text;

/// The longest text, in bytes.
const LONGEST: usize = 64 * 1024;
/// How much longer than the daemon this side waits for a `--wait`.
const GRACE: Duration = Duration::from_secs(5);

/// Send a message to one or more people or groups.
///
/// It is on disk when the command returns, and goes out as soon as there is a connection; --wait waits for more. The
/// text comes from -m, or from stdin when it is a pipe or `-` is given; one newline at its end is left out.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With several recipients the exit code is that of the one that went worst: 4 when a message is held because the \
contact's key changed, 7 when it was refused, 8 when --wait was not reached in --timeout (30s). What was queued \
stays queued.

Examples:
  fastchatctl send bob -m 'hi'
  fastchatctl send 'Night shift' -m 'who is on call?'
  fastchatctl send bob carol -m 'lunch?' --wait delivered --timeout 1m
  systemctl status nginx | fastchatctl send ops -
  fastchatctl send ops -m 'backup done' --idempotency-key backup-2026-11-21")]
pub(crate) struct Send {
    /// Names or aliases of people, names of groups; `-` at the end reads the text from stdin
    #[arg(value_name = "TO", required = true)]
    to: Vec<String>,
    /// The text
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<String>,
    /// How long to wait: until it is on this disk, on the server, or on the other's device (in a group: on everybody's)
    #[arg(long, value_enum, default_value_t = Until::Queued)]
    wait: Until,
    /// The same key again is the same message: it is sent once
    #[arg(long, value_name = "K")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    Queued,
    Sent,
    Delivered,
}

impl From<Until> for Wait {
    fn from(until: Until) -> Self {
        match until {
            Until::Queued => Self::Queued,
            Until::Sent => Self::Sent,
            Until::Delivered => Self::Delivered,
        }
    }
}

impl Send {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let (to, text) = self.parts(context)?;
        let wait = Wait::from(self.wait);
        let patience = context.timeout.unwrap_or(CALL);
        let request = fastchat_ipc::Send {
            account: context.account.clone(),
            to,
            text,
            wait,
            timeout_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            idempotency_key: self.idempotency_key.unwrap_or_else(|| Uuid::now_v7().to_string()),
        };
        let answer = submit(&request, patience, context).await?;
        let worst = answer.value.messages.iter().fold(Exit::Ok, |worst, sent| worst.worse(exit_of(sent, wait)));
        let obstacle = if worst == Exit::QueuedOnly { obstacle(context).await } else { None };
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            report(&answer.value.messages, wait, obstacle.as_ref(), context)?;
        }
        Ok(obstacle.map_or(worst, |account| worst.worse(exit_of_state(account.state))))
    }

    /// The recipients and the text.
    fn parts(&self, context: &Context) -> Result<(Vec<String>, String), Failure> {
        let to: Vec<String> = self.to.iter().filter(|to| *to != "-").cloned().collect();
        let wants_stdin = to.len() < self.to.len();
        if to.is_empty() {
            return Err(Failure::usage("nobody is named to send it to").next("`fastchatctl send NAME -m TEXT`"));
        }
        let text = match &self.message {
            Some(_) if wants_stdin => {
                return Err(Failure::usage("both `-m` and `-` give the text").next("leave one of them out"));
            }
            Some(text) => text.clone(),
            None if wants_stdin || !io::stdin().is_terminal() => {
                if io::stdin().is_terminal() {
                    context.out.note("type the text; Ctrl-D on a line of its own sends it");
                }
                from_stdin(&mut io::stdin().lock())?
            }
            None => {
                return Err(Failure::usage("there is no text to send")
                    .next(format!("`fastchatctl send {} -m TEXT`, or pipe the text in", to.join(" "))));
            }
        };
        check_text(&text)?;
        Ok((to, text))
    }
}

fn from_stdin(reader: &mut impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    // One more for the newline that is left out, one more to see that it is too long.
    let read = reader.take(LONGEST as u64 + 2).read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(format!("cannot read the text from stdin: {error}")))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.len() > LONGEST {
        return Err(too_long());
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Failure::usage(format!("the text is not UTF-8 (from byte {place} on)")).next("convert it with `iconv -t UTF-8`")
    })
}

fn check_text(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Err(Failure::usage("the text is empty").next("give it with `-m TEXT`, or pipe it in"));
    }
    if text.len() > LONGEST { Err(too_long()) } else { Ok(()) }
}

fn too_long() -> Failure {
    Failure::usage("the text is longer than 64 KiB").next("shorten it, for example with `| tail -c 64K`")
}

/// Calls `send`; once more when the connection broke: the key makes it the same message.
async fn submit(
    request: &fastchat_ipc::Send,
    patience: Duration,
    context: &Context,
) -> Result<Answer<SendResult>, Failure> {
    let mut again = true;
    loop {
        let mut client = context.connect().await?;
        client.set_deadline(patience + GRACE);
        match call::<method::SendMessage>(&mut client, request).await {
            Err(Failure::Failed(report)) if again && report.exit == Exit::NoDaemon => again = false,
            outcome => return outcome,
        }
    }
}

fn has_reached(state: MessageState, wait: Wait) -> bool {
    match state {
        MessageState::Queued => wait == Wait::Queued,
        MessageState::Sent => wait <= Wait::Sent,
        MessageState::Delivered | MessageState::Received => true,
        MessageState::Held | MessageState::Failed | MessageState::Cancelled => false,
    }
}

fn exit_of(sent: &Sent, wait: Wait) -> Exit {
    match (&sent.error, sent.state) {
        (_, state) if has_reached(state, wait) => Exit::Ok,
        (Some(error), MessageState::Held | MessageState::Failed) => Exit::of(error.code),
        (None, MessageState::Held | MessageState::Failed) | (_, MessageState::Cancelled) => Exit::Refused,
        _ => Exit::QueuedOnly,
    }
}

/// The sending account, when it is its state that keeps messages from going out.
async fn obstacle(context: &Context) -> Option<Account> {
    let listed = context.call::<method::ListAccounts>(&Empty {}).await.ok()?.value.accounts;
    let place = account::find(listed.iter().map(|account| account.account.as_str()), &context.account)?;
    listed.into_iter().nth(place).filter(|account| account.state != AccountState::Online)
}

fn exit_of_state(state: AccountState) -> Exit {
    match state {
        AccountState::Untrusted => Exit::Untrusted,
        AccountState::LoggedOut | AccountState::Locked => Exit::Refused,
        AccountState::Offline | AccountState::Connecting | AccountState::Online => Exit::QueuedOnly,
    }
}

/// What to say of a message that is on its way, but not as far as it was waited for.
fn not_reached(sent: &Sent, wait: Wait, obstacle: Option<&Account>) -> Failure {
    let wanted = if wait == Wait::Delivered { "delivered" } else { "sent" };
    let text = format!("{}: {}, but not {wanted} in time", sent.to, state_word(sent.state));
    let Some(account) = obstacle else {
        return Failure::new(Exit::QueuedOnly, "queued_only", format!("{text}; it is kept and goes on by itself"))
            .next("`fastchatctl outbox list`");
    };
    let (exit, state) = (exit_of_state(account.state), account::state_word(account.state).0);
    let why = if account.reason.is_empty() { String::new() } else { format!(": {}", account.reason) };
    let failure = Failure::new(exit, "queued_only", format!("{text}; it is kept. {}, {state}{why}", account.account));
    match account.state {
        AccountState::LoggedOut => failure.next(format!("`fastchatctl login {}`", account.account)),
        AccountState::Locked => failure.next("`fastchatctl unlock`"),
        _ => failure.next("`fastchatctl status` shows how it is"),
    }
}

fn report(messages: &[Sent], wait: Wait, obstacle: Option<&Account>, context: &Context) -> Result<(), Failure> {
    for sent in messages {
        let to = safe_text::line(&sent.to);
        let state = state_word(sent.state);
        match exit_of(sent, wait) {
            Exit::Ok => context.out.done(format!("{to}: {state}"))?,
            Exit::QueuedOnly => {
                not_reached(sent, wait, obstacle).report(false);
            }
            exit => {
                problem(sent, exit).report(false);
            }
        }
    }
    Ok(())
}

/// What to say of a message that is held or failed.
fn problem(sent: &Sent, exit: Exit) -> Failure {
    let (to, state) = (&sent.to, state_word(sent.state));
    let kept = if sent.state == MessageState::Held { "; the message is kept" } else { "" };
    let Some(error) = &sent.error else {
        return Failure::new(exit, state, format!("{to}: {state}{kept}")).next("`fastchatctl outbox list`");
    };
    let failure = Failure::new(exit, state, format!("{to}: {state}{kept}: {}", error.message));
    if error.code == ErrorCode::IdentityChanged {
        // In a group it is a member's key.
        let contact = error.data.get("contact").and_then(Value::as_str).unwrap_or(to);
        let argument = safe_text::argument(contact);
        return failure
            .next(format!("`fastchatctl key show {argument}` and compare the number with {contact}"))
            .next(format!("`fastchatctl key trust {argument}` if it is right; then the message goes out"));
    }
    failure.next(error.hint.clone().unwrap_or_else(|| "`fastchatctl outbox list`".to_owned()))
}

#[cfg(test)]
mod tests {
    use fastchat_ipc::ApiError;

    use super::*;

    fn sent(state: MessageState, code: Option<ErrorCode>) -> Sent {
        let error = code.map(|code| ApiError::new(code, "no"));
        Sent { to: "bob".into(), id: String::new(), chat: String::new(), state, error }
    }

    #[test]
    fn exactly_one_newline_at_the_end_is_left_out() {
        assert_eq!(from_stdin(&mut &b"a\n\n"[..]).ok(), Some("a\n".to_owned()));
        assert_eq!(from_stdin(&mut &b"a"[..]).ok(), Some("a".to_owned()));
    }

    #[test]
    fn a_text_may_be_64_kib_long_and_not_a_byte_more() {
        let longest = vec![b'x'; LONGEST];
        assert!(from_stdin(&mut &[&longest[..], b"\n"].concat()[..]).is_ok());
        assert!(from_stdin(&mut &[&longest[..], b"x"].concat()[..]).is_err());
        assert!(from_stdin(&mut &[&longest[..], b"\n\n"].concat()[..]).is_err());
        assert!(from_stdin(&mut &b"\xff"[..]).is_err());
    }

    #[test]
    fn a_message_held_in_a_group_names_the_member_to_look_at() {
        let error = ApiError::new(ErrorCode::IdentityChanged, "the key of carol has changed").with("contact", "carol");
        let held = Sent { to: "ops".into(), error: Some(error), ..sent(MessageState::Held, None) };
        let text = format!("{:?}", problem(&held, Exit::Untrusted));
        assert!(text.contains("key show carol") && text.contains("key trust carol"), "{text}");
    }

    #[test]
    fn the_exit_code_tells_where_the_message_stands() {
        assert_eq!(exit_of(&sent(MessageState::Queued, None), Wait::Queued), Exit::Ok);
        assert_eq!(exit_of(&sent(MessageState::Queued, None), Wait::Sent), Exit::QueuedOnly);
        assert_eq!(exit_of(&sent(MessageState::Sent, None), Wait::Delivered), Exit::QueuedOnly);
        let changed = Some(ErrorCode::IdentityChanged);
        assert_eq!(exit_of(&sent(MessageState::Held, changed), Wait::Queued), Exit::Untrusted);
        assert_eq!(exit_of(&sent(MessageState::Failed, Some(ErrorCode::Refused)), Wait::Queued), Exit::Refused);
    }
}
