//! `link`: an account comes to this device without its password, let in by a device that has it.
//!
//! **Invariant**: a wait has an end, the link's own; what the daemon was asked is finished or refused, never left open.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use fastchat_ipc::{
    ApiError, Client, ClientError, Empty, ErrorCode, KeyStore, Link as ServerLink, LinkBegun, LinkFinish, LinkRequest,
    LinkSas, Method, OfLink, Pin, ServerAddress, method,
};
use tokio::time::Instant;
use zeroize::Zeroize;

use crate::commands::Outcome;
use crate::daemon::{Context, call};
use crate::enrol::{Enrol, known_pin, wrong_server};
use crate::failure::{Exit, Failure};
use crate::local_time::Clock;
use crate::output::{BOLD, DIM, confirm};
use crate::{qr, safe_text, sas};

/// How long beginning and finishing may take: keys are made, and conversations are joined.
const CALL: Duration = Duration::from_secs(120);
/// How long one wait for the other device takes before it is asked again.
const WAIT: Duration = Duration::from_secs(240);

/// Bring an account that exists to this device, without its password
///
/// Shows a code for a device that has the account; there, `fastchatctl device link` takes it. Then both devices show the
/// same number, unless somebody is between them: compare, and say so on both. A code is good for ten minutes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  fastchatctl link chat.example.org
  fastchatctl link 'fastchat://chat.example.org:8887?pin=sha256:…' --device-name tablet")]
pub(crate) struct Link {
    /// The account's server, as HOST, HOST:PORT or its link `fastchat://HOST:PORT?pin=…`
    #[arg(value_name = "HOST")]
    server: String,
    #[command(flatten)]
    enrol: Enrol,
    /// Show no QR code
    #[arg(long)]
    no_qr: bool,
}

impl Link {
    /// Carries it out.
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let (server, pin) = self.target()?;
        sas::check_terminal("`account.link_begin`, `account.link_wait` and `account.link_finish`")?;
        let mut client = context.connect().await?;
        let begun = self.begin(&mut client, server, pin, context).await?;
        self.show(&begun, context)?;
        let found = wait(&mut client, &begun, context).await?;
        context.out.warn(format!(
            "The other device lets this one into {BOLD}{}{BOLD:#}. It has to show this number:\n\n{}",
            safe_text::line(&found.account),
            sas::shown(&found.sas)
        ));
        let accept = confirm("Does it show the same?")?;
        client.set_deadline(context.timeout.unwrap_or(CALL));
        let answer = call::<method::FinishLink>(&mut client, &LinkFinish { link: begun.link, accept }).await;
        if !accept {
            return Err(sas::differs());
        }
        let answer = answer?;
        if context.out.json {
            context.out.json(&answer.raw)?;
        } else {
            let (name, device) = (safe_text::line(&answer.value.account), safe_text::line(&answer.value.device_name));
            context.out.done(format!("{BOLD}{name}{BOLD:#} is on this device now ({device})"))?;
        }
        Ok(Exit::Ok)
    }

    /// The server, and the pin that its link or `--pin` gives.
    fn target(&self) -> Result<(String, Option<Pin>), Failure> {
        let text = &self.server;
        if text.contains('@') {
            let server = text.split_once('@').map_or("", |(_, server)| server);
            return Err(Failure::usage("which account it is comes from the other device: the server alone is named")
                .next(format!("`fastchatctl link {}`", safe_text::argument(server))));
        }
        let (server, link_pin) = if text.contains("://") {
            let link: ServerLink = text.parse().map_err(|error| wrong_server(text, &error))?;
            (link.server, link.pin)
        } else {
            (text.parse::<ServerAddress>().map_err(|error| wrong_server(text, &error))?, None)
        };
        if self.enrol.pin.is_some() && link_pin.is_some() && self.enrol.pin != link_pin {
            return Err(Failure::usage("the server's link and `--pin` name different keys").next("use one of them"));
        }
        Ok((server.to_string(), self.enrol.pin.or(link_pin)))
    }

    async fn begin(
        &self,
        client: &mut Client,
        server: String,
        pin: Option<Pin>,
        context: &Context,
    ) -> Result<LinkBegun, Failure> {
        let status = call::<method::DaemonStatus>(client, &Empty {}).await?.value;
        if status.locked {
            return Err(ApiError::new(ErrorCode::Locked, "the store is locked").into());
        }
        let pin = pin.or_else(|| known_pin(&status.accounts, &server));
        let mut request = LinkRequest {
            address: server,
            device_name: self.enrol.device_name.clone(),
            pin: pin.map(|pin| pin.to_string()).unwrap_or_default(),
            accept_new: self.enrol.accept_new,
            key_store: self.enrol.key_store.into(),
            passphrase: String::new(),
        };
        if request.key_store == KeyStore::Passphrase && status.key_store == KeyStore::Auto {
            request.passphrase = self.enrol.passphrase(context)?;
        }
        client.set_deadline(context.timeout.unwrap_or(CALL));
        let answer = self.enrol.ask_as_needed::<method::BeginLink>(client, &mut request, context).await;
        request.passphrase.zeroize();
        Ok(answer?.value)
    }

    /// The code, as text and as a picture; on stderr, where `--json` wants the result alone on stdout.
    fn show(&self, begun: &LinkBegun, context: &Context) -> Result<(), Failure> {
        let mut text = String::new();
        if !self.no_qr {
            text.push_str(&qr::shown(&begun.qr)?);
            text.push('\n');
        }
        let until = Clock::system().stamp(begun.expires_at_ms);
        text.push_str(&format!(
            "On a device that has the account, run {BOLD}fastchatctl device link{BOLD:#} and paste this code:\n\n  \
             {BOLD}{}{BOLD:#}\n\n{DIM}waiting for it, until {until}; Ctrl-C stops{DIM:#}\n\n",
            safe_text::line(&begun.code)
        ));
        if context.out.json {
            context.out.warn(text);
            return Ok(());
        }
        context.out.text(text)
    }
}

/// Waits until the other device has taken the code, or the link has ended.
async fn wait(client: &mut Client, begun: &LinkBegun, context: &Context) -> Result<LinkSas, Failure> {
    let end = Instant::now() + left(begun.expires_at_ms).min(context.timeout.unwrap_or(Duration::MAX));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let patience = left.min(WAIT);
        client.set_deadline(patience + Duration::from_secs(5));
        let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).max(1);
        let request = OfLink { link: begun.link.clone(), timeout_ms };
        let params = serde_json::to_value(&request).map_err(|error| Failure::usage(error.to_string()))?;
        match client.call_raw(method::AwaitLink::NAME, params).await {
            Ok(raw) => {
                return serde_json::from_value(raw).map_err(|error| {
                    Failure::new(Exit::Internal, "protocol", format!("{}: {error}", method::AwaitLink::NAME))
                });
            }
            Err(ClientError::Api(error)) if error.code == ErrorCode::TimedOut && left > WAIT => {}
            Err(ClientError::Api(error)) if error.code == ErrorCode::TimedOut => return Err(too_late()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// How long the link still is.
fn left(expires_at_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(expires_at_ms).saturating_sub(now)
}

fn too_late() -> Failure {
    Failure::new(Exit::Network, "timed_out", "no device has taken the code in time")
        .next("begin anew: `fastchatctl link HOST`")
}
