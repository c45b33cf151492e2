//! `key`: safety numbers shown, compared and trusted.
//!
//! **Invariant**: a key counts as verified only when a person said that the numbers are the same, or gave the number.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use fastchat_ipc::{Keys, Rotation, ShowKey, TrustKey, VerifyKey, method};
use zeroize::Zeroize;

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::failure::{Exit, Failure};
use crate::output::{BOLD, DIM, GREEN, RED, YELLOW, confirm, insist, is_interactive};
use crate::password::Source;
use crate::{qr, safe_text};

/// Groups of a safety number on one line.
const GROUPS: usize = 4;
/// How long a new identity may take: keys are made, and all groups are told.
const ROTATE: Duration = Duration::from_secs(120);

/// Keys: shown, compared and trusted.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    Show(Show),
    Verify(Verify),
    Trust(Trust),
    Rotate(Rotate),
}

/// Show the own key's fingerprint, or the safety number with a contact.
///
/// The number is the same on both sides. The QR code holds what the other side needs to compare; it is shown on a
/// terminal.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl key show
  fastchatctl key show bob
  fastchatctl key show bob --json | jq -r .safety_number")]
pub(crate) struct Show {
    /// The contact; nothing for the own key
    #[arg(default_value = "", hide_default_value = true)]
    contact: String,
    /// Show the QR code even when the output is no terminal
    #[arg(long, conflicts_with = "no_qr")]
    qr: bool,
    /// Show no QR code
    #[arg(long)]
    no_qr: bool,
}

/// Mark a contact's key as verified after the safety numbers were compared.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl key verify bob
  fastchatctl key verify bob --number '12345 67890 …'      the number that bob's side shows
  fastchatctl key verify bob --qr \"$(zbarcam -1 --raw)\"    what a scanner reads from bob's screen")]
pub(crate) struct Verify {
    /// The contact
    contact: String,
    /// The number that the other side shows, with or without spaces
    #[arg(long, value_name = "N")]
    number: Option<String>,
    /// What the QR code holds that the other side shows
    #[arg(long, value_name = "TEXT", conflicts_with = "number")]
    qr: Option<String>,
    /// Do not ask: the numbers were compared and are the same
    #[arg(long, short, conflicts_with_all = ["number", "qr"])]
    yes: bool,
}

/// Trust a contact's changed key; what was held goes out.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  fastchatctl key show bob     compare the new number with bob
  fastchatctl key trust bob
  fastchatctl key trust bob --number '12345 67890 …'   trusts that key and no other")]
pub(crate) struct Trust {
    /// The contact
    contact: String,
    /// The number that the other side shows for its new key, with or without spaces
    #[arg(long, value_name = "N")]
    number: Option<String>,
}

/// Give the account a new identity, after the old key was stolen.
///
/// All devices, contacts and groups get the new key; each contact is warned, and has to compare and trust it. It needs
/// the password: the new key's backup on the server is encrypted under it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
First revoke the device that was stolen (`fastchatctl device revoke`), and change the password if it may be known.

Examples:
  fastchatctl key rotate
  fastchatctl key rotate --yes --password-file password")]
pub(crate) struct Rotate {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Read the password from the first line of stdin
    #[arg(long, conflicts_with = "password_file")]
    password_stdin: bool,
    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Key {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Show(command) => command.run(context).await,
            Self::Verify(command) => command.run(context).await,
            Self::Trust(command) => command.run(context).await,
            Self::Rotate(command) => command.run(context).await,
        }
    }
}

impl Show {
    async fn run(self, context: &Context) -> Outcome {
        let request = ShowKey { account: context.account.clone(), contact: self.contact };
        let answer = context.call::<method::ShowKeys>(&request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
            return Ok(Exit::Ok);
        }
        context.out.text(described(&answer.value))?;
        if self.qr || (!self.no_qr && io::stdout().is_terminal()) {
            context.out.text(qr::shown(&answer.value.qr)?)?;
        }
        Ok(Exit::Ok)
    }
}

