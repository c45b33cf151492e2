//! How a chat with one account gets its conversation: made by us, replaced when a device changes.
//!
//! **Invariant**: a conversation carries messages only between identities that we go by; another identity holds the chat
//! until somebody trusts it.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_e2ee::{CreateError, IdentityKey, PeerPackages, Transaction, WelcomeFor};
use fastchat_ipc::{ApiError, ErrorCode, EventKind, MessageState};
use fastchat_wire::{AccountName, Code, ConversationId, DeviceId, v1};
use prost::Message as _;
use uuid::Uuid;
use v1::client_frame::Body as Ask;

use crate::{
    fault,
    link::api_error,
    store::{
        StoreError, Write,
        rows::{ChatRow, ConversationRow, OutboxRow, Peer},
    },
};

use super::{
    Broken, Core,
    live::{Asked, Claims, Live},
    outbox::held_reason,
    session::who_error,
};

/// Attempts to make a chat's conversation before a pause.
const ATTEMPTS: u32 = 5;
/// Attempts after which somebody else's conversation, whose Welcome has not come, is replaced.
const JOINING_AWAITED: u32 = 3;
/// Pauses before the next try: doubled from the first to the longest.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 60_000;
/// A server's advice counts up to here.
const LONGEST_ADVICE_MS: u64 = 3_600_000;

impl Core {
    /// Begins to make a chat's conversation, or goes on with it.
    pub(super) fn establish(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        let Some(name) = self.counterpart(account, chat) else { return Ok(()) };
        let own = self.own_account_name(account).filter(|_| self.live.get(&account).is_some_and(Live::has_siblings));
        let later = self.now + LONGEST_PAUSE_MS;
        let work = self.work(account, chat);
        if work.establishing {
            return Ok(());
        }
        if work.attempts >= ATTEMPTS {
            tracing::warn!("a conversation could not be made in {ATTEMPTS} attempts; a minute's pause");
            (work.attempts, work.retry_at) = (0, later);
            return Ok(());
        }
        work.attempts += 1;
        work.establishing = true;
        if let Some(frame) = self.store.creation(account, chat)? {
            let create = v1::CreateDirect::decode(frame.as_slice()).map_err(|_| StoreError::Damaged)?;
            let conversation = ConversationId::from_wire(&create.conversation).map_err(|_| StoreError::Damaged)?;
            self.ask(account, Asked::Create { chat, conversation }, Ask::CreateDirect(create));
        } else {
            self.claim(account, chat, 0, [name].into_iter().chain(own).collect());
        }
        Ok(())
    }

    /// The other side of a chat with one account; our own name for the chat of our own devices.
    fn counterpart(&self, account: u32, chat: u32) -> Option<AccountName> {
        match self.store.tables().chats.get(&(account, chat))?.peer {
            Peer::Contact(_) => self.contact_of_chat(account, chat).map(|contact| contact.name.clone()),
            Peer::Own => self.own_account_name(account),
            Peer::Group => None,
        }
    }

    pub(super) fn own_account_name(&self, account: u32) -> Option<AccountName> {
        self.store.tables().accounts.get(&account).map(|row| row.name.clone())
    }

    /// Asks for key packages of all devices of some accounts.
    pub(super) fn claim(&mut self, account: u32, chat: u32, task: u64, wanted: BTreeSet<AccountName>) {
        for name in &wanted {
            let body = Ask::ClaimKeyPackages(v1::ClaimKeyPackages { account: name.to_string() });
            self.ask(account, Asked::Claim { chat, name: name.clone() }, body);
        }
        self.work(account, chat).claims = Some(Claims { task, wanted, ..Claims::default() });
    }

    /// Key packages have come. When all are there, they are used.
    pub(super) fn claimed(
        &mut self,
        account: u32,
        chat: u32,
        name: AccountName,
        packages: v1::KeyPackages,
    ) -> Result<(), Broken> {
        let work = self.work(account, chat);
        let Some(claims) = work.claims.as_mut().filter(|claims| claims.wanted.contains(&name)) else { return Ok(()) };
        claims.got.insert(name, packages);
        if !claims.is_complete() {
            return Ok(());
        }
        if claims.task > 0 {
            return self.pump(account, chat);
        }
        let claims = work.claims.take().unwrap_or_default();
        self.make_direct(account, chat, &claims.got)
    }

