//! The account's device's side of a link.
//!
//! **Invariant**: the grant is asked for, and the identity sealed, only after both people have agreed.

use fastchat_e2ee::{KnownDevice, Ready, Revealed, is_link_done};
use fastchat_ipc::{ApiError, Device, ErrorCode, LinkOffer};
use fastchat_wire::DeviceId;
use tokio::time::Instant;

use super::{ANSWER, LIFE, LinkCode, PATIENCE, failed, give_up, links::Waiting, mailbox::Mailbox, refused};
use crate::{fault, sign_in::Access};

/// A link, as the account's device stands in it: the digits are shown.
pub(crate) struct KnownSide {
    access: Access,
    mailbox: Mailbox,
    step: Revealed,
}

impl Waiting for KnownSide {
    fn link(&self) -> [u8; 16] {
        self.mailbox.link()
    }

    fn ends(&self) -> Instant {
        self.mailbox.ends()
    }
}

impl KnownSide {
    /// Takes a code, and goes on with the new device to what their people compare.
    ///
    /// # Errors
    /// The code is none, or is not of this account's server; the server or the new device does not answer; or the new
    /// device is not the one whose code it is.
    pub(crate) async fn begin(access: Access, code: &str) -> Result<(Self, LinkOffer), ApiError> {
        let code: LinkCode = code.parse()?;
        same_server(&access, &code)?;
        let ends = Instant::now() + LIFE;
        let mut mailbox = Mailbox::known(access.address.server.clone(), access.trust(), code.link, ends);
        let step = match Self::meet(&access, &code, &mut mailbox).await {
            Ok(step) => step,
            Err(error) => {
                give_up(&mut mailbox).await;
                return Err(error);
            }
        };
        mailbox.rest().await;
        let link = data_encoding::HEXLOWER.encode(&code.link);
        let offer = LinkOffer { link, sas: step.sas(), device_name: step.device_name().to_owned() };
        Ok((Self { access, mailbox, step }, offer))
    }

    /// The account, in full.
    pub(crate) fn account(&self) -> String {
        self.access.address.to_string()
    }

    async fn meet(access: &Access, code: &LinkCode, mailbox: &mut Mailbox) -> Result<Revealed, ApiError> {
        let first = mailbox.next(Instant::now() + ANSWER).await?;
        let fingerprint = access.identity.public().fingerprint();
        let known = KnownDevice::begin(code.commitment, &first, access.name(), fingerprint);
        let (known, offer) = known.map_err(|error| failed(&error))?;
        mailbox.post(offer).await?;
        fault::point("link-offered");
        let reveal = mailbox.next(Instant::now() + ANSWER).await.map_err(|error| match error.code {
            ErrorCode::TimedOut => ApiError::new(ErrorCode::TimedOut, "the new device does not answer")
                .hint("it must show its code and wait while you link it: let it show another one"),
            _ => error,
        })?;
        known.take_reveal(&reveal).map_err(|error| failed(&error))
    }

    /// The person has compared. Waits for the other one to have done so as well.
    ///
    /// # Errors
    /// They found the digits different; the new device ends the link or does not answer.
    pub(crate) async fn consent(mut self, accept: bool) -> Result<Consented, ApiError> {
        let outcome = if accept { Self::agree(self.step, &mut self.mailbox).await } else { Err(refused()) };
        match outcome {
            Ok((ready, device)) => Ok(Consented { access: self.access, mailbox: self.mailbox, ready, device }),
            Err(error) => {
                give_up(&mut self.mailbox).await;
                Err(error)
            }
        }
    }

    async fn agree(step: Revealed, mailbox: &mut Mailbox) -> Result<(Ready, (DeviceId, String)), ApiError> {
        let device = (DeviceId(step.device()), step.device_name().to_owned());
        let consent = mailbox.next(Instant::now() + PATIENCE).await.map_err(|error| match error.code {
            ErrorCode::TimedOut => ApiError::new(ErrorCode::TimedOut, "nobody has agreed on the new device")
                .hint("compare the strings and accept on both devices: begin again"),
            _ => error,
        })?;
        let ready = step.agree().take_consent(&consent).map_err(|error| failed(&error))?;
        fault::point("link-consented");
        Ok((ready, device))
    }
}

/// Both people have agreed: what is missing is the server's grant.
pub(crate) struct Consented {
    access: Access,
    mailbox: Mailbox,
    ready: Ready,
    device: (DeviceId, String),
}

impl Consented {
    /// Hands the account over; gives the new device when it is in.
    ///
    /// # Errors
    /// The server is not reached; the new device did not say that it is in, or could not get in.
    pub(crate) async fn hand_over(mut self, grant: &[u8; 32], now_ms: u64) -> Result<Device, ApiError> {
        let package = match self.ready.seal(&self.access.identity, grant) {
            Ok(package) => package,
            Err(error) => {
                give_up(&mut self.mailbox).await;
                return Err(failed(&error));
            }
        };
        fault::point("link-granted");
        self.mailbox.post(package).await?;
        fault::point("link-handed-over");
        let report = self.mailbox.next(Instant::now() + ANSWER).await.map_err(|error| {
            let text = format!("the new device has all it needs, but has not said that it is in: {}", error.message);
            ApiError::new(error.code, text).hint("`fastchatctl device list` shows whether it is")
        })?;
        is_link_done(&report).map_err(|_| {
            ApiError::new(ErrorCode::Refused, "the new device could not get in").hint("it says why; begin again there")
        })?;
        let (id, name) = self.device;
        Ok(Device {
            id: id.to_string(),
            name,
            added_at_ms: now_ms,
            seen_at_ms: now_ms,
            connected: true,
            current: false,
        })
    }

    /// There is no grant.
    pub(crate) async fn abandon(mut self) {
        give_up(&mut self.mailbox).await;
    }
}

/// A code of another server has no mailbox here, and one with another key of the same server is a bad sign.
fn same_server(access: &Access, code: &LinkCode) -> Result<(), ApiError> {
    if let (Some(ours), Some(theirs)) = (access.pin, code.pin)
        && ours != theirs
    {
        let server = &access.address.server;
        let text = if code.server == *server {
            format!(
                "THE NEW DEVICE SEES ANOTHER KEY OF {server}: here it is {ours}, there {theirs}. \
                 Somebody may be between it and the server"
            )
        } else {
            format!("the code is for the server {}, this account is on {server}", code.server)
        };
        return Err(ApiError::new(ErrorCode::Refused, text)
            .hint(format!("on the new device begin again with `--pin {ours}` and the server {server}")));
    }
    Ok(())
}
