//! What a device asks for within its session.
//!
//! **Invariant**: requests of one connection take effect in the order in which they came.

use std::{collections::BTreeSet, time::Duration};

use fastchat_store::{Append, Claim, Store};
use fastchat_wire::{
    AccountName, Code, ConversationId, DeviceId,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};

use super::{Established, Services, Trouble, credentials, fields, links, rate_limited, refuse};
use crate::{
    clock,
    config::Limits,
    core::{Event, frames},
    rates::{Counted, Rate},
};

/// One-time key packages kept per device.
const KEY_PACKAGES_KEPT: u32 = 200;
/// One-time key packages that are kept for friends when strangers ask.
const KEY_PACKAGES_FOR_FRIENDS: u32 = 20;

/// Takes a frame; `Some` ends the connection.
pub(super) async fn answer<S: Store>(
    connection: &mut Established,
    services: &Services<S>,
    limits: &Limits,
    frame: v1::ClientFrame,
) -> Option<Option<v1::Failure>> {
    let v1::ClientFrame { request, body } = frame;
    let Some(body) = body else {
        return Some(Some(v1::Failure::new(Code::BadFrame, "a frame of unknown kind")));
    };
    let ending = matches!(body, Ask::Logout(_));
    let mut requests = Requests { connection, services, limits };
    match requests.take(request, body).await {
        Ok(Some(body)) => connection.stream.push(&frames::answer(request, body)),
        Ok(None) => {}
        Err(Trouble::Refuse(failure)) => {
            connection.stream.push(&frames::answer(request, Body::Failure(failure)));
        }
        Err(Trouble::End(last)) => return Some(last),
    }
    ending.then_some(None)
}

pub(super) struct Requests<'a, S> {
    pub(super) connection: &'a mut Established,
    pub(super) services: &'a Services<S>,
    pub(super) limits: &'a Limits,
}

