//! What is printed, where, and in which form: lines for people, or one JSON object per line.
//!
//! **Invariant**: with `--json` stdout holds JSON lines alone; colours appear on terminals alone, not under
//! NO_COLOR.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::safe_text;

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const RED: Style = AnsiColor::Red.on_default();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();

/// Where a command's results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// `--json`.
    pub(crate) json: bool,
    /// `--quiet`: no confirmations, no notes.
    pub(crate) quiet: bool,
}

impl Output {
    /// A result as one JSON line.
    pub(crate) fn json(self, value: &Value) -> Result<(), Failure> {
        let mut text = safe_text::json(&value.to_string());
        text.push('\n');
        self.raw(text.as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Something that was asked for: one line, or several that end with a newline each.
    pub(crate) fn text(self, text: impl Display) -> Result<(), Failure> {
        let mut text = text.to_string();
        if text.is_empty() {
            return Ok(());
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let mut stdout = anstream::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// That something was done: not with `--quiet`.
    pub(crate) fn done(self, text: impl Display) -> Result<(), Failure> {
        if self.quiet { Ok(()) } else { self.text(text) }
    }

    /// A word on the side, on stderr: not with `--quiet`.
    pub(crate) fn note(self, text: impl Display) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// A word on stderr that must not be missed.
    pub(crate) fn warn(self, text: impl Display) {
        // A note that cannot be written is not worth stopping for.
        let _ = writeln!(anstream::stderr(), "{text}");
    }
}

/// Whether somebody sits at both ends and can be asked.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Whether colours reach stdout.
pub(crate) fn has_colour() -> bool {
    anstream::stdout().current_choice() != anstream::ColorChoice::Never
}

/// Columns of the terminal; plenty when there is none, so that nothing is cut off for a script.
pub(crate) fn width() -> usize {
    if !io::stdout().is_terminal() {
        return usize::MAX;
    }
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}

/// Asks a yes/no question on the terminal; anything but yes is no.
pub(crate) fn confirm(question: &str) -> Result<bool, Failure> {
    Ok(matches!(ask(&format!("{question} [yes/no]"))?.as_str(), "y" | "yes"))
}

/// Asks before something is ended, where somebody sits there; `yes` says that the command line has consented. A script
/// that calls such a command means it.
pub(crate) fn consent(yes: bool, question: &str) -> Result<(), Failure> {
    if yes || !is_interactive() || confirm(question)? {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, "interrupted", "nothing was changed"))
}

/// Asks before something that others suffer and nobody can undo: a script, too, has to say `--yes`.
pub(crate) fn insist(yes: bool, question: &str) -> Result<(), Failure> {
    if !yes && !is_interactive() {
        return Err(Failure::usage("this has to be confirmed, and there is no terminal to ask on")
            .next("add `--yes` if you are sure"));
    }
    consent(yes, question)
}

/// `1 member`, `2 members`.
pub(crate) fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Asks for a word on the terminal; capitals do not count.
pub(crate) fn ask(question: &str) -> Result<String, Failure> {
    Ok(ask_verbatim(question)?.to_lowercase())
}

/// Asks for a line on the terminal.
pub(crate) fn ask_verbatim(question: &str) -> Result<String, Failure> {
    let mut stderr = anstream::stderr();
    write!(stderr, "{question} ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| Failure::usage(format!("cannot read the answer: {error}")))?;
    Ok(answer.trim().to_owned())
}
