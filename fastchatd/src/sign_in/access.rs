//! An account of this daemon, as what is done aside with its server needs it.
//!
//! **Invariant**: the server is trusted as the account remembers it, and no other identity than the account's own is
//! worked with.

use fastchat_e2ee::{Device, Identity};
use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{Address, Pin, v1};

use crate::link::Trust;

/// What the core gives of an account.
#[derive(Debug)]
pub struct Access {
    /// The account and its entry address.
    pub address: Address,
    /// The server's key, when it is not vouched for by a public authority.
    pub pin: Option<Pin>,
    /// The account's identity.
    pub identity: Identity,
    /// This device.
    pub device: Device,
    /// An identity that a rotation had prepared, and this device under it: the server may have it or not.
    pub prepared: Option<(Identity, Device)>,
}

impl Access {
    pub(crate) fn trust(&self) -> Trust {
        Trust::remembered(self.pin)
    }

    /// The account's name, which keys and certificates are bound to.
    pub(crate) fn name(&self) -> &str {
        self.address.account.as_str()
    }

    /// Whether the server has the identity that this device has.
    pub(super) fn agrees(&self, session: &v1::Session) -> Result<(), ApiError> {
        if session.identity_key == self.identity.public().to_der() {
            return Ok(());
        }
        let text = format!("the account {} has another identity now than this device has", self.address);
        Err(ApiError::new(ErrorCode::LoggedOut, text).hint(
            "if another device of yours has rotated it, log in again: `fastchatctl login`; if not, somebody else knows \
             the password",
        ))
    }
}
