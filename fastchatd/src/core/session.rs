//! An account's session: what is said when it comes up, and what is left when it goes.
//!
//! **Invariant**: a frame is sent only while a session is up, and each request is remembered until its answer or its end.

use fastchat_e2ee::{IdentityKey, Transaction};
use fastchat_ipc::{AccountState, ApiError, ContactState, ErrorCode, EventKind};
use fastchat_wire::{AccountName, v1};
use v1::{client_frame::Body as Ask, server_frame::Body as Said};

use crate::{
    link::{AccountKey, Down, LinkSettings, ToLink, Token, Up, api_error},
    store::{StoreError, Write},
};

use super::{
    Action, Broken, Core,
    live::{Asked, Live, Waiting},
};

/// One-time key packages that the server should hold for us.
const KEY_PACKAGES: u32 = if cfg!(test) { 6 } else { 100 };
/// Below so many, they are filled up.
const FEW_KEY_PACKAGES: u32 = if cfg!(test) { 3 } else { 20 };
/// How long the server may take to answer; it reads a fast device more slowly, so not little.
const ANSWER_MS: u64 = 120_000;
/// How old the last-resort key package may get.
const LAST_RESORT_MS: u64 = 7 * 24 * 3600 * 1000;

impl Core {
    /// Takes an account of the store to work.
    pub(super) fn start(&mut self, account: u32) -> Result<(), Broken> {
        let Some(row) = self.store.tables().accounts.get(&account) else { return Ok(()) };
        let identity = fastchat_e2ee::Identity::from_bytes(&row.identity).map_err(|_| StoreError::Damaged)?;
        let device = fastchat_e2ee::Device::from_bytes(&row.device).map_err(|_| StoreError::Damaged)?;
        self.live.insert(account, Live::new(identity, device));
        self.start_link(account)
    }

    fn start_link(&mut self, account: u32) -> Result<(), Broken> {
        let Some(row) = self.store.tables().accounts.get(&account) else { return Ok(()) };
        let Some(token) = Token::from_bytes(&row.token) else {
            self.set_state(account, AccountState::LoggedOut, "the server has ended this device's session");
            return Ok(());
        };
        let device = fastchat_e2ee::Device::from_bytes(&row.device).map_err(|_| StoreError::Damaged)?;
        let settings = LinkSettings {
            account: row.name.clone(),
            server: row.server.clone(),
            pin: row.pin,
            token,
            signer: std::sync::Arc::new(move |message: &[u8]| device.sign(&[], message).unwrap_or_default()),
        };
        self.actions.push(Action::StartLink(AccountKey(account), settings));
        Ok(())
    }

    /// The disk is full: what the server has stays there, unacknowledged, until there is room.
    pub(super) fn stall(&mut self, account: u32) -> Result<(), Broken> {
        tracing::error!("the disk is full: messages stay on the server until there is room");
        self.stalled.insert(account);
        self.actions.push(Action::StopLink(AccountKey(account)));
        let error = ApiError::new(ErrorCode::StorageFull, "the disk is full: messages stay on the server");
        self.link_down(account, &Down { error: error.hint("free some space"), retry_in: None })
    }

    /// Connects again what a full disk had stopped.
    pub(super) fn resume_stalled(&mut self) -> Result<(), Broken> {
        if self.stalled.is_empty() || !self.store.has_room() {
            return Ok(());
        }
        let stalled = std::mem::take(&mut self.stalled);
        stalled.into_iter().try_for_each(|account| self.start_link(account))
    }

    /// Gives up connections on which the server answers no more, though it may still say that it lives.
    pub(super) fn end_silence(&mut self) -> Result<(), Broken> {
        let silent = |live: &Live| live.next_deadline().is_some_and(|deadline| deadline <= self.now);
        let silent: Vec<u32> = self.live.iter().filter(|(_, live)| silent(live)).map(|(account, _)| *account).collect();
        for account in silent {
            tracing::warn!("the server left a request unanswered; a new connection takes the old one's place");
            self.actions.push(Action::StopLink(AccountKey(account)));
            let error = ApiError::new(ErrorCode::TimedOut, "the server left a request unanswered");
            self.link_down(account, &Down { error, retry_in: None })?;
            self.start_link(account)?;
        }
        Ok(())
    }

    /// Sends a request; does nothing when no session is up.
    pub(super) fn ask(&mut self, account: u32, asked: Asked, body: Ask) {
        let Some(live) = self.live.get_mut(&account).filter(|live| live.is_up()) else { return };
        let request = live.next_request;
        live.next_request += 1;
        live.asked.insert(request, Waiting { asked, deadline: self.now + ANSWER_MS });
        let up = live.up;
        let frame = v1::ClientFrame { request, body: Some(body) };
        self.actions.push(Action::Link(AccountKey(account), ToLink::Frame { up, frame }));
    }