/// The key or the safety number, and what to do with it.
fn described(keys: &Keys) -> String {
    if keys.contact.is_empty() {
        return format!("{DIM}Your key's fingerprint{DIM:#}\n{}", grid(&safe_text::line(&keys.own), 4, 8));
    }
    let (name, argument) = (safe_text::line(&keys.contact), safe_text::argument(&keys.contact));
    let (word, style) = match keys {
        keys if !keys.changed_safety_number.is_empty() => ("key changed", RED),
        keys if keys.verified => ("verified", GREEN),
        _ => ("not verified", YELLOW),
    };
    let number = grid(&safe_text::line(&keys.safety_number), 5, GROUPS);
    let mut text = format!("Safety number with {BOLD}{name}{BOLD:#} {style}({word}){style:#}\n{number}");
    if !keys.changed_safety_number.is_empty() {
        text.push_str(&format!("\n{RED}The server names another key for {name} now; its safety number is{RED:#}\n"));
        text.push_str(&grid(&safe_text::line(&keys.changed_safety_number), 5, GROUPS));
        text.push_str(&format!(
            "Ask {name} on another way whether the device is new, and compare this number. Only if it is the same:\n\
             \x20 fastchatctl key trust {argument}\n"
        ));
    } else if !keys.verified {
        let next = format!("compare it with what {name}'s device shows, then: fastchatctl key verify {argument}");
        text.push_str(&format!("{DIM}{next}{DIM:#}\n"));
    }
    text
}

/// Groups of `size` characters, `groups` on a line.
fn grid(text: &str, size: usize, groups: usize) -> String {
    let characters: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let chunks: Vec<String> = characters.chunks(size).map(|chunk| chunk.iter().collect()).collect();
    chunks.chunks(groups).map(|line| format!("  {}\n", line.join(" "))).collect()
}

impl Verify {
    async fn run(self, context: &Context) -> Outcome {
        let number = match (&self.number, &self.qr) {
            (Some(number), _) => Some(check_number(number)?),
            (None, Some(text)) => Some(scanned(text)?),
            (None, None) => None,
        };
        let mut client = context.connect().await?;
        if number.is_none() && !self.yes {
            if !is_interactive() {
                return Err(Failure::usage(
                    "whether the safety numbers are the same has to be said, and no terminal is there",
                )
                .next(
                    "give what the other side shows with `--number N` or `--qr TEXT`, or `--yes` if they were compared",
                ));
            }
            let request = ShowKey { account: context.account.clone(), contact: self.contact.clone() };
            let keys = call::<method::ShowKeys>(&mut client, &request).await?.value;
            context.out.text(grid(&safe_text::line(&keys.safety_number), 5, GROUPS))?;
            if !confirm(&format!("Does {}'s device show the same number?", safe_text::line(&self.contact)))? {
                return Err(Failure::new(Exit::Untrusted, "not_verified", "the key stays unverified")
                    .next("if the numbers differ, somebody may be in between: do not send anything that matters"));
            }
        }
        let request = VerifyKey {
            account: context.account.clone(),
            contact: self.contact,
            safety_number: number.unwrap_or_default(),
        };
        let answer = call::<method::VerifyContactKey>(&mut client, &request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            context.out.done(format!("the key of {} is verified", safe_text::line(&answer.value.contact)))?;
        }
        Ok(Exit::Ok)
    }
}

/// The 60 digits in groups of five.
fn check_number(number: &str) -> Result<String, Failure> {
    let digits: Vec<char> = number.chars().filter(|c| !c.is_whitespace()).collect();
    if digits.len() != 60 || !digits.iter().all(char::is_ascii_digit) {
        return Err(
            Failure::usage("a safety number has 60 digits").next("`fastchatctl key show` on the other side shows it")
        );
    }
    Ok(digits.chunks(5).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" "))
}