    /// The direct conversation is made with the key packages of both sides' devices.
    fn make_direct(
        &mut self,
        account: u32,
        chat: u32,
        got: &BTreeMap<AccountName, v1::KeyPackages>,
    ) -> Result<(), Broken> {
        fault::point("direct-claimed");
        self.work(account, chat).establishing = false;
        let (Some(row), Some(name)) = (self.chat_row(account, chat), self.counterpart(account, chat)) else {
            return Ok(());
        };
        if row.conversation.is_some() {
            return self.pump(account, chat);
        }
        let Some(packages) = got.get(&name) else { return Ok(()) };
        let Ok(identity) = IdentityKey::from_der(&packages.identity_key) else {
            let failure = v1::Failure::new(Code::Internal, "the server named an identity key that is none");
            return self.claim_failed(account, chat, &name, &failure);
        };
        if row.peer == Peer::Own && self.live.get(&account).is_none_or(|live| *live.identity.public() != identity) {
            let failure = v1::Failure::new(Code::Internal, "the server names another identity for this very account");
            self.retry_later(account, chat, &failure);
            return Ok(());
        }
        let mut contact = self.contact_of_chat(account, chat).cloned();
        if let (Some(contact), Peer::Contact(number)) = (&mut contact, row.peer) {
            let known = self.known_fingerprint(account, &name);
            if known.is_some_and(|known| known != identity.fingerprint()) {
                return self.identity_changed(account, number, identity.to_der());
            }
            contact.identity.get_or_insert_with(|| identity.to_der().to_vec());
        }
        let conversation = ConversationId::generate();
        let created = match self.create(account, conversation, (&name, &identity), got) {
            Ok(created) => created,
            Err(CreateError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                return Err(StoreError::Damaged);
            }
            Err(error) => {
                let text = format!("the server's key packages for {name} are refused: {error}");
                tracing::warn!(%error, "key packages refused");
                return self.fail_outbox(account, chat, &text);
            }
        };
        let (changes, mut frame) = created;
        frame.replaces = row.replaces.map_or_else(Default::default, ConversationId::to_wire);
        let mut write = Write::default();
        write.state(account, changes);
        write.creation(account, chat, Some(&frame.encode_to_vec()))?;
        if let (Peer::Contact(number), Some(contact)) = (row.peer, contact) {
            write.contact(account, number, Some(contact));
        }
        // From the moment the server has it, its entries may come before its answer does.
        let begun = ConversationRow { epoch: frame.epoch, ..self.begun(account, chat, conversation, 0) };
        write.conversation(account, conversation, Some(begun));
        self.commit(write, account, Vec::new())?;
        fault::point("direct-stored");
        self.establish(account, chat)
    }

    fn create(
        &self,
        account: u32,
        conversation: ConversationId,
        (peer, identity): (&AccountName, &IdentityKey),
        got: &BTreeMap<AccountName, v1::KeyPackages>,
    ) -> Result<(fastchat_e2ee::Changes, v1::CreateDirect), CreateError> {
        let live = self.live.get(&account).ok_or(CreateError::Devices)?;
        let of = |name: &AccountName| got.get(name).map(devices_and_packages).unwrap_or_default();
        let own_name = self.own_account_name(account);
        let mut own = own_name.filter(|own| own != peer).map(|own| of(&own)).unwrap_or_default();
        let mut theirs = of(peer);
        // Devices have ids of their own over all accounts.
        let revoked = self.store.tables().accounts.get(&account).map(|row| row.revoked.as_slice()).unwrap_or_default();
        let good = |(device, _): &(Uuid, &[u8])| !revoked.contains(&DeviceId(*device));
        own.retain(good);
        theirs.retain(good);
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let peer_packages = PeerPackages { account: peer.as_str(), identity, packages: &theirs };
        let created = transaction.create_direct(&live.identity, &live.device, conversation.0, &peer_packages, &own)?;
        let frame = v1::CreateDirect {
            conversation: conversation.to_wire(),
            peer: peer.to_string(),
            epoch: created.epoch,
            welcomes: created.welcomes.into_iter().map(wire_welcome).collect(),
            replaces: bytes::Bytes::new(),
            group_info: created.group_info.into(),
        };
        Ok((transaction.into_changes(), frame))
    }

