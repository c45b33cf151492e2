//! What a notification says.
//!
//! **Invariant**: text of others reaches the notification service without control characters, of bounded length, and as
//! text: where the service reads markup in the body, it is escaped.

use std::collections::VecDeque;

use crate::api::Notice;

/// Messages shown in one notification at most: lines, and characters over all lines.
pub(super) const LINES: usize = 5;
pub(super) const CHARACTERS: usize = 400;
/// Characters of a summary at most.
const SUMMARY: usize = 80;

/// Summary and body, not escaped yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) summary: String,
    pub(super) body: String,
}

impl Content {
    /// What to show for a chat: its newest notice and the last texts, oldest first.
    pub(super) fn of(notice: &Notice, lines: &VecDeque<String>) -> Self {
        let sender = notice.sender.as_deref().map(|sender| cut(&plain(sender), SUMMARY));
        if notice.request {
            let who = sender.unwrap_or_else(|| "Somebody who is not a contact".to_owned());
            return Self { summary: "Message request".to_owned(), body: format!("{who} wants to write to you.") };
        }
        let mut summary = sender.unwrap_or_else(|| "FastChat".to_owned());
        if notice.unread > 1 && !lines.is_empty() {
            summary = format!("{summary} ({})", notice.unread);
        }
        let body = match (lines.is_empty(), notice.unread) {
            (false, _) => join(lines),
            (true, 0 | 1) => "New message".to_owned(),
            (true, unread) => format!("{unread} new messages"),
        };
        Self { summary, body }
    }

    /// The body as the service wants it.
    pub(super) fn body(&self, markup: bool) -> String {
        if markup { escape(&self.body) } else { self.body.clone() }
    }
}

/// The newest texts that fit, oldest first.
fn join(lines: &VecDeque<String>) -> String {
    let mut left = CHARACTERS;
    let mut kept = VecDeque::new();
    for line in lines.iter().rev().take(LINES) {
        if left == 0 {
            break;
        }
        let line = cut(line, left);
        left = left.saturating_sub(line.chars().count() + 1);
        kept.push_front(line);
    }
    Vec::from(kept).join("\n")
}

/// One line of text: control characters and line breaks become spaces, what only turns the reading direction goes.
pub(super) fn plain(text: &str) -> String {
    let shown = text.chars().filter(|c| !turns_direction(*c)).take(CHARACTERS + 1);
    let spaced = shown.map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    spaced.collect::<String>().trim().to_owned()
}

fn turns_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Escapes markup as the Desktop Notifications Specification has it (the XML subset): `&`, `<`, `>`.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(sender: Option<&str>, unread: u64, request: bool) -> Notice {
        let sender = sender.map(str::to_owned);
        Notice { account: "alice@h:1".into(), chat: "c".into(), sender, text: None, unread, request }
    }

    #[test]
    fn markup_is_escaped_byte_for_byte() {
        let corpus = [
            ("plain", "plain"),
            ("a & b", "a &amp; b"),
            ("&amp;", "&amp;amp;"),
            ("<b>bold</b>", "&lt;b&gt;bold&lt;/b&gt;"),
            ("<img src=\"x\" onerror='y'>", "&lt;img src=\"x\" onerror='y'&gt;"),
            ("1 < 2 && 3 > 2", "1 &lt; 2 &amp;&amp; 3 &gt; 2"),
            ("&lt;script&gt;", "&amp;lt;script&amp;gt;"),
            ("ünï→😀", "ünï→😀"),
            ("", ""),
        ];
        for (text, escaped) in corpus {
            let content = Content { summary: String::new(), body: text.to_owned() };
            assert_eq!((content.body(true).as_str(), content.body(false).as_str()), (escaped, text));
        }
    }

    #[test]
    fn text_is_one_line_without_control_characters_or_direction_tricks() {
        assert_eq!(plain("a\nb\tc\u{1b}[31md\u{7f}e\u{85}f\u{2028}g"), "a b c [31md e f g");
        assert_eq!(plain("evil\u{202e}txt.exe\u{2066}\u{200f}"), "eviltxt.exe");
        assert_eq!(plain(" \r\n "), "");
    }

    #[test]
    fn a_long_chat_shows_its_newest_lines_within_the_bounds() {
        let lines: VecDeque<String> = (0..9).map(|n| format!("line {n}")).collect();
        let content = Content::of(&notice(Some("bob"), 9, false), &lines);
        assert_eq!(content.summary, "bob (9)");
        assert_eq!(content.body, "line 4\nline 5\nline 6\nline 7\nline 8");
        let long = VecDeque::from(["old".to_owned(), "ä".repeat(1000)]);
        let content = Content::of(&notice(Some("bob"), 2, false), &long);
        assert_eq!(content.body.chars().count(), CHARACTERS);
        assert!(content.body.ends_with('…'));
    }

    #[test]
    fn what_the_preview_hides_is_not_there() {
        let none = VecDeque::new();
        let of = |sender, unread| Content::of(&notice(sender, unread, false), &none);
        assert_eq!(of(Some("bob"), 1), Content { summary: "bob".into(), body: "New message".into() });
        assert_eq!(of(None, 3), Content { summary: "FastChat".into(), body: "3 new messages".into() });
    }

    #[test]
    fn a_request_shows_no_text() {
        let lines = VecDeque::from(["buy now".to_owned()]);
        let content = Content::of(&notice(Some("mallory"), 4, true), &lines);
        assert_eq!(content.body, "mallory wants to write to you.");
        assert_eq!(content.summary, "Message request");
    }
}