    /// Sends what has no answer; does nothing when no session is up.
    pub(super) fn tell(&mut self, account: u32, body: Ask) {
        let Some(up) = self.live.get(&account).filter(|live| live.is_up()).map(|live| live.up) else { return };
        let frame = v1::ClientFrame { request: 0, body: Some(body) };
        self.actions.push(Action::Link(AccountKey(account), ToLink::Frame { up, frame }));
    }

    pub(super) fn ask_who(&mut self, account: u32, name: &AccountName) {
        let body = Ask::GetAccount(v1::GetAccount { account: name.to_string() });
        self.ask(account, Asked::Lookup(name.clone()), body);
    }

    pub(super) fn link_connecting(&mut self, account: u32) {
        self.set_state(account, AccountState::Connecting, "");
    }

    pub(super) fn link_up(&mut self, account: u32, up: Up) -> Result<(), Broken> {
        if let Some(token) = Token::from_bytes(&up.session.token)
            && let Some(mut row) = self.store.tables().accounts.get(&account).cloned()
        {
            row.token = token.as_bytes().to_vec();
            let mut write = Write::default();
            write.account(account, row);
            self.commit(write, account, Vec::new())?;
        }
        let lost = ApiError::new(ErrorCode::Unreachable, "the connection was lost before the server answered");
        self.end_asked(account, &lost.hint("try again"));
        if let Some(live) = self.live.get_mut(&account) {
            live.limits = Some(up.ready.limits.unwrap_or_default());
            live.up = up.number;
            live.packages_left = up.session.key_packages_left;
        }
        self.set_state(account, AccountState::Online, "");
        self.look_for_rotation(account);
        self.publish(account)?;
        self.share_presence(account);
        self.tell_blocks(account);
        self.list_devices(account);
        self.reidentify_in_groups(account)?;
        self.next_update = None;
        let chats: Vec<u32> = self.all_chats_of(account).map(|(number, _)| number).collect();
        for chat in chats {
            self.pump(account, chat)?;
        }
        Ok(())
    }

    pub(super) fn link_down(&mut self, account: u32, down: &Down) -> Result<(), Broken> {
        let state = match down.error.code {
            ErrorCode::LoggedOut => AccountState::LoggedOut,
            ErrorCode::ServerChanged | ErrorCode::UntrustedServer => AccountState::Untrusted,
            _ => AccountState::Offline,
        };
        if state == AccountState::LoggedOut {
            self.end_session(account)?;
        }
        self.end_asked(account, &down.error);
        let reason = match &down.error.hint {
            Some(hint) => format!("{} ({hint})", down.error.message),
            None => down.error.message.clone(),
        };
        self.set_state(account, state, &reason);
        self.end_lookups(account)?;
        if matches!(state, AccountState::LoggedOut | AccountState::Untrusted) {
            self.answer_sign_ins(account);
        }
        Ok(())
    }

    /// The connection is gone, and with it the requests that were under way on it.
    fn end_asked(&mut self, account: u32, error: &ApiError) {
        self.reset_work(account);
        let asked = self.live.get_mut(&account).map(Live::disconnect).unwrap_or_default();
        for waiting in asked.into_values() {
            match waiting.asked {
                Asked::Logout(call)
                | Asked::Devices(Some(call))
                | Asked::RenameDevice(call, _)
                | Asked::RevokeDevice(call, _)
                | Asked::Grant(call) => self.answer::<()>(call, Err(error.clone())),
                _ => {}
            }
        }
    }

    fn end_session(&mut self, account: u32) -> Result<(), Broken> {
        let Some(mut row) = self.store.tables().accounts.get(&account).cloned() else { return Ok(()) };
        row.token.clear();
        let mut write = Write::default();
        write.account(account, row);
        self.commit(write, account, Vec::new())
    }

    fn set_state(&mut self, account: u32, state: AccountState, reason: &str) {
        let Some(live) = self.live.get_mut(&account) else { return };
        if live.state == state && live.reason == reason {
            return;
        }
        live.state = state;
        reason.clone_into(&mut live.reason);
        let reason = (!reason.is_empty()).then(|| reason.to_owned());
        self.announce(account, EventKind::AccountState { state, reason });
    }

