//! `key`: safety numbers shown, compared and trusted.
//!
//! **Invariant**: a key counts as verified only when a person said that the numbers are the same, or gave the number.

use std::io::{self, IsTerminal};

use anstyle::AnsiColor;
use clap::{Args, Subcommand};
use fastchat_ipc::{Keys, ShowKey, TrustKey, VerifyKey, method};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::failure::{Exit, Failure};
use crate::output::{BOLD, DIM, GREEN, RED, YELLOW, confirm, has_colour, is_interactive};
use crate::safe_text;

/// Groups of a safety number on one line.
const GROUPS: usize = 4;

/// Keys: shown, compared and trusted.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Show the own key, or the safety number with a contact
    Show(Show),
    /// Mark a contact's key as verified
    Verify(Verify),
    /// Trust a contact's changed key; what was held goes out
    Trust(Trust),
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
  fastchatctl key verify bob --number '12345 67890 …'   compares it with the number that bob's side shows")]
pub(crate) struct Verify {
    /// The contact
    contact: String,
    /// The number that the other side shows, with or without spaces
    #[arg(long, value_name = "N")]
    number: Option<String>,
    /// Do not ask: the numbers were compared and are the same
    #[arg(long, short, conflicts_with = "number")]
    yes: bool,
}

/// Trust a contact's changed key; what was held goes out.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  fastchatctl key show bob     compare the new number with bob
  fastchatctl key trust bob")]
pub(crate) struct Trust {
    /// The contact
    contact: String,
}

impl Key {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Show(command) => command.run(context).await,
            Self::Verify(command) => command.run(context).await,
            Self::Trust(command) => command.run(context).await,
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
            context.out.text(qr(&answer.value.qr)?)?;
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

/// A QR code of half blocks: black on white where colours may be used, else for light text on a dark ground.
fn qr(content: &str) -> Result<String, Failure> {
    let code = QrCode::new(content).map_err(|error| {
        Failure::new(Exit::Internal, "internal", format!("no QR code can be made of the key: {error}"))
    })?;
    let mut render = code.render::<Dense1x2>();
    if !has_colour() {
        return Ok(render.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build());
    }
    let paper = AnsiColor::Black.on(AnsiColor::BrightWhite);
    Ok(render.build().lines().map(|line| format!("{paper}{line}{paper:#}\n")).collect())
}

impl Verify {
    async fn run(self, context: &Context) -> Outcome {
        let number = self.number.map(|number| check_number(&number)).transpose()?;
        let mut client = context.connect().await?;
        if number.is_none() && !self.yes {
            if !is_interactive() {
                return Err(Failure::usage(
                    "whether the safety numbers are the same has to be said, and no terminal is there",
                )
                .next("give the other side's number with `--number N`, or `--yes` if they were compared"));
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

impl Trust {
    async fn run(self, context: &Context) -> Outcome {
        let request = TrustKey { account: context.account.clone(), contact: self.contact, ..TrustKey::default() };
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
    fn a_number_is_taken_with_and_without_spaces_but_only_whole() {
        let whole = ["12345"; 12].join(" ");
        assert_eq!(check_number(&"12345".repeat(12)).ok(), Some(whole.clone()));
        assert_eq!(check_number(&whole.replace(' ', "\n")).ok(), Some(whole));
        assert!(check_number("12345").is_err() && check_number(&"x2345".repeat(12)).is_err());
    }
}
