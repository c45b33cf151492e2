//! `register` and `login`: an account comes to this device.
//!
//! **Invariant**: nothing is sent before the account's address and the way to its server are known to be well-formed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fastchat_ipc::{
    Account, Address, ApiError, Empty, ErrorCode, KeyStore, Link, Method, Pin, ServerAddress, SignIn, method,
};
use zeroize::Zeroize;

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::enrol::{Enrol, known_pin, wrong_server};
use crate::failure::{Exit, Failure};
use crate::output::{BOLD, YELLOW, confirm, is_interactive};
use crate::password::Source;
use crate::safe_text;

/// How long signing in may take: keys are made, and the server counts its rounds.
const SIGN_IN: Duration = Duration::from_secs(120);
/// Make an account on a server, and the device for it here
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl register alice@chat.example.org
  fastchatctl register alice --server 'fastchat://chat.example.org:8887?pin=sha256:…'
  fastchatctl register bot@localhost --accept-new --key-store file --password-file ~/.bot-password")]
pub(crate) struct Register {
    #[command(flatten)]
    options: Options,
}

/// Bring an account that exists to this device, with its password
///
/// The account's other devices stay; they are told of the new one. `fastchatctl link` does it without the password.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl login alice@chat.example.org
  fastchatctl login alice@chat.example.org --pin sha256:…   after the operator has confirmed a new server key")]
pub(crate) struct Login {
    #[command(flatten)]
    options: Options,
    /// Give the account a new identity; every contact is warned, and has to trust it
    #[arg(long)]
    new_identity: bool,
    /// Do not ask about the new identity
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Options {
    /// The account, e.g. alice@chat.example.org
    #[arg(value_name = "USER@HOST[:PORT]")]
    address: String,
    /// The server, as its link `fastchat://HOST:PORT?pin=…` or as HOST or HOST:PORT; the account is then the name alone
    #[arg(long, value_name = "LINK")]
    server: Option<String>,
    /// The invitation, where the server asks for one
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    invite: String,
    /// Read the password from the first line of stdin
    #[arg(long, conflicts_with = "password_file")]
    password_stdin: bool,
    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    enrol: Enrol,
}

impl Register {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        sign_in::<method::Register>(self.options, false, "registered", context).await
    }
}

impl Login {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        if self.new_identity && !self.yes {
            confirm_new_identity(context)?;
        }
        sign_in::<method::Login>(self.options, self.new_identity, "logged in as", context).await
    }
}

fn confirm_new_identity(context: &Context) -> Result<(), Failure> {
    if !is_interactive() {
        return Err(Failure::usage("a new identity has to be confirmed, and there is no terminal to ask on")
            .next("add `--yes` if you are sure"));
    }
    context.out.warn(format!(
        "{YELLOW}A new identity replaces the account's key.{YELLOW:#} Every contact is warned and has to trust \
         the new key\nbefore messages flow again; the old one cannot be brought back. It is for when the backup of the \
         identity cannot be opened."
    ));
    if confirm("Give the account a new identity?")? {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, "interrupted", "nothing was changed"))
}

async fn sign_in<M>(options: Options, new_identity: bool, done: &str, context: &Context) -> Outcome
where
    M: Method<Params = SignIn, Result = Account>,
{
    let (address, pin) = options.target()?;
    let mut client = context.connect().await?;
    let status = call::<method::DaemonStatus>(&mut client, &Empty {}).await?.value;
    if status.locked {
        return Err(ApiError::new(ErrorCode::Locked, "the store is locked").into());
    }
    let pin = pin.or_else(|| known_pin(&status.accounts, &address));
    let has_store = status.key_store != KeyStore::Auto;
    let mut request = options.request(address, pin, new_identity);
    request.password = options.password(M::NAME == method::Register::NAME, &request.address, context)?;
    if request.key_store == KeyStore::Passphrase && !has_store {
        request.passphrase = options.enrol.passphrase(context)?;
    }
    client.set_deadline(context.timeout.unwrap_or(SIGN_IN));
    let answer = options.enrol.ask_as_needed::<M>(&mut client, &mut request, context).await;
    request.password.zeroize();
    request.passphrase.zeroize();
    let answer = answer?;
    if context.out.json {
        context.out.json(&answer.raw)?;
    } else {
        let account = answer.value;
        let (name, device) = (safe_text::line(&account.account), safe_text::line(&account.device_name));
        context.out.done(format!("{done} {BOLD}{name}{BOLD:#} on this device ({device})"))?;
    }
    Ok(Exit::Ok)
}

impl Options {
    /// The whole address, and the pin that the link or `--pin` gives.
    fn target(&self) -> Result<(String, Option<Pin>), Failure> {
        let wrong = |error: fastchat_ipc::AddressError, text: &str| {
            Failure::usage(format!("`{text}` is not an account's address: {error}"))
                .next("for example `alice@chat.example.org`")
        };
        let (server, link_pin) = match &self.server {
            None => (None, None),
            Some(text) if text.contains("://") => {
                let link: Link = text.parse().map_err(|error| wrong_server(text, &error))?;
                (Some(link.server), link.pin)
            }
            Some(text) => (Some(text.parse::<ServerAddress>().map_err(|error| wrong_server(text, &error))?), None),
        };
        if self.enrol.pin.is_some() && link_pin.is_some() && self.enrol.pin != link_pin {
            return Err(Failure::usage("the server's link and `--pin` name different keys").next("use one of them"));
        }
        let address = match (&server, self.address.contains('@')) {
            (Some(server), false) => format!("{}@{server}", self.address),
            (_, _) => self.address.clone(),
        };
        let parsed: Address = address.parse().map_err(|error| wrong(error, &self.address))?;
        if server.is_some_and(|server| server != parsed.server) {
            return Err(Failure::usage(format!("`{}` and `--server` name different servers", self.address))
                .next("give the account's name alone"));
        }
        Ok((parsed.to_string(), self.enrol.pin.or(link_pin)))
    }

    /// The request, as far as no secret is needed.
    fn request(&self, address: String, pin: Option<Pin>, new_identity: bool) -> SignIn {
        SignIn {
            address,
            accept_new: self.enrol.accept_new,
            pin: pin.map(|pin| pin.to_string()).unwrap_or_default(),
            invite: self.invite.clone(),
            key_store: self.enrol.key_store.into(),
            device_name: self.enrol.device_name.clone(),
            new_identity,
            ..SignIn::default()
        }
    }

    fn password(&self, is_new: bool, address: &str, context: &Context) -> Result<String, Failure> {
        let (stdin, file) = (self.password_stdin, self.password_file.clone());
        let source = Source { what: "password", stdin, file, ways: "`--password-stdin` or `--password-file FILE`" };
        Ok(source.obtain(&format!("Password of {address}: "), is_new, context.out)?.to_string())
    }
}