    pub(super) fn claim_failed(
        &mut self,
        account: u32,
        chat: u32,
        name: &AccountName,
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        let work = self.work(account, chat);
        work.establishing = false;
        let Some(claims) = work.claims.take() else { return Ok(()) };
        if claims.task > 0 {
            return self.task_claim_failed(account, chat, claims.task, name, failure);
        }
        if failure.code().is_temporary() {
            self.retry_later(account, chat, failure);
            return Ok(());
        }
        self.fail_outbox(account, chat, &who_error(name, failure).message)
    }

    /// Key packages for a group are not to be had. What else goes on in the chat does not wait for that.
    fn task_claim_failed(
        &mut self,
        account: u32,
        chat: u32,
        task: u64,
        name: &AccountName,
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        let error = match failure.code() {
            Code::NoKeyPackages => {
                let text = format!("{name} has no device that could be added now");
                ApiError::new(ErrorCode::Refused, text).hint(format!("try again when {name} is logged in somewhere"))
            }
            code if code.is_temporary() => {
                let advice = u64::from(failure.retry_after_ms).clamp(LONGEST_PAUSE_MS / 4, LONGEST_ADVICE_MS);
                self.work(account, chat).claim_at = self.now + advice;
                return self.pump(account, chat);
            }
            _ => who_error(name, failure),
        };
        self.claim_refused(account, chat, task, name, &error)?;
        self.pump(account, chat)
    }

    /// The server has answered a creation: ours counts, or another one does.
    pub(super) fn created(
        &mut self,
        account: u32,
        chat: u32,
        conversation: ConversationId,
        direct: &v1::Direct,
    ) -> Result<(), Broken> {
        self.work(account, chat).establishing = false;
        let Some(mut row) = self.chat_row(account, chat) else { return Ok(()) };
        let mut write = Write::default();
        write.creation(account, chat, None)?;
        let ours = direct.created || direct.conversation == conversation.to_wire();
        let mut go_on = true;
        if !ours {
            self.forget(&mut write, account, conversation);
            let Ok(other) = ConversationId::from_wire(&direct.conversation) else { return Ok(()) };
            // One that we cannot use is replaced; any other one's Joining is on its way or here already. It does not come
            // for ever: then this device has refused it once.
            let unknown = !self.store.tables().conversations.contains_key(&(account, other));
            let now = self.now;
            let work = self.work(account, chat);
            let waited = work.attempts > JOINING_AWAITED;
            if unknown && !waited {
                work.retry_at = now + FIRST_PAUSE_MS;
            }
            go_on = !direct.member || (unknown && waited) || self.is_closed(account, other);
            if go_on {
                row.replaces = Some(other);
            }
        } else if row.conversation.is_some_and(|newer| newer != conversation) {
            self.end(&mut write, account, conversation);
        } else if self.is_closed(account, conversation) {
            // Its end has come before this answer.
            row.replaces = Some(conversation);
        } else {
            row.conversation = Some(conversation);
            row.replaces = None;
        }
        let events = vec![EventKind::ChatChanged { chat: row.id.clone() }];
        write.chat(account, chat, Some(row));
        self.commit(write, account, events)?;
        fault::point("direct-answered");
        if go_on { self.pump(account, chat) } else { Ok(()) }
    }

