//! A message as a line for people.
//!
//! **Invariant**: nothing that others wrote reaches the terminal unescaped, or stands at the beginning of a line.

use fastchat_ipc::{Message, MessageKind, MessageState};
use unicode_width::UnicodeWidthStr;

use crate::local_time::Clock;
use crate::output::{BOLD, DIM, RED, YELLOW};
use crate::safe_text;

/// `12:03 bob: text`, with further lines indented. `place` is put before the name (the group's name in `watch`).
pub(crate) fn shown(message: &Message, place: &str, clock: &Clock) -> String {
    let at = if message.accepted_at_ms > 0 { message.accepted_at_ms } else { message.sent_at_ms };
    let stamp = clock.stamp(at);
    let indent = stamp.width() + 1;
    let text = safe_text::block(&message.text, indent);
    let place = if place.is_empty() { String::new() } else { format!("{} ", safe_text::line(place)) };
    let name = if message.mine { "me".to_owned() } else { safe_text::line(&message.from) };
    match message.kind {
        MessageKind::Notice => format!("{DIM}{stamp}{DIM:#} {place}{YELLOW}* {text}{YELLOW:#}"),
        MessageKind::Unreadable => {
            format!("{DIM}{stamp}{DIM:#} {place}{BOLD}{name}{BOLD:#}: {RED}[cannot be opened: {text}]{RED:#}")
        }
        MessageKind::Text => {
            format!("{DIM}{stamp}{DIM:#} {place}{BOLD}{name}{BOLD:#}: {text}{}", remark(message))
        }
    }
}

/// What the reader should know of an own message that is not on the other device.
fn remark(message: &Message) -> String {
    let (word, style) = match message.state {
        MessageState::Delivered | MessageState::Received => return String::new(),
        MessageState::Queued | MessageState::Sent | MessageState::Cancelled => (state_word(message.state), DIM),
        MessageState::Held => (state_word(message.state), YELLOW),
        MessageState::Failed => (state_word(message.state), RED),
    };
    if message.error.is_empty() {
        return format!("  {style}({word}){style:#}");
    }
    format!("  {style}({word}: {}){style:#}", safe_text::line(&message.error))
}

/// A state in a word.
pub(crate) fn state_word(state: MessageState) -> &'static str {
    match state {
        MessageState::Queued => "queued",
        MessageState::Held => "held",
        MessageState::Sent => "sent",
        MessageState::Delivered => "delivered",
        MessageState::Failed => "failed",
        MessageState::Cancelled => "cancelled",
        MessageState::Received => "received",
    }
}
