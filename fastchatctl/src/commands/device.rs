//! `device`: the machines that an account is on.
//!
//! **Invariant**: a device comes to the account only when the person here said that both sides show the same number.

use std::time::Duration;

use anstyle::Style;
use clap::{Args, Subcommand};
use fastchat_ipc::{Device as Shown, DeviceName, LinkCode, LinkConsent, OfAccount, OfDevice, method};

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::failure::{Exit, Failure};
use crate::local_time::Clock;
use crate::output::{BOLD, DIM, GREEN, YELLOW, ask_verbatim, confirm, consent};
use crate::safe_text;
use crate::sas;
use crate::table::Table;

/// How long the new device has to answer, and the server to take it in.
const LINK: Duration = Duration::from_secs(300);

/// Devices: the machines that the account is on.
#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// List the account's devices
    #[command(
        after_long_help = "Examples:\n  fastchatctl device list\n  fastchatctl device list --json | jq -r '.devices[].id'"
    )]
    List,
    Link(Link),
    Rename(Rename),
    Revoke(Revoke),
}

/// Let a new device in, by the code that it shows.
///
/// The new device shows the code with `fastchatctl link HOST`. Both then show the same number, unless somebody is
/// between them: compare, and say so on both.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl device link                      asks for the code
  fastchatctl device link \"$(wl-paste)\"")]
pub(crate) struct Link {
    /// The code; nothing to be asked for it
    code: Option<String>,
}

/// Set what a device is called.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  fastchatctl device rename laptop 'old laptop'")]
pub(crate) struct Rename {
    /// The device's name, or its id where several have that name
    device: String,
    /// What to call it, up to 64 bytes
    name: String,
}

/// Take a device from the account, wherever it is.
///
/// Its session ends, it is removed from every conversation, and it opens nothing that comes later. What it holds already
/// stays on it. Whoever stole it may know the account's identity key: `fastchatctl key rotate` makes a new one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl device revoke phone
  fastchatctl device revoke 0199f0a2-6d1b-7c3e-9a55-0d8a3f1c2b4e --yes")]
pub(crate) struct Revoke {
    /// The device's name, or its id where several have that name
    device: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Device {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List => list(context).await,
            Self::Link(command) => command.run(context).await,
            Self::Rename(command) => command.run(context).await,
            Self::Revoke(command) => command.run(context).await,
        }
    }
}

async fn list(context: &Context) -> Outcome {
    let answer = context.call::<method::ListDevices>(&OfAccount { account: context.account.clone() }).await?;
    if context.out.json {
        context.out.json(&answer.raw)?;
        return Ok(Exit::Ok);
    }
    context.out.text(table(&answer.value.devices, &Clock::system()).show(usize::MAX))?;
    Ok(Exit::Ok)
}

fn table(devices: &[Shown], clock: &Clock) -> Table {
    let mut table = Table::default();
    for device in devices {
        let (state, style) = match device {
            device if device.current => ("this device".to_owned(), GREEN),
            device if device.connected => ("connected".to_owned(), GREEN),
            device if device.seen_at_ms == 0 => ("never seen".to_owned(), YELLOW),
            device => (format!("last seen {}", clock.stamp(device.seen_at_ms)), DIM),
        };
        // The id is needed only where the name names no device alone.
        let is_alone = devices.iter().filter(|other| other.name == device.name).count() == 1;
        let id = if is_alone { String::new() } else { safe_text::line(&device.id) };
        table.line([
            (safe_text::line(&device.name), BOLD),
            (state, style),
            (format!("added {}", clock.stamp(device.added_at_ms)), DIM),
            (id, Style::new()),
        ]);
    }
    table
}

impl Link {
    async fn run(self, context: &Context) -> Outcome {
        let code = self.code()?;
        let mut client = context.connect().await?;
        client.set_deadline(context.timeout.unwrap_or(LINK));
        context.out.note(format!("{DIM}waiting for the new device{DIM:#}"));
        let request = LinkCode { account: context.account.clone(), code };
        let offer = call::<method::LinkDevice>(&mut client, &request).await?.value;
        let device = match safe_text::line(&offer.device_name) {
            name if name.is_empty() => "The new device".to_owned(),
            name => format!("The new device calls itself {BOLD}{name}{BOLD:#}; it"),
        };
        context.out.warn(format!("{device} has to show this number:\n\n{}", sas::shown(&offer.sas)));
        let accept = confirm("Does it show the same?")?;
        let answer = LinkConsent { account: context.account.clone(), link: offer.link, accept };
        let answer = call::<method::ConfirmDeviceLink>(&mut client, &answer).await;
        if !accept {
            return Err(sas::differs());
        }
        let answer = answer?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            context.out.done(format!("{BOLD}{}{BOLD:#} is on the account now", safe_text::line(&answer.value.name)))?;
        }
        Ok(Exit::Ok)
    }

    /// The code, as it was pasted.
    fn code(&self) -> Result<String, Failure> {
        sas::check_terminal("`device.link` and `device.link_confirm`")?;
        let code = match &self.code {
            Some(code) => code.clone(),
            None => ask_verbatim("The code that the new device shows:")?,
        };
        let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
        if code.is_empty() {
            return Err(Failure::usage("there is no code").next("`fastchatctl link HOST` on the new device shows it"));
        }
        Ok(code)
    }
}

impl Rename {
    async fn run(self, context: &Context) -> Outcome {
        let old = safe_text::line(&self.device);
        let request = DeviceName { account: context.account.clone(), device: self.device, name: self.name };
        let answer = context.call::<method::RenameDevice>(&request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            let new = safe_text::line(&answer.value.name);
            context.out.done(format!("{old} is called {BOLD}{new}{BOLD:#} now"))?;
        }
        Ok(Exit::Ok)
    }
}

impl Revoke {
    async fn run(self, context: &Context) -> Outcome {
        let device = safe_text::line(&self.device);
        let question = format!("Take {BOLD}{device}{BOLD:#} from the account? It has to be linked or logged in anew.");
        consent(self.yes, &question)?;
        let request = OfDevice { account: context.account.clone(), device: self.device };
        let answer = context.call::<method::RevokeDevice>(&request).await?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            context.out.done(format!("{device} is taken from the account"))?;
        }
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str, name: &str, current: bool) -> Shown {
        let (id, name) = (id.to_owned(), name.to_owned());
        Shown { id, name, added_at_ms: 1, seen_at_ms: 0, connected: false, current }
    }

    #[test]
    fn ids_show_only_where_a_name_is_not_enough() {
        let mut devices = vec![device("d1", "laptop", true), device("d2", "phone", false)];
        let shown = |devices: &[Shown]| table(devices, &Clock::system()).show(200);
        assert!(shown(&devices).contains("this device") && !shown(&devices).contains("d1"), "{}", shown(&devices));
        devices.push(device("d3", "phone", false));
        assert!(shown(&devices).contains("d2") && shown(&devices).contains("d3") && !shown(&devices).contains("d1"));
    }
}