impl<S: Store> Requests<'_, S> {
    /// `None`: there is no answer, or the core gives it.
    async fn take(&mut self, request: u64, body: Ask) -> Result<Option<Body>, Trouble> {
        match body {
            Ask::Submit(submit) => return self.submit(request, submit).await,
            Ask::Ack(ack) => return self.ack(&ack).await,
            Ask::Ping(_) => Ok(Body::Pong(v1::Pong { server_time_ms: clock::now_ms() })),
            Ask::GetAccount(ask) => self.get_account(&ask).await,
            Ask::PublishKeyPackages(ask) => self.publish(&ask).await,
            Ask::ClaimKeyPackages(ask) => self.claim(&ask).await,
            Ask::CreateDirect(ask) => self.create_direct(&ask).await,
            Ask::CreateGroup(ask) => self.create_group(&ask).await,
            Ask::Handshake(ask) => return self.handshake(request, &ask).await,
            Ask::FetchGroup(ask) => self.fetch_group(&ask).await,
            Ask::ListDevices(_) => return self.list_devices(request).await,
            Ask::RenameDevice(ask) => self.rename_device(ask).await,
            Ask::RevokeDevice(ask) => self.revoke_device(&ask).await,
            Ask::ChangePassword(ask) => credentials::change_password(self.services, self.connection.origin, ask).await,
            Ask::RotateIdentity(ask) => credentials::rotate_identity(self.services, self.connection.origin, ask).await,
            Ask::OpenLink(ask) => links::open(self.services, self.connection.origin, &ask).await,
            Ask::PostLink(ask) => links::post(self.services, self.connection.origin, &ask).await,
            Ask::FetchLink(ask) => return self.fetch_link(request, ask),
            Ask::GrantLink(_) => links::grant(self.services, &self.connection.account).await,
            Ask::SetBlocked(ask) => self.set_blocked(&ask).await,
            Ask::SharePresence(ask) => self.share_presence(&ask).await,
            Ask::Logout(_) => self.log_out().await,
            Ask::Hello(_) | Ask::PasswordParams(_) | Ask::Register(_) | Ask::Login(_) | Ask::Resume(_) => {
                let failure = v1::Failure::new(Code::BadFrame, "this connection has its session already");
                Err(Trouble::End(Some(failure)))
            }
        }
        .map(Some)
    }

    pub(super) async fn tell(&self, event: Event) -> Result<(), Trouble> {
        if self.services.hub.tell(event).await { Ok(()) } else { Err(Trouble::End(None)) }
    }

    pub(super) async fn rated(&self, what: Counted, rate: Rate) -> Result<(), Trouble> {
        self.services.rates.take(what, rate).await.map_err(rate_limited)
    }

    async fn submit(&mut self, request: u64, submit: v1::Submit) -> Result<Option<Body>, Trouble> {
        let (conversation, entries) = fields::entries(submit, self.limits)?;
        self.connection.submitted(entries.len(), self.limits.entries_per_second.get());
        let Established { account, device, session, .. } = &*self.connection;
        let now_ms = clock::now_ms();
        let append = Append { conversation, account: account.clone(), device: *device, entries, now_ms };
        self.tell(Event::Submit { session: *session, request, append }).await?;
        Ok(None)
    }

    async fn ack(&self, ack: &v1::Ack) -> Result<Option<Body>, Trouble> {
        let conversation = ConversationId::from_wire(&ack.conversation)?;
        self.tell(Event::Ack { session: self.connection.session, conversation, seq: ack.seq }).await?;
        Ok(None)
    }

    async fn get_account(&self, ask: &v1::GetAccount) -> Result<Body, Trouble> {
        let name = fields::account(&ask.account)?;
        match self.services.store.identity_key(name).await? {
            Some(identity_key) => Ok(Body::AccountInfo(v1::AccountInfo { account: ask.account.clone(), identity_key })),
            None => Err(no_account(&ask.account)),
        }
    }

    async fn publish(&self, ask: &v1::PublishKeyPackages) -> Result<Body, Trouble> {
        let (one_time, last_resort) = fields::key_packages(ask)?;
        let (device, store) = (self.connection.device, &self.services.store);
        let published =
            store.publish_key_packages(device, one_time, last_resort, KEY_PACKAGES_KEPT, clock::now_ms()).await?;
        let published = published.ok_or_else(logged_out)?;
        if let Some(change) = published.change {
            self.tell(Event::DevicesChanged { change, by: Some(device) }).await?;
        }
        Ok(Body::KeyPackageCount(v1::KeyPackageCount { one_time: published.one_time }))
    }

    async fn claim(&self, ask: &v1::ClaimKeyPackages) -> Result<Body, Trouble> {
        let name = fields::account(&ask.account)?;
        let (own, rate) = (self.connection.account.clone(), Rate::per_hour(self.limits.claims_per_hour.get()));
        self.rated(Counted::ClaimBy(own.clone()), rate).await?;
        let reserve = self.reserve(own.clone(), name.clone()).await?;
        let claim = Claim { account: name.clone(), by: self.connection.device, reserve, now_ms: clock::now_ms() };
        let claimed = self.services.store.claim_key_packages(claim).await?;
        let claimed = claimed.ok_or_else(|| no_account(name.as_str()))?;
        if claimed.is_setting_up {
            let text = "another device of this account is being set up: try again in a moment";
            return Err(Trouble::Refuse(frames::failure_after(Code::NoKeyPackages, text, Duration::from_secs(2))));
        }
        if claimed.packages.is_empty() && name != own {
            let text = format!("{name} has no device that is ready for a conversation: try again later");
            return Err(Trouble::Refuse(frames::failure_after(Code::NoKeyPackages, &text, Duration::from_secs(60))));
        }
        let package = |(device, key_package): (DeviceId, _)| v1::KeyPackage { device: device.to_wire(), key_package };
        Ok(Body::KeyPackages(v1::KeyPackages {
            account: ask.account.clone(),
            identity_key: claimed.identity_key,
            packages: claimed.packages.into_iter().map(package).collect(),
        }))
    }

    /// How many one-time key packages of `name` are kept from this account: friends get them all, strangers some.
    async fn reserve(&self, own: AccountName, name: AccountName) -> Result<u32, Trouble> {
        if own == name || self.services.store.are_acquainted(own, name.clone()).await? {
            return Ok(0);
        }
        let strangers = self.limits.strangers_per_hour.get();
        let counted = Counted::StrangersClaimOf(name);
        // Too many strangers are not refused: an honest one among them still gets the package of last resort.
        if strangers > 0 && self.services.rates.take(counted, Rate::per_hour(strangers)).await.is_ok() {
            Ok(KEY_PACKAGES_FOR_FRIENDS)
        } else {
            Ok(u32::MAX)
        }
    }

    async fn set_blocked(&self, ask: &v1::SetBlocked) -> Result<Body, Trouble> {
        let (owner, other) = (self.connection.account.clone(), fields::account(&ask.account)?);
        if self.services.store.set_blocked(owner, other, ask.blocked).await? {
            Ok(Body::Done(v1::Done {}))
        } else {
            Err(no_account(&ask.account))
        }
    }

    async fn share_presence(&self, ask: &v1::SharePresence) -> Result<Body, Trouble> {
        if ask.accounts.len() > fields::SHARED {
            return Err(refuse(Code::Invalid, format!("presence is shared with at most {}", fields::SHARED)));
        }
        let accounts = ask.accounts.iter().map(|name| fields::account(name)).collect::<Result<BTreeSet<_>, _>>()?;
        self.tell(Event::SharePresence { session: self.connection.session, accounts }).await?;
        Ok(Body::Done(v1::Done {}))
    }

    async fn log_out(&self) -> Result<Body, Trouble> {
        // First out of the core, so that what it says to this connection is not "log in again".
        self.tell(Event::Closed(self.connection.session)).await?;
        let Established { account, device, .. } = &*self.connection;
        if let Some(change) = self.services.store.remove_device(account.clone(), *device).await? {
            self.tell(Event::DevicesChanged { change, by: Some(*device) }).await?;
        }
        Ok(Body::Done(v1::Done {}))
    }

    // ------------------------------------------------------------ devices and links

    async fn list_devices(&self, request: u64) -> Result<Option<Body>, Trouble> {
        let devices = self.services.store.devices(self.connection.account.clone()).await?;
        self.tell(Event::ListDevices { session: self.connection.session, request, devices }).await?;
        Ok(None)
    }

    async fn rename_device(&self, ask: v1::RenameDevice) -> Result<Body, Trouble> {
        let (device, name) = (DeviceId::from_wire(&ask.device)?, fields::device_name(ask.name)?);
        let Established { account, device: own, .. } = &*self.connection;
        if !self.services.store.rename_device(account.clone(), device, name).await? {
            return Err(credentials::no_device());
        }
        let (removed, closed) = (Vec::new(), Vec::new());
        let change = fastchat_store::DeviceChange { account: account.clone(), removed, closed };
        self.tell(Event::DevicesChanged { change, by: Some(*own) }).await?;
        Ok(Body::Done(v1::Done {}))
    }

    async fn revoke_device(&self, ask: &v1::RevokeDevice) -> Result<Body, Trouble> {
        let device = DeviceId::from_wire(&ask.device)?;
        let Established { account, device: own, .. } = &*self.connection;
        if device == *own {
            return Err(refuse(Code::Invalid, "this is the device that asks: log it out instead"));
        }
        let change = self.services.store.remove_device(account.clone(), device).await?;
        let change = change.ok_or_else(credentials::no_device)?;
        self.tell(Event::DevicesChanged { change, by: Some(*own) }).await?;
        Ok(Body::Done(v1::Done {}))
    }

    /// Waits beside the session, which goes on; one at a time, a newer one ends the older.
    fn fetch_link(&mut self, request: u64, ask: v1::FetchLink) -> Result<Option<Body>, Trouble> {
        let (services, origin, session) = (self.services.clone(), self.connection.origin, self.connection.session);
        let fetching = tokio::spawn(async move {
            let body = match links::fetch(&services, origin, &ask).await {
                Ok(body) => body,
                Err(Trouble::Refuse(failure)) => Body::Failure(failure),
                Err(Trouble::End(_)) => return,
            };
            let frame = Box::new(frames::answer(request, body));
            services.hub.tell(Event::Answered { session, frame }).await;
        });
        self.connection.fetching.replace(fetching);
        Ok(None)
    }
}

pub(super) fn no_account(name: &str) -> Trouble {
    refuse(Code::NotFound, format!("there is no account {name} on this server"))
}

pub(super) fn logged_out() -> Trouble {
    refuse(Code::Unauthenticated, "this device is no longer logged in: log in again")
}
