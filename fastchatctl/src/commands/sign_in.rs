//! `register` and `login`: an account comes to this device.
//!
//! **Invariant**: a server's unknown key is trusted only when a person said yes to its fingerprint, or the command line
//! says so; a changed one never.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use fastchat_ipc::{
    Account, Address, ApiError, Client, ClientError, Empty, ErrorCode, KeyStore, Link, Method, Pin, ServerAddress,
    SignIn, method,
};
use serde_json::Value;
use zeroize::Zeroize;

use crate::commands::Outcome;
use crate::daemon::{Answer, Context, call};
use crate::failure::{Exit, Failure};
use crate::output::{BOLD, RED, YELLOW, confirm, is_interactive};
use crate::password::Source;
use crate::safe_text;

/// How long signing in may take: keys are made, and the server counts its rounds.
const SIGN_IN: Duration = Duration::from_secs(120);
/// How often a call is repeated after a question was answered: one for the server's key, one for the key store, one to
/// spare.
const QUESTIONS: usize = 3;

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

/// Bring an account that exists to this device
///
/// This device takes the place of the account's former one.
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
    /// Trust exactly this server key
    #[arg(long, value_name = "sha256:HEX")]
    pin: Option<Pin>,
    /// Trust the server's key on first contact without asking
    #[arg(long, conflicts_with = "pin")]
    accept_new: bool,
    /// The invitation, where the server asks for one
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    invite: String,
    /// What protects the keys on this device; `file` consents to a key file that only you can read
    #[arg(long, value_enum, default_value_t = Protection::Auto)]
    key_store: Protection,
    /// Read the key store's passphrase from the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Read the password from the first line of stdin
    #[arg(long, conflicts_with = "password_file")]
    password_stdin: bool,
    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// What to call this device (default: the host name)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    device_name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protection {
    /// The Secret Service when it is there and unlocked; otherwise you are asked
    Auto,
    /// The desktop's Secret Service
    SecretService,
    /// A passphrase, asked for once after each start of the daemon
    Passphrase,
    /// A file; whoever reads the disk reads the messages
    File,
}

impl From<Protection> for KeyStore {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::Auto => Self::Auto,
            Protection::SecretService => Self::SecretService,
            Protection::Passphrase => Self::Passphrase,
            Protection::File => Self::File,
        }
    }
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
        request.passphrase = options.passphrase(context)?;
    }
    client.set_deadline(context.timeout.unwrap_or(SIGN_IN));
    let answer = ask_as_needed::<M>(&mut client, &mut request, &options, context).await;
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

/// The key that another account here, or this one, trusts that server by: a changed one is then told as changed, and
/// `--accept-new` does not cover it.
fn known_pin(accounts: &[Account], address: &str) -> Option<Pin> {
    let server = |address: &str| address.split_once('@').map(|(_, server)| server.to_owned());
    let known = accounts.iter().filter(|account| server(&account.account) == server(address));
    known.filter_map(|account| account.pin.parse().ok()).next()
}

