//! `chats` and `mark-read`.
//!
//! **Invariant**: direct chats, groups and requests are counted apart; the text of a request is not shown here.

use anstyle::Style;
use clap::Args;
use fastchat_ipc::{Chat, ChatKind, GroupState, MessageKind, OfAccount, method};

use crate::commands::Outcome;
use crate::commands::group::state_word;
use crate::commands::unread::in_words;
use crate::daemon::Context;
use crate::failure::Exit;
use crate::local_time::Clock;
use crate::output::{BOLD, DIM, GREEN, YELLOW, width};
use crate::safe_text;
use crate::table::Table;

/// List the chats, newest message first, with unread counts
///
/// A chat marked ✓ is verified: the safety numbers of all others in it were compared.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  fastchatctl chats\n  fastchatctl chats --json | jq '.chats[] | select(.unread > 0)'"
)]
pub(crate) struct Chats {}

/// Mark a chat as read, and withdraw its notification.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  fastchatctl mark-read bob")]
pub(crate) struct MarkRead {
    /// The chat
    chat: String,
    /// Only up to this position (`position` in `history --json`)
    #[arg(long, value_name = "POSITION", default_value_t = 0, hide_default_value = true)]
    up_to: u64,
}

impl Chats {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let answer = context.call::<method::ListChats>(&OfAccount { account: context.account.clone() }).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
            return Ok(Exit::Ok);
        }
        let chats = answer.value.chats;
        if chats.is_empty() {
            context.out.done("no chats yet; next: fastchatctl send NAME -m TEXT")?;
        }
        context.out.text(sections(&chats, &Clock::system(), width()))?;
        Ok(Exit::Ok)
    }
}

/// Requests, direct chats and groups, each under a heading with its unread count.
fn sections(chats: &[Chat], clock: &Clock, width: usize) -> String {
    let of = |kind: ChatKind| chats.iter().filter(move |chat| !chat.request && chat.kind == kind).collect::<Vec<_>>();
    let requests: Vec<&Chat> = chats.iter().filter(|chat| chat.request).collect();
    let mut text = String::new();
    for (name, chats) in [("Requests", requests), ("Direct", of(ChatKind::Direct)), ("Groups", of(ChatKind::Group))] {
        if chats.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let unread: u64 = chats.iter().map(|chat| chat.unread).sum();
        let count = if unread > 0 { format!(" ({unread} unread)") } else { String::new() };
        text.push_str(&format!("{DIM}{name}{count}{DIM:#}\n"));
        let mut table = Table::default();
        for chat in chats {
            table.line(cells(chat, clock));
        }
        text.push_str(&table.show(width));
    }
    text
}

/// The mark of verified ones stands first: no name can be made to look as if it had it.
fn cells(chat: &Chat, clock: &Clock) -> [(String, Style); 5] {
    let mark = if chat.verified { "✓" } else { " " };
    let unread = if chat.unread > 0 { chat.unread.to_string() } else { String::new() };
    let title = if chat.unread > 0 { BOLD } else { Style::new() };
    let at = chat.last.as_ref().map_or(0, |last| last.accepted_at_ms.max(last.sent_at_ms));
    let (last, style) = last(chat);
    [
        (mark.to_owned(), GREEN),
        (safe_text::line(&chat.title), title),
        (unread, BOLD),
        (clock.stamp(at), DIM),
        (last, style),
    ]
}

/// What stands last in the chat, or what has to be done about it.
fn last(chat: &Chat) -> (String, Style) {
    if chat.request {
        let name = safe_text::argument(&chat.contact);
        return (format!("wants to write to you; fastchatctl contact accept {name}"), YELLOW);
    }
    if chat.held && chat.kind == ChatKind::Group {
        let name = safe_text::argument(&chat.title);
        return (format!("held: a member's key has changed; fastchatctl group show {name}"), YELLOW);
    }
    if chat.held {
        let name = safe_text::argument(&chat.contact);
        return (format!("held: the key has changed; fastchatctl key show {name}"), YELLOW);
    }
    let state = chat.group.filter(|state| *state != GroupState::Active).map(|state| state_word(state).0);
    let remarks = [state, chat.muted.then_some("muted")].into_iter().flatten().map(|remark| format!("({remark}) "));
    let remarks: String = remarks.collect();
    let Some(message) = &chat.last else { return (remarks, DIM) };
    let text = safe_text::line(&message.text);
    let text = match message.kind {
        MessageKind::Text if message.mine => format!("me: {text}"),
        MessageKind::Text if chat.kind == ChatKind::Group => format!("{}: {text}", safe_text::line(&message.from)),
        MessageKind::Text => text,
        MessageKind::Notice => format!("* {text}"),
        MessageKind::Unreadable => format!("[cannot be opened: {text}]"),
    };
    (format!("{remarks}{text}"), Style::new())
}

impl MarkRead {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let shown = safe_text::line(&self.chat);
        let request = fastchat_ipc::MarkRead { account: context.account.clone(), chat: self.chat, up_to: self.up_to };
        let answer = context.call::<method::MarkChatRead>(&request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            context.out.done(format!("{shown} is read; left: {}", in_words(answer.value)))?;
        }
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(title: &str, verified: bool) -> Chat {
        Chat {
            id: title.into(),
            account: "alice@h:1".into(),
            kind: ChatKind::Group,
            title: title.into(),
            contact: String::new(),
            verified,
            group: Some(GroupState::Joining),
            unread: 0,
            muted: true,
            request: false,
            held: false,
            last: None,
        }
    }

    #[test]
    fn no_name_can_take_the_place_of_the_verified_mark() {
        let shown = |chats: &[Chat]| {
            let shown = sections(chats, &Clock::system(), 80);
            anstream::adapter::strip_str(&shown).to_string()
        };
        assert_eq!(shown(&[chat("✓  ops", false)]), "Groups\n   ✓  ops  (joining) (muted) \n");
        assert!(shown(&[chat("✓  ops", false), chat("lab", true)]).contains("\n✓  lab"));
    }

    #[test]
    fn a_group_that_is_held_names_itself_and_not_a_contact() {
        let held = Chat { held: true, ..chat("the team", false) };
        assert!(last(&held).0.ends_with("fastchatctl group show 'the team'"), "{}", last(&held).0);
    }
}
