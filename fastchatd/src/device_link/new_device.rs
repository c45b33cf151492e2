//! The new device's side of a link.
//!
//! **Invariant**: the account comes here only after this device's person has agreed to the digits.

use std::time::Duration;

use fastchat_e2ee::{LinkPackage, NewDevice, Offered, link_abort, link_done};
use fastchat_ipc::{ApiError, ErrorCode, LinkBegun, LinkRequest, LinkSas};
use fastchat_wire::{Address, Pin};
use tokio::time::{Instant, timeout};

use super::{LIFE, LinkCode, MOMENT, PATIENCE, failed, give_up, links::Waiting, mailbox::Mailbox, refused};
use crate::{
    fault,
    link::Trust,
    sign_in::{Newcomer, SignedIn},
};

/// A link, as the new device stands in it.
pub(crate) struct NewSide {
    asked: LinkRequest,
    newcomer: Newcomer,
    mailbox: Mailbox,
    step: Step,
}

enum Step {
    /// The code is shown.
    Open(NewDevice),
    /// The digits are shown.
    Offered(Offered, Address),
}

impl Waiting for NewSide {
    fn link(&self) -> [u8; 16] {
        self.mailbox.link()
    }

    fn ends(&self) -> Instant {
        self.mailbox.ends()
    }
}

impl NewSide {
    /// Opens a mailbox; gives the code. `known`: the key that the server is known by here already.
    ///
    /// # Errors
    /// A parameter is out of its bounds, or the server is not reached, not trusted, or refuses.
    pub(crate) async fn begin(
        asked: &LinkRequest,
        known: Option<Pin>,
        now_ms: u64,
    ) -> Result<(Self, LinkBegun), ApiError> {
        let ends = Instant::now() + LIFE;
        let mut newcomer = Newcomer::check(asked, known)?;
        let device = NewDevice::begin(newcomer.device.0, &newcomer.device_name).map_err(|error| failed(&error))?;
        let first = device.first_message().map_err(|error| failed(&error))?;
        let opened = Mailbox::open(newcomer.server.clone(), newcomer.trust, first, ends).await?;
        let (mailbox, trust, server_expires_ms) = opened;
        newcomer.trust = trust;
        let pin = if let Trust::Pinned(pin) = trust { Some(pin) } else { None };
        let server = newcomer.server.clone();
        let code = LinkCode { server, pin, link: mailbox.link(), commitment: device.commitment() }.to_string();
        let expires_at_ms = match now_ms.saturating_add(u64::try_from(LIFE.as_millis()).unwrap_or(u64::MAX)) {
            ours if server_expires_ms == 0 => ours,
            ours => ours.min(server_expires_ms),
        };
        let step = Step::Open(device);
        let link = data_encoding::HEXLOWER.encode(&mailbox.link());
        let begun = LinkBegun { link, qr: code.clone(), code, expires_at_ms };
        Ok((Self { asked: asked.clone(), newcomer, mailbox, step }, begun))
    }

    /// What was asked for at the beginning.
    pub(crate) fn asked(&self) -> &LinkRequest {
        &self.asked
    }

    /// The account, once a device of it has answered.
    pub(crate) fn account(&self) -> Option<&Address> {
        if let Step::Offered(_, account) = &self.step { Some(account) } else { None }
    }

    /// Waits for a device of an account to take the code; gives the digits. Gives the link back when waiting was in vain,
    /// and whenever it may go on.
    pub(crate) async fn wait(mut self, timeout_ms: u64) -> (Option<Self>, Result<LinkSas, ApiError>) {
        let device = match self.step {
            Step::Offered(offered, account) => {
                let shown = Ok(LinkSas { sas: offered.sas(), account: account.to_string() });
                self.step = Step::Offered(offered, account);
                return (Some(self), shown);
            }
            Step::Open(device) => device,
        };
        let patience = if timeout_ms == 0 { PATIENCE } else { Duration::from_millis(timeout_ms).min(PATIENCE) };
        let offer = match self.mailbox.next(Instant::now() + patience).await {
            Ok(offer) => offer,
            Err(error) => {
                self.step = Step::Open(device);
                if error.code == ErrorCode::TimedOut && Instant::now() < self.mailbox.ends() {
                    return (Some(self), Err(error));
                }
                give_up(&mut self.mailbox).await;
                return (None, Err(error));
            }
        };
        match Self::answer(device, &offer, &mut self.mailbox, &self.newcomer).await {
            Ok((offered, account)) => {
                self.mailbox.rest().await;
                let shown = LinkSas { sas: offered.sas(), account: account.to_string() };
                self.step = Step::Offered(offered, account);
                (Some(self), Ok(shown))
            }
            Err(error) => {
                give_up(&mut self.mailbox).await;
                (None, Err(error))
            }
        }
    }

    async fn answer(
        device: NewDevice,
        offer: &[u8],
        mailbox: &mut Mailbox,
        newcomer: &Newcomer,
    ) -> Result<(Offered, Address), ApiError> {
        let (offered, reveal) = device.take_offer(offer).map_err(|error| failed(&error))?;
        let account = offered.account().parse().map_err(|_| {
            ApiError::new(ErrorCode::Refused, "the link has ended: the other device offers what is no account's name")
        })?;
        mailbox.post(reveal).await?;
        fault::point("link-revealed");
        Ok((offered, Address { account, server: newcomer.server.clone() }))
    }

    /// The person has compared. Waits for the other one to have done so as well.
    ///
    /// # Errors
    /// They found the digits different, or did not see them; the other device ends the link or does not answer.
    pub(crate) async fn agree(mut self, accept: bool) -> Result<Invited, ApiError> {
        match self.step.agree(accept, &mut self.mailbox).await {
            Ok(package) => Ok(Invited { newcomer: self.newcomer, mailbox: self.mailbox, package }),
            Err(error) => {
                give_up(&mut self.mailbox).await;
                Err(error)
            }
        }
    }

    /// The link is not to go on.
    pub(crate) async fn abandon(mut self) {
        give_up(&mut self.mailbox).await;
    }
}

/// The new device has all that it needs to log in.
pub(crate) struct Invited {
    newcomer: Newcomer,
    mailbox: Mailbox,
    package: LinkPackage,
}

impl Invited {
    /// Logs in.
    ///
    /// # Errors
    /// The server is not reached, or refuses the new device.
    pub(crate) async fn log_in(mut self) -> Result<SignedIn, ApiError> {
        let signed = self.newcomer.log_in(self.package).await;
        let report = if signed.is_ok() { link_done() } else { link_abort() };
        if let Ok(report) = report {
            // Only for show over there: `device list` says the same.
            let _ = timeout(MOMENT, self.mailbox.post(report)).await;
        }
        signed
    }
}

impl Step {
    async fn agree(self, accept: bool, mailbox: &mut Mailbox) -> Result<LinkPackage, ApiError> {
        let Self::Offered(offered, _) = self else {
            return Err(ApiError::new(ErrorCode::Refused, "the link has ended: there was nothing to compare yet")
                .hint("begin again, and wait for the string (`account.link_wait`) before accepting it"));
        };
        if !accept {
            return Err(refused());
        }
        let (agreed, consent) = offered.agree().map_err(|error| failed(&error))?;
        mailbox.post(consent).await?;
        let package = mailbox.next(Instant::now() + PATIENCE).await?;
        agreed.open(&package).map_err(|error| failed(&error))
    }
}