/// Calls `M`; puts the daemon's questions to the person at the terminal, and calls again with the answers.
async fn ask_as_needed<M>(
    client: &mut Client,
    request: &mut SignIn,
    options: &Options,
    context: &Context,
) -> Result<Answer<Account>, Failure>
where
    M: Method<Params = SignIn, Result = Account>,
{
    for _ in 0..QUESTIONS {
        let params = serde_json::to_value(&*request).map_err(|error| Failure::usage(error.to_string()))?;
        match client.call_raw(M::NAME, params).await {
            Err(ClientError::Api(error)) => match error.code {
                ErrorCode::UntrustedServer => request.pin = trusted_pin(error, &request.address, context)?,
                ErrorCode::ServerChanged => return Err(server_changed(error, context)),
                _ if is_key_store_question(&error, request) => choose_key_store(error, request, options, context)?,
                _ => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
            Ok(raw) => {
                let value = serde_json::from_value(raw.clone())
                    .map_err(|error| Failure::new(Exit::Internal, "protocol", format!("{}: {error}", M::NAME)))?;
                return Ok(Answer { raw, value });
            }
        }
    }
    Err(Failure::new(Exit::Untrusted, "untrusted_server", "the server shows another key at each attempt")
        .next("tell the server's operator; somebody may be in between"))
}

/// Shows an unknown server's fingerprint as ssh does; the pin to trust if the person says yes.
fn trusted_pin(error: ApiError, address: &str, context: &Context) -> Result<String, Failure> {
    let pin = error.data.get("pin").and_then(Value::as_str).and_then(|pin| pin.parse::<Pin>().ok());
    let Some(pin) = pin.filter(|_| is_interactive()) else {
        let is_said = error.hint.as_ref().is_some_and(|hint| hint.contains("--accept-new"));
        let failure = Failure::from(error);
        return Err(if is_said { failure } else { failure.next("`--accept-new` trusts an unknown server unseen") });
    };
    let server = address.split_once('@').map_or(address, |(_, server)| server);
    context.out.warn(format!(
        "The server {BOLD}{}{BOLD:#} is not known here yet, and no public authority vouches for it.\n\
         Its key's fingerprint is\n  {BOLD}{pin}{BOLD:#}\nIts operator can tell whether that is right.",
        safe_text::line(server)
    ));
    if confirm("Trust it from now on?")? {
        return Ok(pin.to_string());
    }
    Err(Failure::new(Exit::Untrusted, "untrusted_server", "the server is not trusted; nothing was sent to it")
        .next("ask its operator for its link, and give it with `--server LINK`"))
}

/// A changed key is never asked about: the operator has to confirm it on another way.
fn server_changed(error: ApiError, context: &Context) -> Failure {
    if !context.out.json {
        let alarm = RED.bold();
        context
            .out
            .warn(format!("{alarm}WARNING: THE SERVER'S KEY HAS CHANGED. Somebody may be listening in.{alarm:#}"));
    }
    error.into()
}

/// Whether the daemon wants to be told what shall protect the store.
fn is_key_store_question(error: &ApiError, request: &SignIn) -> bool {
    request.key_store == KeyStore::Auto && error.hint.as_ref().is_some_and(|hint| hint.contains("--key-store"))
}

fn choose_key_store(
    error: ApiError,
    request: &mut SignIn,
    options: &Options,
    context: &Context,
) -> Result<(), Failure> {
    if !is_interactive() {
        return Err(error.into());
    }
    context.out.warn(format!(
        "{}.\nWhat shall protect the keys on this device?\n\
         \x20 passphrase  you are asked for it once after each start of the daemon\n\
         \x20 file        a file that only you can read; whoever reads the disk reads the messages",
        safe_text::block(error.message.trim_end_matches('.'), 2)
    ));
    let answer = crate::output::ask("passphrase or file?")?;
    match answer.as_str() {
        "passphrase" | "p" => {
            request.key_store = KeyStore::Passphrase;
            request.passphrase = options.passphrase(context)?;
            Ok(())
        }
        "file" | "f" => {
            request.key_store = KeyStore::File;
            Ok(())
        }
        _ => Err(error.into()),
    }
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
        if self.pin.is_some() && link_pin.is_some() && self.pin != link_pin {
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
        Ok((parsed.to_string(), self.pin.or(link_pin)))
    }

    /// The request, as far as no secret is needed.
    fn request(&self, address: String, pin: Option<Pin>, new_identity: bool) -> SignIn {
        SignIn {
            address,
            accept_new: self.accept_new,
            pin: pin.map(|pin| pin.to_string()).unwrap_or_default(),
            invite: self.invite.clone(),
            key_store: self.key_store.into(),
            device_name: self.device_name.clone(),
            new_identity,
            ..SignIn::default()
        }
    }

    fn password(&self, is_new: bool, address: &str, context: &Context) -> Result<String, Failure> {
        let source = Source { what: "password", stdin: self.password_stdin, file: self.password_file.clone() };
        Ok(source.obtain(&format!("Password of {address}: "), is_new, context.out)?.to_string())
    }

    fn passphrase(&self, context: &Context) -> Result<String, Failure> {
        let source = Source { what: "passphrase", stdin: false, file: self.passphrase_file.clone() };
        Ok(source.obtain("Passphrase for the keys on this device: ", true, context.out)?.to_string())
    }
}

fn wrong_server(text: &str, error: &fastchat_ipc::AddressError) -> Failure {
    Failure::usage(format!("`{text}` is not a server's link or address: {error}"))
        .next("copy the link that the server prints: fastchat://HOST:PORT?pin=sha256:…")
}
