//! The short authentication string that two devices show while one lets the other in.
//!
//! **Invariant**: only a person who sees it can say that it is the same; no option says so in advance.

use crate::failure::{Exit, Failure};
use crate::output::{BOLD, is_interactive};
use crate::safe_text;

/// The string, set apart from the lines around it.
pub(crate) fn shown(sas: &str) -> String {
    format!("    {BOLD}{}{BOLD:#}\n", safe_text::line(sas))
}

/// What the link ends with when the strings differ.
pub(crate) fn differs() -> Failure {
    Failure::new(Exit::Untrusted, "not_the_same", "the link has ended, and nothing was given away")
        .next("somebody may be between the devices; begin anew on a network that you trust")
}

/// Refuses where nobody can compare; `methods` are those of the API that a program calls instead.
pub(crate) fn check_terminal(methods: &str) -> Result<(), Failure> {
    if is_interactive() {
        return Ok(());
    }
    Err(Failure::usage("a person has to compare what both devices show, and no terminal is there")
        .next(format!("programs that show it in their own way call {methods}")))
}