    /// A conversation that was begun under another identity is not asked for any more; if the server has made it, it is
    /// replaced.
    pub(super) fn drop_creation(&self, write: &mut Write, account: u32, chat: u32) -> Result<(), Broken> {
        let Some(frame) = self.store.creation(account, chat)? else { return Ok(()) };
        let create = v1::CreateDirect::decode(frame.as_slice()).map_err(|_| StoreError::Damaged)?;
        let conversation = ConversationId::from_wire(&create.conversation).map_err(|_| StoreError::Damaged)?;
        self.end(write, account, conversation);
        write.creation(account, chat, None)
    }

    fn is_closed(&self, account: u32, id: ConversationId) -> bool {
        self.store.tables().conversations.get(&(account, id)).is_some_and(|row| row.closed)
    }

    /// Nothing of ours went into a conversation, and nothing will; what others wrote into it can still be read.
    fn end(&self, write: &mut Write, account: u32, id: ConversationId) {
        if let Some(row) = self.store.tables().conversations.get(&(account, id)).cloned() {
            write.conversation(account, id, Some(ConversationRow { closed: true, ..row }));
        }
    }

    pub(super) fn create_failed(
        &mut self,
        account: u32,
        chat: u32,
        conversation: ConversationId,
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        self.work(account, chat).establishing = false;
        if failure.code().is_temporary() && failure.code() != Code::NoKeyPackages {
            self.retry_later(account, chat, failure);
            return Ok(());
        }
        let (Some(mut row), Some(name)) = (self.chat_row(account, chat), self.counterpart(account, chat)) else {
            return Ok(());
        };
        let mut write = Write::default();
        match failure.code() {
            // A try whose answer was lost may have made it: it is asked for again when somebody wants it.
            Code::Refused | Code::NotFound => {}
            // It was made, and has ended since.
            Code::Conflict => {
                write.creation(account, chat, None)?;
                self.end(&mut write, account, conversation);
                row.replaces = Some(conversation);
                write.chat(account, chat, Some(row));
            }
            _ => {
                write.creation(account, chat, None)?;
                self.forget(&mut write, account, conversation);
            }
        }
        self.commit(write, account, Vec::new())?;
        match failure.code() {
            // The peer's devices are others by now, or the conversation has ended: begin anew.
            Code::Invalid | Code::Conflict | Code::NoKeyPackages | Code::RosterMismatch => {
                self.list_devices(account);
                self.establish(account, chat)
            }
            _ => self.fail_outbox(account, chat, &who_error(&name, failure).message),
        }
    }

