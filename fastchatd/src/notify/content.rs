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

/// A text that somebody wrote, as [`plain`] leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Who wrote it; empty when the preview hides it.
    pub(super) from: String,
    pub(super) text: String,
}

/// Summary and body, not escaped yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) summary: String,
    pub(super) body: String,
}

impl Content {
    /// What to show for a chat: its newest notice and the last texts, oldest first.
    pub(super) fn of(notice: &Notice, lines: &VecDeque<Line>) -> Self {
        let short = |name: &String| cut(&plain(name), SUMMARY);
        let (sender, group) = (notice.sender.as_ref().map(short), notice.group.as_ref().map(short));
        if notice.request {
            let who = sender.unwrap_or_else(|| "Somebody who is not a contact".to_owned());
            return Self { summary: "Message request".to_owned(), body: format!("{who} wants to write to you.") };
        }
        // Where several people wrote, the lines tell who, and the summary where.
        let is_mixed =
            group.is_some() && lines.iter().any(|line| lines.back().is_some_and(|last| last.from != line.from));
        let mut summary = match (sender, group) {
            (Some(sender), Some(group)) if !is_mixed => format!("{sender} in {group}"),
            (_, Some(group)) => format!("Group {group}"),
            (Some(sender), None) => sender,
            (None, None) => "FastChat".to_owned(),
        };
        if notice.unread > 1 && !lines.is_empty() {
            summary = format!("{summary} ({})", notice.unread);
        }
        let body = match (lines.is_empty(), notice.unread) {
            (false, _) => join(lines, is_mixed),
            (true, 0 | 1) => "New message".to_owned(),
            (true, unread) => format!("{unread} new messages"),
        };
        Self { summary, body }
    }

    /// What to show for a device that came to an account.
    pub(super) fn of_new_device(account: &str, device_name: &str) -> Self {
        let device = cut(&plain(device_name), SUMMARY);
        Self {
            summary: format!("New device on {}", cut(&plain(account), SUMMARY)),
            body: format!(
                "“{device}” reads and writes as you from now on. If it is not yours: fastchatctl device revoke, \
                 then change the password."
            ),
        }
    }

    /// The body as the service wants it.
    pub(super) fn body(&self, markup: bool) -> String {
        if markup { escape(&self.body) } else { self.body.clone() }
    }
}

/// The newest texts that fit, oldest first; with their senders where there are several.
fn join(lines: &VecDeque<Line>, is_mixed: bool) -> String {
    let mut left = CHARACTERS;
    let mut kept = VecDeque::new();
    for line in lines.iter().rev().take(LINES) {
        if left == 0 {
            break;
        }
        let line = match is_mixed && !line.from.is_empty() {
            true => cut(&format!("{}: {}", line.from, line.text), left),
            false => cut(&line.text, left),
        };
        left = left.saturating_sub(line.chars().count() + 1);
        kept.push_front(line);
    }
    Vec::from(kept).join("\n")
}

impl Line {
    /// The text of a notice; `None` where it has none to show.
    pub(super) fn of(notice: &Notice) -> Option<Self> {
        let text = notice.text.as_ref().filter(|_| !notice.request)?;
        let from = notice.sender.as_ref().map(|sender| cut(&plain(sender), SUMMARY)).unwrap_or_default();
        Some(Self { from, text: plain(text) })
    }
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
        Notice { account: "alice@h:1".into(), chat: "c".into(), sender, group: None, text: None, unread, request }
    }

    fn line(from: &str, text: &str) -> Line {
        Line { from: from.to_owned(), text: text.to_owned() }
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
        let lines: VecDeque<Line> = (0..9).map(|n| line("bob", &format!("line {n}"))).collect();
        let content = Content::of(&notice(Some("bob"), 9, false), &lines);
        assert_eq!(content.summary, "bob (9)");
        assert_eq!(content.body, "line 4\nline 5\nline 6\nline 7\nline 8");
        let long = VecDeque::from([line("bob", "old"), line("bob", &"ä".repeat(1000))]);
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
    fn in_a_group_the_sender_and_the_group_are_named_and_several_senders_in_their_lines() {
        let in_ops = |sender, unread| Notice { group: Some("o\nps".into()), ..notice(sender, unread, false) };
        let of =
            |sender, unread, lines: &[Line]| Content::of(&in_ops(sender, unread), &lines.iter().cloned().collect());
        let (one, two) = (line("bob", "one"), line("carol", "two"));
        let expected = Content { summary: "bob in o ps".into(), body: "one".into() };
        assert_eq!(of(Some("bob"), 1, std::slice::from_ref(&one)), expected);
        let expected = Content { summary: "Group o ps (2)".into(), body: "bob: one\ncarol: two".into() };
        assert_eq!(of(Some("carol"), 2, &[one, two]), expected);
        // With the sender alone in the preview, or the group alone.
        assert_eq!(of(Some("bob"), 2, &[]), Content { summary: "bob in o ps".into(), body: "2 new messages".into() });
        assert_eq!(of(None, 1, &[]), Content { summary: "Group o ps".into(), body: "New message".into() });
    }

    #[test]
    fn a_new_device_is_named_on_one_line_of_bounded_length() {
        let content = Content::of_new_device("alice@h:1", &format!("pho\nne{}", "x".repeat(500)));
        assert_eq!(content.summary, "New device on alice@h:1");
        assert!(content.body.starts_with("“pho nexx") && content.body.chars().count() < 250, "{}", content.body);
    }

    #[test]
    fn a_request_shows_no_text() {
        let lines = VecDeque::from([line("mallory", "buy now")]);
        let content = Content::of(&notice(Some("mallory"), 4, true), &lines);
        assert_eq!(content.body, "mallory wants to write to you.");
        assert_eq!(content.summary, "Message request");
    }
}