    /// Fills up the key packages that the server hands out for us.
    pub(super) fn publish(&mut self, account: u32) -> Result<(), Broken> {
        let Some(row) = self.store.tables().accounts.get(&account).cloned() else { return Ok(()) };
        let Some(live) = self.live.get_mut(&account).filter(|live| !live.publishing) else { return Ok(()) };
        let last_resort = self.now.saturating_sub(row.last_resort_at_ms) > LAST_RESORT_MS;
        let left = live.packages_left;
        if left >= FEW_KEY_PACKAGES && !last_resort {
            return Ok(());
        }
        live.publishing = true;
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        // What nobody has claimed for a week is replaced along with the last resort.
        let count = if last_resort { KEY_PACKAGES } else { KEY_PACKAGES.saturating_sub(left) } as usize;
        let made = transaction.key_packages(&live.device, count).and_then(|one_time| {
            let last = if last_resort { transaction.last_resort_key_package(&live.device)? } else { Vec::new() };
            Ok((one_time, last))
        });
        let (one_time, last) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "key packages could not be made");
                return Ok(());
            }
        };
        let mut write = Write::default();
        write.state(account, transaction.into_changes());
        self.commit(write, account, Vec::new())?;
        let one_time = one_time.into_iter().map(Into::into).collect();
        let body = Ask::PublishKeyPackages(v1::PublishKeyPackages { one_time, last_resort: last.into() });
        self.ask(account, Asked::Publish { last_resort }, body);
        Ok(())
    }

    /// A key package of ours was used: see to it that the server does not run out.
    pub(super) fn key_package_used(&mut self, account: u32) -> Result<(), Broken> {
        let Some(live) = self.live.get_mut(&account).filter(|live| live.is_up()) else { return Ok(()) };
        live.packages_left = live.packages_left.saturating_sub(1);
        self.publish(account)
    }

    fn tell_blocks(&mut self, account: u32) {
        let untold: Vec<(u32, AccountName, bool)> = self
            .contacts_of(account)
            .filter(|(_, row)| !row.block_told)
            .map(|(number, row)| (number, row.name.clone(), row.state == ContactState::Blocked))
            .collect();
        for (contact, name, blocked) in untold {
            let body = Ask::SetBlocked(v1::SetBlocked { account: name.to_string(), blocked });
            self.ask(account, Asked::Block { contact, blocked }, body);
        }
    }

    /// Tells the server whom we share presence with: contacts, nobody else.
    pub(super) fn share_presence(&mut self, account: u32) {
        let accounts = self
            .contacts_of(account)
            .filter(|(_, row)| row.state == ContactState::Accepted && !row.removed)
            .map(|(_, row)| row.name.to_string())
            .collect();
        self.ask(account, Asked::Share, Ask::SharePresence(v1::SharePresence { accounts }));
        self.tell_blocks(account);
    }

    /// A frame of the server's.
    pub(super) fn take_frame(&mut self, account: u32, frame: v1::ServerFrame) -> Result<(), Broken> {
        let Some(body) = frame.body else { return Ok(()) };
        if frame.request == 0 {
            return self.take_push(account, body);
        }
        let waiting = self.live.get_mut(&account).and_then(|live| live.asked.remove(&frame.request));
        match (waiting.map(|waiting| waiting.asked), body) {
            (None, _) => Ok(()),
            (Some(asked), Said::Failure(failure)) => self.take_failure(account, asked, &failure),
            (Some(asked), body) => self.take_answer(account, asked, body),
        }
    }

    fn take_push(&mut self, account: u32, body: Said) -> Result<(), Broken> {
        match body {
            Said::Joining(joining) => self.take_joining(account, joining),
            Said::Deliver(deliver) => self.take_deliver(account, deliver),
            Said::Delivered(delivered) => self.take_delivered(account, &delivered),
            Said::Closed(closed) => self.take_closed(account, &closed),
            Said::Unjoined(unjoined) => self.take_unjoined(account, &unjoined),
            Said::DevicesChanged(_) => {
                self.list_devices(account);
                Ok(())
            }
            Said::Presence(presence) => {
                self.take_presence(account, &presence);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_answer(&mut self, account: u32, asked: Asked, body: Said) -> Result<(), Broken> {
        match (asked, body) {
            (Asked::Publish { last_resort }, Said::KeyPackageCount(count)) => {
                self.published(account, last_resort, count.one_time)
            }
            (Asked::Lookup(name), Said::AccountInfo(info)) => {
                let Ok(key) = IdentityKey::from_der(&info.identity_key) else {
                    let error = ApiError::new(ErrorCode::Server, "the server named an identity key that is none");
                    return self.looked_up(account, &name, &Err(error));
                };
                if let Some(live) = self.live.get_mut(&account) {
                    live.directory.insert(name.clone(), key.to_der().to_vec());
                }
                self.settle_rotation(account, &name, &key)?;
                self.looked_up(account, &name, &Ok(()))
            }
            (Asked::Claim { chat, name }, Said::KeyPackages(packages)) => self.claimed(account, chat, name, packages),
            (Asked::CreateGroup { chat }, Said::Done(_)) => self.group_created(account, chat),
            (Asked::Handshake { chat, id }, Said::Accepted(accepted)) => {
                self.handshake_accepted(account, chat, id, &accepted)
            }
            (Asked::FetchGroup { chat }, Said::GroupState(found)) => self.group_fetched(account, chat, &found),
            (Asked::Devices(call), Said::Devices(devices)) => self.devices_listed(account, call, devices),
            (Asked::RenameDevice(call, device), Said::Done(_)) => self.device_renamed(account, call, device),
            (Asked::RevokeDevice(call, device), Said::Done(_)) => self.device_revoked(account, call, device),
            (Asked::Grant(call), Said::LinkGrant(grant)) => {
                self.granted(call, &grant);
                Ok(())
            }
            (Asked::Create { chat, conversation }, Said::Direct(direct)) => {
                self.created(account, chat, conversation, &direct)
            }
            (Asked::Submit { chat, conversation, messages }, Said::Accepted(accepted)) => {
                self.submitted(account, chat, conversation, &messages, &accepted)
            }
            (Asked::Block { contact, blocked }, Said::Done(_)) => self.block_told(account, contact, blocked),
            (Asked::Share, Said::Done(_)) => Ok(()),
            (Asked::Logout(call), Said::Done(_)) => self.logged_out(account, call),
            (asked, _) => {
                tracing::warn!("the server gave an answer of another kind");
                self.take_failure(account, asked, &v1::Failure::new(v1::Code::Internal, "an answer of another kind"))
            }
        }
    }

    fn take_failure(&mut self, account: u32, asked: Asked, failure: &v1::Failure) -> Result<(), Broken> {
        match asked {
            Asked::Lookup(name) => self.looked_up(account, &name, &Err(who_error(&name, failure))),
            Asked::Claim { chat, name } => self.claim_failed(account, chat, &name, failure),
            Asked::CreateGroup { chat } => self.group_not_created(account, chat, failure),
            Asked::Handshake { chat, id } => self.handshake_failed(account, chat, id, failure),
            Asked::FetchGroup { chat } => self.group_not_fetched(account, chat, failure),
            Asked::Create { chat, conversation } => self.create_failed(account, chat, conversation, failure),
            Asked::Submit { chat, conversation, messages } => {
                self.submit_failed(account, chat, conversation, &messages, failure)
            }
            Asked::Logout(call)
            | Asked::Devices(Some(call))
            | Asked::RenameDevice(call, _)
            | Asked::RevokeDevice(call, _)
            | Asked::Grant(call) => {
                self.answer::<()>(call, Err(api_error(failure)));
                Ok(())
            }
            Asked::Publish { .. } | Asked::Block { .. } | Asked::Share | Asked::Devices(None) => {
                tracing::warn!(error = api_error(failure).message, "the server refused a request");
                if let (Asked::Publish { .. }, Some(live)) = (asked, self.live.get_mut(&account)) {
                    live.publishing = false;
                }
                Ok(())
            }
        }
    }

    fn published(&mut self, account: u32, last_resort: bool, count: u32) -> Result<(), Broken> {
        if let Some(live) = self.live.get_mut(&account) {
            live.publishing = false;
            live.packages_left = count;
        }
        self.answer_sign_ins(account);
        let Some(mut row) = self.store.tables().accounts.get(&account).filter(|_| last_resort).cloned() else {
            return Ok(());
        };
        row.last_resort_at_ms = self.now;
        let mut write = Write::default();
        write.account(account, row);
        self.commit(write, account, Vec::new())
    }

    fn block_told(&mut self, account: u32, contact: u32, blocked: bool) -> Result<(), Broken> {
        let Some(mut row) = self.store.tables().contacts.get(&(account, contact)).cloned() else { return Ok(()) };
        if (row.state == ContactState::Blocked) != blocked {
            return Ok(());
        }
        row.block_told = true;
        let mut write = Write::default();
        write.contact(account, contact, Some(row));
        self.commit(write, account, Vec::new())
    }

    fn take_presence(&mut self, account: u32, presence: &v1::Presence) {
        let Ok(name) = presence.account.parse::<AccountName>() else { return };
        if self.contact_named(account, &name).is_none() {
            return;
        }
        if let Some(live) = self.live.get_mut(&account) {
            live.presence.insert(name.clone(), (presence.active, presence.since_ms));
        }
        let (active, since_ms) = (presence.active, presence.since_ms);
        self.announce(account, EventKind::Presence { contact: name.to_string(), active, since_ms });
    }
}

/// What to say when the server does not know somebody.
pub(super) fn who_error(name: &AccountName, failure: &v1::Failure) -> ApiError {
    match failure.code() {
        v1::Code::NotFound => ApiError::new(ErrorCode::NotFound, format!("there is no `{name}` on this server"))
            .hint("check the spelling; names are exact and in lower case"),
        v1::Code::Refused => ApiError::new(ErrorCode::Refused, format!("{name} does not accept messages from you")),
        _ => api_error(failure),
    }
}
