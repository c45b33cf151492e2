//! What the core gives to the work that is done aside, and takes from it: passwords, rotations, links.
//!
//! **Invariant**: of two identities that an account may have, the one that the server gives to others counts, and only if
//! it was made here.

#[cfg(test)]
pub(in crate::core) mod tests;

use fastchat_e2ee::{Device, Identity, IdentityKey};
use fastchat_ipc::{ApiError, Empty, ErrorCode};
use fastchat_wire::{AccountName, Address, Pin, ServerAddress, v1};
use v1::client_frame::Body as Ask;

use crate::{
    fault,
    sign_in::{Access, PreparedRotation},
    store::{StoreError, Write},
};

use super::{Broken, CallId, Core, live::Asked};

impl Core {
    /// An account's keys and where its server is.
    ///
    /// # Errors
    /// There is no such account, or its keys are damaged.
    pub fn access(&self, account: &str) -> Result<Access, ApiError> {
        let account = self.account_number(account)?;
        let damaged = || ApiError::new(ErrorCode::Internal, "the account's keys in the store are damaged");
        let row = self.store.tables().accounts.get(&account).ok_or_else(damaged)?;
        Ok(Access {
            address: Address { account: row.name.clone(), server: row.server.clone() },
            pin: row.pin,
            identity: Identity::from_bytes(&row.identity).map_err(|_| damaged())?,
            device: Device::from_bytes(&row.device).map_err(|_| damaged())?,
            prepared: PreparedRotation::keys(&row.rotation),
        })
    }

    /// The key that a server is known by, if an account here is on it.
    #[must_use]
    pub fn pin_of(&self, server: &ServerAddress) -> Option<Pin> {
        self.store.tables().accounts.values().find(|row| row.server == *server).and_then(|row| row.pin)
    }

    /// A device is to be linked: the server gives the grant, over the account's session.
    pub(super) fn ask_grant(&mut self, call: CallId, account: &str) {
        let account = self.account_number(account);
        let online = account.and_then(|account| match self.live.get(&account) {
            Some(live) if live.is_up() => Ok(account),
            _ => Err(ApiError::new(ErrorCode::Unreachable, "not online: the server has to let the new device in")
                .hint("`fastchatctl status` shows the connection; begin again when it stands")),
        });
        match online {
            Ok(account) => self.ask(account, Asked::Grant(call), Ask::GrantLink(v1::GrantLink {})),
            Err(error) => self.answer::<()>(call, Err(error)),
        }
    }

    /// A new identity is about to be told to the server.
    pub(super) fn prepare_rotation(&mut self, call: CallId, prepared: &PreparedRotation) -> Result<(), Broken> {
        let outcome = self
            .account_number(&prepared.account.to_string())
            .and_then(|account| prepared.to_bytes().map(|record| (account, record)));
        let (account, record) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        let Some(mut row) = self.store.tables().accounts.get(&account).cloned() else {
            return Err(StoreError::Damaged);
        };
        row.rotation = record.to_vec();
        let mut write = Write::default();
        write.account(account, row);
        self.commit(write, account, Vec::new())?;
        fault::point("rotation-prepared");
        self.answer(call, Ok(Empty {}));
        Ok(())
    }

    /// The session stands: if a rotation was cut short, the server knows how far it went.
    pub(super) fn look_for_rotation(&mut self, account: u32) {
        let row = self.store.tables().accounts.get(&account).filter(|row| !row.rotation.is_empty());
        if let Some(own) = row.map(|row| row.name.clone()) {
            self.ask_who(account, &own);
        }
    }

    /// The server has named somebody's key: if it is ours, and the one that was prepared, the rotation is completed.
    pub(super) fn settle_rotation(
        &mut self,
        account: u32,
        name: &AccountName,
        key: &IdentityKey,
    ) -> Result<(), Broken> {
        let row = self.store.tables().accounts.get(&account).filter(|row| row.name == *name);
        match row.and_then(|row| PreparedRotation::keys(&row.rotation)) {
            Some((identity, device)) if identity.public() == key => self.rotate(account, &identity, &device),
            // The old one still counts: the prepared one stays until the next rotation takes its place.
            _ => Ok(()),
        }
    }
}
