//! What a device asks for within its session.
//!
//! **Invariant**: requests of one connection take effect in the order in which they came.

use std::{collections::BTreeSet, time::Duration};

use fastchat_store::{Append, CreateDirect, NewDirect, Store};
use fastchat_wire::{
    Code, ConversationId,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};

use super::{Established, Services, Trouble, fields, greeting::rate_limited, refuse};
use crate::{
    clock,
    config::Limits,
    core::{Event, frames},
    rates::{Counted, Rate},
};

/// One-time key packages kept per device.
const KEY_PACKAGES_KEPT: u32 = 200;

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

struct Requests<'a, S> {
    connection: &'a mut Established,
    services: &'a Services<S>,
    limits: &'a Limits,
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

    async fn tell(&self, event: Event) -> Result<(), Trouble> {
        if self.services.hub.tell(event).await { Ok(()) } else { Err(Trouble::End(None)) }
    }

    /// Claims, and the conversations made with them.
    async fn rated(&self, what: Counted) -> Result<(), Trouble> {
        let rate = Rate { count: self.limits.claims_per_hour.get(), per: Duration::from_secs(3_600) };
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
        let device = self.connection.device;
        let count = self.services.store.publish_key_packages(device, one_time, last_resort, KEY_PACKAGES_KEPT).await?;
        let one_time = count.ok_or_else(logged_out)?;
        Ok(Body::KeyPackageCount(v1::KeyPackageCount { one_time }))
    }

    async fn claim(&self, ask: &v1::ClaimKeyPackages) -> Result<Body, Trouble> {
        let name = fields::account(&ask.account)?;
        self.rated(Counted::ClaimBy(self.connection.account.clone())).await?;
        let claimed = self.services.store.claim_key_packages(name.clone()).await?;
        let claimed = claimed.ok_or_else(|| no_account(name.as_str()))?;
        if claimed.packages.is_empty() || claimed.without > 0 {
            let text = format!("{name} has no device that is ready for a conversation: try again later");
            return Err(Trouble::Refuse(frames::failure_after(Code::NoKeyPackages, &text, Duration::from_secs(60))));
        }
        let package = |(device, key_package): (fastchat_wire::DeviceId, _)| v1::KeyPackage {
            device: device.to_wire(),
            key_package,
        };
        Ok(Body::KeyPackages(v1::KeyPackages {
            account: ask.account.clone(),
            identity_key: claimed.identity_key,
            packages: claimed.packages.into_iter().map(package).collect(),
        }))
    }

    async fn create_direct(&self, ask: &v1::CreateDirect) -> Result<Body, Trouble> {
        let Established { account, device, .. } = &*self.connection;
        let (conversation, peer) = (ConversationId::from_wire(&ask.conversation)?, fields::account(&ask.peer)?);
        if peer == *account {
            return Err(refuse(Code::Invalid, "a direct conversation is with somebody else"));
        }
        if i64::try_from(ask.epoch).is_err() {
            return Err(refuse(Code::Invalid, "epoch is out of range"));
        }
        self.rated(Counted::ConversationBy(account.clone())).await?;
        let direct = NewDirect {
            conversation,
            creator: account.clone(),
            device: *device,
            peer: peer.clone(),
            epoch: ask.epoch,
            welcomes: fields::welcomes(&ask.welcomes)?,
            replaces: ConversationId::from_wire_optional(&ask.replaces)?,
            now_ms: clock::now_ms(),
        };
        let answer = |conversation: ConversationId, created, member| {
            Ok(Body::Direct(v1::Direct { conversation: conversation.to_wire(), created, member }))
        };
        match self.services.store.create_direct(direct).await? {
            CreateDirect::Created { joinings, membership, closed } => {
                self.tell(Event::Created { device: *device, membership, joinings, closed }).await?;
                answer(conversation, true, true)
            }
            CreateDirect::Repeated => answer(conversation, true, true),
            CreateDirect::Exists { conversation, member } => answer(conversation, false, member),
            CreateDirect::NoPeer => Err(no_account(peer.as_str())),
            CreateDirect::NoDevice => Err(logged_out()),
            CreateDirect::Refused => {
                Err(refuse(Code::Refused, format!("{peer} does not want messages from {account}")))
            }
            CreateDirect::OtherDevices => {
                Err(refuse(Code::NoKeyPackages, format!("the devices of {peer} are others: claim key packages again")))
            }
            CreateDirect::Conflict => Err(refuse(Code::Conflict, "this conversation id is in use")),
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
        if let Some(removed) = self.services.store.remove_device(self.connection.device).await? {
            self.tell(Event::Removed(vec![removed])).await?;
        }
        Ok(Body::Done(v1::Done {}))
    }
}

fn no_account(name: &str) -> Trouble {
    refuse(Code::NotFound, format!("there is no account {name} on this server"))
}

fn logged_out() -> Trouble {
    refuse(Code::Unauthenticated, "this device is no longer logged in: log in again")
}
