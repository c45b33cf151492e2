//! Text from others, made safe to show.
//!
//! A message, a name or a server's error may hold terminal escapes, overrides of the writing direction or invisible
//! characters. Everything of that kind is shown as a visible escape; all else stays as it was written.
//!
//! **Invariant**: what these functions return holds no control character (but the newlines of [`block`]) and no
//! character that hides or reorders others.

use unicode_width::UnicodeWidthChar;

/// Columns from one tab stop to the next.
const TAB: usize = 8;

/// Text on one line: newlines are escaped too.
#[must_use]
pub(crate) fn line(text: &str) -> String {
    written(text, None)
}

/// Text of several lines: each after the first begins with `indent` spaces, so that none can pass for a line of ours.
#[must_use]
pub(crate) fn block(text: &str, indent: usize) -> String {
    written(text, Some(indent))
}

/// Text as one argument of a command that is shown to be typed: quoted where a shell would take it apart.
#[must_use]
pub(crate) fn argument(text: &str) -> String {
    let shown = line(text);
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | ':' | '+');
    if !shown.is_empty() && !shown.starts_with('-') && shown.chars().all(is_plain) {
        return shown;
    }
    format!("'{}'", shown.replace('\'', "'\\''"))
}

fn written(text: &str, indent: Option<usize>) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut column = 0;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, indent) {
            ('\r', Some(_)) if characters.peek() == Some(&'\n') => {}
            ('\n', Some(indent)) => {
                safe.push('\n');
                safe.extend(std::iter::repeat_n(' ', indent));
                column = 0;
            }
            ('\t', _) => {
                let stop = TAB - column % TAB;
                safe.extend(std::iter::repeat_n(' ', stop));
                column += stop;
            }
            _ if is_treacherous(c) => {
                let shown = escaped(c);
                column += shown.len();
                safe.push_str(&shown);
            }
            _ => {
                column += c.width().unwrap_or(0);
                safe.push(c);
            }
        }
    }
    safe
}

fn escaped(c: char) -> String {
    match c {
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        c if u32::from(c) < 0x100 => format!("\\x{:02x}", u32::from(c)),
        c => format!("\\u{{{:x}}}", u32::from(c)),
    }
}

/// JSON text that means the same, with every treacherous character as `\uXXXX`.
///
/// JSON's own escaping leaves DEL, C1 and the direction overrides as they are, and terminals obey them.
#[must_use]
pub(crate) fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut units = [0; 2];
    for c in text.chars() {
        if is_treacherous(c) {
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Whether a terminal would obey the character, or hide it or others, instead of showing it.
///
/// The joiners U+200C and U+200D stay: Persian, Indic scripts and emoji are spelled with them.
fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0x061c | 0x200e | 0x200f | 0x202a..=0x202e | 0x2066..=0x206f // direction and deprecated format controls
            | 0x2028 | 0x2029                                            // line and paragraph separators
            | 0x00ad | 0x180e | 0x200b | 0x2060..=0x2065 | 0xfeff        // invisible, of no width
            | 0x115f | 0x1160 | 0x3164 | 0xffa0                          // Hangul fillers: letters that show nothing
            | 0xfff9..=0xfffb | 0xe0000..=0xe007f) // annotations and tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_of_tricks_shows_byte_for_byte_as_it_should() {
        let corpus: &[(&str, &str)] = &[
            ("plain, Grüße, 日本語, 👩‍👩‍👧, می‌خواهم", "plain, Grüße, 日本語, 👩‍👩‍👧, می‌خواهم"),
            ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
            ("\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\", "\\x1b]8;;http://evil\\x1b\\here\\x1b]8;;\\x1b\\"),
            ("\u{9b}31mred\u{9c}\u{90}q", "\\x9b31mred\\x9c\\x90q"),
            ("a\x7fb\x08c\0d", "a\\x7fb\\x08c\\x00d"),
            ("over\rwritten", "over\\rwritten"),
            ("abc\u{202e}gpj.exe\u{202c}", "abc\\u{202e}gpj.exe\\u{202c}"),
            ("\u{2066}a\u{2069}\u{200e}\u{200f}\u{61c}", "\\u{2066}a\\u{2069}\\u{200e}\\u{200f}\\u{61c}"),
            ("bo\u{200b}b\u{feff}\u{2060}\u{ad}", "bo\\u{200b}b\\u{feff}\\u{2060}\\xad"),
            ("\u{e0041}\u{3164}", "\\u{e0041}\\u{3164}"),
            ("a\tb", "a       b"),
            ("back\\slash \\x1b", "back\\slash \\x1b"),
        ];
        for (text, shown) in corpus {
            assert_eq!(line(text), *shown);
            assert_eq!(block(text, 2), *shown);
        }
    }

    #[test]
    fn a_new_line_of_a_message_cannot_pass_for_a_line_of_ours() {
        assert_eq!(block("one\n12:00 bob: two\r\nthree", 6), "one\n      12:00 bob: two\n      three");
        assert_eq!(line("one\ntwo\u{2028}"), "one\\ntwo\\u{2028}");
    }

    #[test]
    fn a_command_to_type_holds_a_name_as_one_argument() {
        assert_eq!(argument("bob"), "bob");
        assert_eq!(argument("the team"), "'the team'");
        assert_eq!(argument("x; rm -rf ~"), "'x; rm -rf ~'");
        assert_eq!(argument("it's $(id)"), "'it'\\''s $(id)'");
        assert_eq!((argument("--yes").as_str(), argument("").as_str()), ("'--yes'", "''"));
    }

    #[test]
    fn tabs_align_within_each_line() {
        assert_eq!(block("ab\tc\n日本\td", 0), "ab      c\n日本    d");
    }

    #[test]
    fn json_holds_no_character_that_a_terminal_obeys_and_means_the_same() {
        let text = "\x1b[2J\u{9b}m\x7f\u{202e}\u{200b}\u{e0041}\ttext";
        let safe = json(&serde_json::to_string(text).unwrap());
        assert_eq!(safe, "\"\\u001b[2J\\u009bm\\u007f\\u202e\\u200b\\udb40\\udc41\\ttext\"");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
    }
}