    pub(super) fn take_closed(&mut self, account: u32, closed: &v1::Closed) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&closed.conversation) else { return Ok(()) };
        // The server says it on every connection.
        let open = self.store.tables().conversations.get(&(account, id)).filter(|row| !row.closed);
        let Some(chat) = open.map(|row| row.chat) else { return Ok(()) };
        // How a group ends for us, its log says; what stands there before that is ours to read.
        if self.chat_row(account, chat).is_some_and(|row| row.peer == Peer::Group) {
            return Ok(());
        }
        self.end_conversation(account, chat, id)?;
        self.pump(account, chat)
    }

    /// Nothing more goes into a conversation; what the other side may not have got goes into the next one.
    pub(super) fn leave(&mut self, account: u32, chat: u32, id: ConversationId) -> Result<(), Broken> {
        let Some(mut row) = self.chat_row(account, chat) else { return Ok(()) };
        if row.conversation == Some(id) {
            row.conversation = None;
            row.replaces = Some(id);
        }
        let mut write = Write::default();
        self.close(&mut write, account, chat, Some(id), &mut row)?;
        let events = vec![EventKind::ChatChanged { chat: row.id.clone() }];
        write.chat(account, chat, Some(row));
        self.commit(write, account, events)
    }

    /// Closes a conversation that another one follows. Messages that were not delivered through it go back to the
    /// outbox under their ids, before those that wait there: whoever has them already does not show them again.
    pub(super) fn close(
        &self,
        write: &mut Write,
        account: u32,
        chat: u32,
        old: Option<ConversationId>,
        chat_row: &mut ChatRow,
    ) -> Result<(), Broken> {
        let Some(old) = old else { return Ok(()) };
        let Some(mut row) = self.store.tables().conversations.get(&(account, old)).cloned() else { return Ok(()) };
        if row.closed {
            return Ok(());
        }
        let held = self.changed_people(account, chat).into_iter().next();
        let mut waiting = Vec::new();
        for (seq, position) in self.store.undelivered(account, old, u64::MAX)? {
            write.undelivered(account, old, seq, None)?;
            if let Some(message) = self.store.message(account, chat, position)? {
                write.remove_message(account, chat, position, message.id);
                waiting.push(OutboxRow {
                    id: message.id,
                    written_at_ms: message.sent_at_ms,
                    state: if held.is_some() { MessageState::Held } else { MessageState::Queued },
                    text: message.text,
                    sync: Vec::new(),
                    error: held.as_ref().map_or_else(String::new, |name| held_reason(name.as_str())),
                    sealed: None,
                });
            }
        }
        for record in self.store.outbox(account, chat) {
            let (number, mut message) = record?;
            write.outbox(account, chat, number, None)?;
            if message.sealed.as_ref().is_some_and(|sealed| sealed.conversation == old) {
                message.sealed = None;
            }
            waiting.push(message);
        }
        for message in waiting {
            write.outbox(account, chat, chat_row.next_outbox, Some(&message))?;
            chat_row.next_outbox += 1;
        }
        row.closed = true;
        write.conversation(account, old, Some(row));
        Ok(())
    }

    pub(super) fn forget(&self, write: &mut Write, account: u32, conversation: ConversationId) {
        write.conversation(account, conversation, None);
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        match transaction.forget(conversation.0) {
            Ok(()) => write.state(account, transaction.into_changes()),
            Err(error) => tracing::warn!(%error, "the state of an unused conversation could not be removed"),
        }
    }

    /// Comes back to a chat later: when the server advises, else after pauses that double.
    pub(super) fn retry_later(&mut self, account: u32, chat: u32, failure: &v1::Failure) {
        tracing::info!(error = api_error(failure).message, "the server asks to come again later");
        let now = self.now;
        let work = self.work(account, chat);
        let pause = (FIRST_PAUSE_MS << work.pauses.min(6)).min(LONGEST_PAUSE_MS);
        work.pauses += 1;
        work.attempts = 0;
        // A device that has just been set up publishes its key packages in a moment: no advice fits that.
        let advice = if failure.code() == Code::NoKeyPackages { 0 } else { u64::from(failure.retry_after_ms) };
        work.retry_at = now + advice.max(pause).min(LONGEST_ADVICE_MS);
    }

    /// Tries again what waited for its time.
    pub(super) fn retry_due(&mut self) -> Result<(), Broken> {
        let mut due = Vec::new();
        for (key, work) in &mut self.work {
            if work.retry_at > 0 && work.retry_at <= self.now {
                work.retry_at = 0;
                due.push(*key);
            } else if work.claim_at > 0 && work.claim_at <= self.now {
                work.claim_at = 0;
                due.push(*key);
            } else if work.take_in_at > 0 && work.take_in_at <= self.now {
                work.take_in_at = 0;
                due.push(*key);
            }
        }
        due.into_iter().try_for_each(|(account, chat)| self.pump(account, chat))
    }
}

/// The devices and key packages of a server's answer.
pub(super) fn devices_and_packages(packages: &v1::KeyPackages) -> Vec<(Uuid, &[u8])> {
    let packages = packages.packages.iter();
    packages
        .filter_map(|package| Some((DeviceId::from_wire(&package.device).ok()?.0, package.key_package.as_ref())))
        .collect()
}

pub(super) fn wire_welcome(welcome: WelcomeFor) -> v1::Welcome {
    v1::Welcome {
        device: DeviceId(welcome.device).to_wire(),
        welcome: welcome.welcome.into(),
        join_key: welcome.join_key.into(),
    }
}