/// The number in what a scanner read from the other side's QR code.
fn scanned(text: &str) -> Result<String, Failure> {
    let wrong =
        |why: &str| Failure::usage(why).next("`fastchatctl key show NAME` on the other side shows the right one");
    match text.trim().split_once(':') {
        Some(("fastchat-safety", number)) => check_number(number),
        Some(("fastchat-key", _)) => {
            Err(wrong("that code holds the other side's own key alone, not the safety number"))
        }
        _ => Err(wrong("that is no QR code of a safety number")),
    }
}

impl Trust {
    async fn run(self, context: &Context) -> Outcome {
        let safety_number = self.number.map(|number| check_number(&number)).transpose()?.unwrap_or_default();
        let request = TrustKey { account: context.account.clone(), contact: self.contact, safety_number };
        let answer = context.call::<method::TrustContactKey>(&request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
            return Ok(Exit::Ok);
        }
        let name = safe_text::line(&answer.value.contact);
        context.out.done(format!("the key of {name} is trusted; what was held goes out"))?;
        Ok(Exit::Ok)
    }
}

impl Rotate {
    async fn run(self, context: &Context) -> Outcome {
        let question = format!(
            "{YELLOW}A new identity replaces the account's key.{YELLOW:#} Every contact is warned, and has to compare \
             and trust the new key;\nthe old one cannot be brought back. Give the account a new identity?"
        );
        insist(self.yes, &question)?;
        let mut client = context.connect().await?;
        let (stdin, file) = (self.password_stdin, self.password_file);
        let source = Source { what: "password", stdin, file, ways: "`--password-stdin` or `--password-file FILE`" };
        let password = source.obtain("Password: ", false, context.out)?.to_string();
        let mut request = Rotation { account: context.account.clone(), password };
        client.set_deadline(context.timeout.unwrap_or(ROTATE));
        let answer = call::<method::RotateKey>(&mut client, &request).await;
        request.password.zeroize();
        let answer = answer?;
        if context.out.json {
            context.out.json(&answer.raw)?;
            return Ok(Exit::Ok);
        }
        let key = grid(&safe_text::line(&answer.value.own), 4, 8);
        context.out.done(format!("the account has a new key; its fingerprint is\n{key}"))?;
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(changed: &str) -> Keys {
        Keys {
            own: "ab".repeat(32),
            contact: "bob".into(),
            fingerprint: "cd".repeat(32),
            safety_number: ["12345"; 12].join(" "),
            qr: "fastchat".into(),
            verified: false,
            changed_safety_number: changed.into(),
        }
    }

    #[test]
    fn a_safety_number_shows_as_three_lines_of_four_groups() {
        assert_eq!(grid(&keys("").safety_number, 5, GROUPS), "  12345 12345 12345 12345\n".repeat(3));
    }

    #[test]
    fn a_changed_key_shows_both_numbers_and_how_to_trust_it() {
        let text = described(&keys(&["67890"; 12].join(" ")));
        assert!(text.contains("  12345 12345 12345 12345\n") && text.contains("  67890 67890 67890 67890\n"));
        assert!(text.contains("fastchatctl key trust bob") && !text.contains("key verify"));
    }

    #[test]
    fn only_the_qr_code_of_a_safety_number_counts() {
        let number = "12345".repeat(12);
        assert_eq!(scanned(&format!("fastchat-safety:{number}\n")).ok(), Some(["12345"; 12].join(" ")));
        for wrong in [&format!("fastchat-key:bob@h:1:{number}"), &number, "fastchat-safety:123", ""] {
            assert!(scanned(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_is_taken_with_and_without_spaces_but_only_whole() {
        let whole = ["12345"; 12].join(" ");
        assert_eq!(check_number(&"12345".repeat(12)).ok(), Some(whole.clone()));
        assert_eq!(check_number(&whole.replace(' ', "\n")).ok(), Some(whole));
        assert!(check_number("12345").is_err() && check_number(&"x2345".repeat(12)).is_err());
    }
}
