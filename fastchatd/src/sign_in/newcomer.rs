//! A device that comes to an account by a link, with a grant instead of the password.
//!
//! **Invariant**: the identity that came over the link is the one that the server gives to others as the account's.

use fastchat_e2ee::LinkPackage;
use fastchat_ipc::{ApiError, ErrorCode, LinkRequest};
use fastchat_wire::{AccountName, Address, DeviceId, Pin, ServerAddress, v1};

use super::{SignedIn, exchange, exchange::Exchange, in_time, issue, request};
use crate::link::{Trust, unexpected};

/// What the device is to be, and where.
pub(crate) struct Newcomer {
    pub(crate) server: ServerAddress,
    pub(crate) trust: Trust,
    pub(crate) device: DeviceId,
    pub(crate) device_name: String,
}

impl Newcomer {
    /// Checks what was asked for. `known`: the key that the server is known by here already.
    ///
    /// # Errors
    /// A field is out of its bounds.
    pub(crate) fn check(asked: &LinkRequest, known: Option<Pin>) -> Result<Self, ApiError> {
        let server = request::server(&asked.address)?;
        let trust = match known.filter(|_| asked.pin.is_empty()) {
            Some(pin) => Trust::Pinned(pin),
            None => request::trust(&asked.pin, asked.accept_new)?,
        };
        let device_name = request::device_name(&asked.device_name)?;
        Ok(Self { server, trust, device: DeviceId::generate(), device_name })
    }

    /// Logs the device in with what another one gave it.
    ///
    /// # Errors
    /// The server is not reached, does not know the grant (any more), or has another identity for the account.
    pub(crate) async fn log_in(self, package: LinkPackage) -> Result<SignedIn, ApiError> {
        let Self { server, trust, device, device_name } = self;
        let LinkPackage { account, identity, grant } = package;
        let account: AccountName = account.parse().map_err(|_| unexpected())?;
        let address = Address { account, server };
        in_time("signing in", async {
            let (identity, device) = issue(identity, &address, device).await?;
            let exchange = Exchange::begin(&address, trust).await?;
            let login = v1::Login {
                account: address.account.to_string(),
                device: Some(exchange::wire_device(&device, &device_name)),
                grant: grant.to_vec().into(),
                ..v1::Login::default()
            };
            let token = exchange.login(login, &identity).await.map_err(|error| match error.code {
                ErrorCode::WrongPassword => {
                    ApiError::new(ErrorCode::Refused, "the server does not take what the other device gave (any more)")
                        .hint("link again: `fastchatctl device link`")
                }
                _ => error,
            })?;
            let pin = if let Trust::Pinned(pin) = trust { Some(pin) } else { None };
            let Address { account, server } = address.clone();
            Ok(SignedIn { account, server, pin, identity, device, device_name, token, new_identity: false })
        })
        .await
    }
}
