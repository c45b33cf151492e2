//! An account on several machines: each with a daemon of its own.
//!
//! **Invariant**: devices of one person share nothing but the account.

use anyhow::{Context, Result, ensure};
use fastchat_ipc::{
    Device, Devices, KeyStore, LinkCode, LinkConsent, LinkFinish, LinkRequest, OfAccount, OfDevice, OfLink, SignIn,
    method,
};

use crate::{Person, Server};

impl Person {
    /// Another device of this person, brought in with the password; online.
    ///
    /// # Errors
    /// Any step fails.
    pub async fn another_device(&self, server: &Server) -> Result<Self> {
        self.another_device_with(server, crate::PASSWORD).await
    }

    /// The same, with another password.
    ///
    /// # Errors
    /// Any step fails.
    pub async fn another_device_with(&self, server: &Server, password: &str) -> Result<Self> {
        let mut device = Self::new(&self.name).await?;
        let sign_in = SignIn {
            pin: server.pin().to_owned(),
            password: password.to_owned(),
            ..Self::sign_in(&server.account(&self.name))
        };
        device.call::<method::Login>(&sign_in).await?;
        device.online().await?;
        Ok(device)
    }

    /// Another device of this person, brought in by a code that this one reads; online.
    ///
    /// # Errors
    /// Any step fails, or the two show different strings.
    pub async fn linked_device(&mut self, server: &Server) -> Result<Self> {
        let mut device = Self::new(&self.name).await?;
        let begin = LinkRequest {
            address: server.address(),
            pin: server.pin().to_owned(),
            key_store: KeyStore::File,
            ..LinkRequest::default()
        };
        let begun = device.call::<method::BeginLink>(&begin).await?;
        let wait = OfLink { link: begun.link.clone(), ..OfLink::default() };
        let code = LinkCode { code: begun.code, ..LinkCode::default() };
        let (shown, offer) =
            tokio::join!(device.call::<method::AwaitLink>(&wait), self.call::<method::LinkDevice>(&code));
        let (shown, offer) = (shown?, offer?);
        ensure!(shown.sas == offer.sas && !shown.sas.is_empty(), "they show {} and {}", shown.sas, offer.sas);
        let finish = LinkFinish { link: begun.link, accept: true };
        let consent = LinkConsent { link: offer.link, accept: true, ..LinkConsent::default() };
        let (came, let_in) =
            tokio::join!(device.call::<method::FinishLink>(&finish), self.call::<method::ConfirmDeviceLink>(&consent));
        came?;
        let_in?;
        device.online().await?;
        Ok(device)
    }

    /// The account's devices.
    ///
    /// # Errors
    /// The server is not reached.
    pub async fn devices(&mut self) -> Result<Vec<Device>> {
        let Devices { devices } = self.call::<method::ListDevices>(&OfAccount::default()).await?;
        Ok(devices)
    }

    /// This device's id.
    ///
    /// # Errors
    /// There is no account.
    pub async fn device(&mut self) -> Result<String> {
        Ok(self.account().await?.device)
    }

    /// Takes a device from the account.
    ///
    /// # Errors
    /// It is refused.
    pub async fn revoke(&mut self, device: &str) -> Result<()> {
        let params = OfDevice { device: device.to_owned(), ..OfDevice::default() };
        self.call::<method::RevokeDevice>(&params).await.map(drop)
    }

    /// Waits until somebody has so many devices in a group.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn sees_devices(&mut self, group: &str, member: &str, count: u32) -> Result<()> {
        self.until(&format!("{member} has {count} devices in {group}"), async |person| {
            let Some(seen) = person.seen_group(group).await? else { return Ok(None) };
            Ok(seen.members.iter().any(|m| m.name == member && m.devices == count).then_some(()))
        })
        .await
    }

    /// Waits until a text of this person, from whichever device, shows as theirs.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn has_said(&mut self, chat: &str, text: &str) -> Result<()> {
        let said = self
            .until(&format!("own `{text}` shows"), async |person| {
                let history = person.history(chat).await?;
                Ok(history.iter().any(|message| message.mine && message.text == text).then_some(()))
            })
            .await;
        match said {
            Ok(()) => Ok(()),
            Err(error) => {
                let history = self.history(chat).await.context("the history")?;
                Err(error.context(format!("instead there is {history:#?}")))
            }
        }
    }
}
