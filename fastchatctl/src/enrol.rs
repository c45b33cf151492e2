//! An account comes to this device: whom to trust on the way, and what protects its keys here.
//!
//! **Invariant**: a server's unknown key is trusted only when a person said yes to its fingerprint, or the command line
//! says so; a changed one never.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fastchat_ipc::{
    Account, AddressError, ApiError, Client, ClientError, ErrorCode, KeyStore, LinkRequest, Method, Pin, SignIn,
};
use serde_json::Value;

use crate::daemon::{Answer, Context};
use crate::failure::{Exit, Failure};
use crate::output::{BOLD, RED, confirm, is_interactive};
use crate::password::Source;
use crate::safe_text;

/// How often a call is repeated after a question was answered: one for the server's key, one for the key store, one to
/// spare.
const QUESTIONS: usize = 3;

/// What every way of bringing an account here takes.
#[derive(Debug, Args)]
pub(crate) struct Enrol {
    /// Trust exactly this server key
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) pin: Option<Pin>,
    /// Trust the server's key on first contact without asking
    #[arg(long, conflicts_with = "pin")]
    pub(crate) accept_new: bool,
    /// What protects the keys on this device; `file` consents to a key file that only you can read
    #[arg(long, value_enum, default_value_t = Protection::Auto)]
    pub(crate) key_store: Protection,
    /// Read the key store's passphrase from the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// What to call this device (default: the host name)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) device_name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protection {
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

/// Parameters that the answers to the daemon's questions go into.
pub(crate) trait Questioned {
    /// The account or the server that it is about.
    fn address(&self) -> &str;
    /// The server's key to trust; what protects the store; its passphrase.
    fn answers(&mut self) -> (&mut String, &mut KeyStore, &mut String);
}

impl Questioned for SignIn {
    fn address(&self) -> &str {
        &self.address
    }

    fn answers(&mut self) -> (&mut String, &mut KeyStore, &mut String) {
        (&mut self.pin, &mut self.key_store, &mut self.passphrase)
    }
}

impl Questioned for LinkRequest {
    fn address(&self) -> &str {
        &self.address
    }

    fn answers(&mut self) -> (&mut String, &mut KeyStore, &mut String) {
        (&mut self.pin, &mut self.key_store, &mut self.passphrase)
    }
}

/// The key that another account here, or this one, trusts that server by: a changed one is then told as changed, and
/// `--accept-new` does not cover it.
pub(crate) fn known_pin(accounts: &[Account], address: &str) -> Option<Pin> {
    let wanted = server_of(address);
    let known = accounts.iter().filter(|account| server_of(&account.account) == wanted);
    known.filter_map(|account| account.pin.parse().ok()).next()
}

/// `host:port` of an account's or a server's address.
fn server_of(address: &str) -> &str {
    address.split_once('@').map_or(address, |(_, server)| server)
}

/// What the link or address of a server that cannot be read is answered with.
pub(crate) fn wrong_server(text: &str, error: &AddressError) -> Failure {
    Failure::usage(format!("`{text}` is not a server's link or address: {error}"))
        .next("copy the link that the server prints: fastchat://HOST:PORT?pin=sha256:…")
}

impl Enrol {
    /// Calls `M`; puts the daemon's questions to the person at the terminal, and calls again with the answers.
    pub(crate) async fn ask_as_needed<M>(
        &self,
        client: &mut Client,
        request: &mut M::Params,
        context: &Context,
    ) -> Result<Answer<M::Result>, Failure>
    where
        M: Method<Params: Questioned>,
    {
        for _ in 0..QUESTIONS {
            let params = serde_json::to_value(&*request).map_err(|error| Failure::usage(error.to_string()))?;
            match client.call_raw(M::NAME, params).await {
                Err(ClientError::Api(error)) => match error.code {
                    ErrorCode::UntrustedServer => {
                        *request.answers().0 = trusted_pin(error, request.address(), context)?
                    }
                    ErrorCode::ServerChanged => return Err(server_changed(error, context)),
                    _ if is_key_store_question(&error, request) => self.choose_key_store(error, request, context)?,
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

    fn choose_key_store(
        &self,
        error: ApiError,
        request: &mut impl Questioned,
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
        let (_, key_store, passphrase) = request.answers();
        match answer.as_str() {
            "passphrase" | "p" => {
                *key_store = KeyStore::Passphrase;
                *passphrase = self.passphrase(context)?;
                Ok(())
            }
            "file" | "f" => {
                *key_store = KeyStore::File;
                Ok(())
            }
            _ => Err(error.into()),
        }
    }

    /// A new passphrase for the store.
    pub(crate) fn passphrase(&self, context: &Context) -> Result<String, Failure> {
        let file = self.passphrase_file.clone();
        let source = Source { what: "passphrase", stdin: false, file, ways: "`--passphrase-file FILE`" };
        Ok(source.obtain("Passphrase for the keys on this device: ", true, context.out)?.to_string())
    }
}

/// Shows an unknown server's fingerprint as ssh does; the pin to trust if the person says yes.
fn trusted_pin(error: ApiError, address: &str, context: &Context) -> Result<String, Failure> {
    let pin = error.data.get("pin").and_then(Value::as_str).and_then(|pin| pin.parse::<Pin>().ok());
    let Some(pin) = pin.filter(|_| is_interactive()) else {
        let is_said = error.hint.as_ref().is_some_and(|hint| hint.contains("--accept-new"));
        let failure = Failure::from(error);
        return Err(if is_said { failure } else { failure.next("`--accept-new` trusts an unknown server unseen") });
    };
    context.out.warn(format!(
        "The server {BOLD}{}{BOLD:#} is not known here yet, and no public authority vouches for it.\n\
         Its key's fingerprint is\n  {BOLD}{pin}{BOLD:#}\nIts operator can tell whether that is right.",
        safe_text::line(server_of(address))
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
fn is_key_store_question(error: &ApiError, request: &mut impl Questioned) -> bool {
    *request.answers().1 == KeyStore::Auto && error.hint.as_ref().is_some_and(|hint| hint.contains("--key-store"))
}
