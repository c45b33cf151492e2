//! How a chat gets its conversation: made by us, joined on somebody's Welcome, replaced when a device changes.
//!
//! **Invariant**: a conversation carries messages only between identities that we go by; another identity holds the chat
//! until somebody trusts it.

use fastchat_e2ee::{CreateError, IdentityKey, JoinError, PeerPackages, Transaction};
use fastchat_ipc::{ContactState, EventKind, MessageState};
use fastchat_wire::{AccountName, Code, ConversationId, DeviceId, v1};
use prost::Message as _;
use uuid::Uuid;
use v1::client_frame::Body as Ask;

use crate::{
    link::api_error,
    store::{
        StoreError, Write,
        rows::{ChatRow, ContactRow, ConversationRow, OutboxRow},
    },
};

use super::{
    Broken, Core,
    live::Asked,
    outbox::held_reason,
    receive::{LAST_SEQ, Step},
    session::who_error,
};

/// Attempts to make a chat's conversation before a pause.
const ATTEMPTS: u32 = 5;
/// Pauses before the next try: doubled from the first to the longest.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 60_000;
/// A server's advice counts up to here.
const LONGEST_ADVICE_MS: u64 = 3_600_000;

impl Core {
    /// Begins to make a chat's conversation, or goes on with it.
    pub(super) fn establish(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        let Some(name) = self.contact_of_chat(account, chat).map(|row| row.name.clone()) else { return Ok(()) };
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
            let body = Ask::ClaimKeyPackages(v1::ClaimKeyPackages { account: name.to_string() });
            self.ask(account, Asked::Claim { chat }, body);
        }
        Ok(())
    }

    /// Key packages have come: the conversation is made with them.
    pub(super) fn claimed(&mut self, account: u32, chat: u32, packages: &v1::KeyPackages) -> Result<(), Broken> {
        self.work(account, chat).establishing = false;
        let Some((mut contact, row)) = self.contact_and_chat(account, chat) else { return Ok(()) };
        if row.conversation.is_some() {
            return self.pump(account, chat);
        }
        let Ok(identity) = IdentityKey::from_der(&packages.identity_key) else {
            let failure = v1::Failure::new(Code::Internal, "the server named an identity key that is none");
            return self.claim_failed(account, chat, &failure);
        };
        match &contact.identity {
            Some(known) if known.as_slice() != identity.to_der() => {
                return self.identity_changed(account, row.contact, identity.to_der());
            }
            Some(_) => {}
            None => contact.identity = Some(identity.to_der().to_vec()),
        }
        let conversation = ConversationId::generate();
        let created = match self.create(account, conversation, &contact.name, &identity, packages) {
            Ok(created) => created,
            Err(CreateError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                return Err(StoreError::Damaged);
            }
            Err(error) => {
                let text = format!("the server's key packages for {} are refused: {error}", contact.name);
                tracing::warn!(%error, "key packages refused");
                return self.fail_outbox(account, chat, &text);
            }
        };
        let (changes, mut frame) = created;
        frame.replaces = row.replaces.map_or_else(Default::default, ConversationId::to_wire);
        let mut write = Write::default();
        write.state(account, changes);
        write.creation(account, chat, Some(&frame.encode_to_vec()))?;
        write.contact(account, row.contact, Some(contact));
        // From the moment the server has it, its entries may come before its answer does.
        write.conversation(account, conversation, Some(ConversationRow::begun(chat, 0)));
        self.commit(write, account, Vec::new())?;
        self.establish(account, chat)
    }

    fn create(
        &self,
        account: u32,
        conversation: ConversationId,
        peer: &AccountName,
        identity: &IdentityKey,
        packages: &v1::KeyPackages,
    ) -> Result<(fastchat_e2ee::Changes, v1::CreateDirect), CreateError> {
        let live = self.live.get(&account).ok_or(CreateError::Devices)?;
        let devices: Vec<(Uuid, &[u8])> = packages
            .packages
            .iter()
            .filter_map(|package| Some((DeviceId::from_wire(&package.device).ok()?.0, package.key_package.as_ref())))
            .collect();
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let peer_packages = PeerPackages { account: peer.as_str(), identity, packages: &devices };
        let created = transaction.create_direct(&live.identity, &live.device, conversation.0, &peer_packages)?;
        let welcomes = created.welcomes.into_iter().map(|(device, welcome)| v1::Welcome {
            device: DeviceId(device).to_wire(),
            welcome: welcome.into(),
            friend_key: created.friend_key.clone().into(),
        });
        let frame = v1::CreateDirect {
            conversation: conversation.to_wire(),
            peer: peer.to_string(),
            epoch: created.epoch,
            welcomes: welcomes.collect(),
            replaces: bytes::Bytes::new(),
        };
        Ok((transaction.into_changes(), frame))
    }

    pub(super) fn claim_failed(&mut self, account: u32, chat: u32, failure: &v1::Failure) -> Result<(), Broken> {
        self.work(account, chat).establishing = false;
        if failure.code().is_temporary() {
            self.retry_later(account, chat, failure);
            return Ok(());
        }
        let Some(name) = self.contact_of_chat(account, chat).map(|row| row.name.clone()) else { return Ok(()) };
        self.fail_outbox(account, chat, &who_error(&name, failure).message)
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
        let Some((_, mut row)) = self.contact_and_chat(account, chat) else { return Ok(()) };
        let mut write = Write::default();
        write.creation(account, chat, None)?;
        let ours = direct.created || direct.conversation == conversation.to_wire();
        let mut go_on = true;
        if !ours {
            self.forget(&mut write, account, conversation);
            let Ok(other) = ConversationId::from_wire(&direct.conversation) else { return Ok(()) };
            // One that we cannot use is replaced; any other one's Joining is on its way or here already.
            go_on = !direct.member || self.is_closed(account, other);
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
        let Some((contact, mut row)) = self.contact_and_chat(account, chat) else { return Ok(()) };
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
            Code::Invalid | Code::Conflict | Code::NoKeyPackages => self.establish(account, chat),
            _ => self.fail_outbox(account, chat, &who_error(&contact.name, failure).message),
        }
    }

    /// Somebody made a conversation with us.
    pub(super) fn take_joining(&mut self, account: u32, joining: v1::Joining) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&joining.conversation) else { return Ok(()) };
        if self.store.tables().conversations.contains_key(&(account, id)) {
            self.acknowledge(account, id);
            return Ok(());
        }
        if !self.store.has_room() {
            return self.stall(account);
        }
        let (Ok(creator), Ok(identity)) =
            (joining.creator.parse::<AccountName>(), IdentityKey::from_der(&joining.creator_identity_key))
        else {
            tracing::warn!("the server sent a Welcome without a creator");
            return Ok(());
        };
        if joining.start_seq > LAST_SEQ
            || self.store.tables().accounts.get(&account).is_none_or(|row| row.name == creator)
        {
            tracing::warn!("the server sent a Welcome that cannot be: of ourselves, or beyond the end of a log");
            return Ok(());
        }
        let (number, contact) = self.contact_for(account, &creator, ContactState::Request);
        if contact.identity.as_deref().is_some_and(|known| known != identity.to_der()) {
            if let Some(live) = self.live.get_mut(&account) {
                live.hold(creator, joining);
            }
            return self.identity_changed(account, number, identity.to_der());
        }
        self.join(account, id, number, contact, &identity, &joining)
    }

    fn join(
        &mut self,
        account: u32,
        id: ConversationId,
        number: u32,
        mut contact: ContactRow,
        identity: &IdentityKey,
        joining: &v1::Joining,
    ) -> Result<(), Broken> {
        let Some(live) = self.live.get(&account) else { return Ok(()) };
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let welcome = joining.welcome.clone().unwrap_or_default();
        let creator = (contact.name.as_str(), identity);
        let joined =
            transaction.join_direct(&live.identity, &live.device, id.0, creator, &welcome.welcome, &welcome.friend_key);
        let changes = transaction.into_changes();
        if let Err(JoinError::Store(error)) = &joined {
            tracing::error!(%error, "the encryption state cannot be read");
            return Err(StoreError::Damaged);
        }
        contact.identity.get_or_insert_with(|| identity.to_der().to_vec());
        let (chat_number, chat) = self.chat_for(account, number, &mut contact);
        let conversation = ConversationRow::begun(chat_number, joining.start_seq);
        let mut step = Step::new(account, id, conversation, chat, contact);
        step.events.push(EventKind::ChatChanged { chat: step.chat.id.clone() });
        step.events.push(EventKind::ContactChanged { contact: step.contact.name.to_string() });
        match joined {
            Ok(_) => {
                step.write.state(account, changes);
                let old = step.chat.conversation.replace(id);
                step.chat.replaces = None;
                // The server may have closed the one before already.
                let former = ConversationId::from_wire(&joining.replaces).ok();
                if old.or(former).is_some_and(|id| self.store.tables().conversations.contains_key(&(account, id))) {
                    let name = step.contact.name.to_string();
                    let text =
                        format!("the encrypted conversation with {name} begins anew, as after a change of device");
                    step.notice(self.now, text)?;
                }
                let mut chat = step.chat.clone();
                self.close(&mut step.write, account, chat_number, old, &mut chat)?;
                step.chat = chat;
            }
            Err(error) => {
                step.conversation.closed = true;
                step.chat.replaces = Some(id);
                step.notice(self.now, format!("an encrypted conversation was offered and refused: {error}"))?;
            }
        }
        self.commit_joining(step)?;
        self.work(account, chat_number).retry_at = 0;
        self.acknowledge(account, id);
        self.key_package_used(account)?;
        self.pump(account, chat_number)
    }

    /// The account's next numbers move on with the rows that took them.
    fn commit_joining(&mut self, mut step: Step) -> Result<(), Broken> {
        if let Some(mut row) = self.store.tables().accounts.get(&step.account).cloned() {
            row.next_contact = row.next_contact.max(step.chat.contact + 1);
            row.next_chat = row.next_chat.max(step.conversation.chat + 1);
            step.write.account(step.account, row);
        }
        self.finish(step)
    }

    pub(super) fn take_closed(&mut self, account: u32, closed: &v1::Closed) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&closed.conversation) else { return Ok(()) };
        // The server says it on every connection.
        let open = self.store.tables().conversations.get(&(account, id)).filter(|row| !row.closed);
        let Some(chat) = open.map(|row| row.chat) else { return Ok(()) };
        self.leave(account, chat, id)?;
        self.pump(account, chat)
    }

    /// Nothing more goes into a conversation; what the other side may not have got goes into the next one.
    pub(super) fn leave(&mut self, account: u32, chat: u32, id: ConversationId) -> Result<(), Broken> {
        let Some((_, mut row)) = self.contact_and_chat(account, chat) else { return Ok(()) };
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
    fn close(
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
        let contact = self.store.tables().contacts.get(&(account, chat_row.contact));
        let held = contact.filter(|contact| contact.changed_identity.is_some());
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
                    error: held.map_or_else(String::new, |contact| held_reason(contact.name.as_str())),
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

    fn forget(&self, write: &mut Write, account: u32, conversation: ConversationId) {
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
            }
        }
        due.into_iter().try_for_each(|(account, chat)| self.pump(account, chat))
    }
}

impl ConversationRow {
    fn begun(chat: u32, cursor: u64) -> Self {
        Self { chat, cursor, sent_counter: 0, peer_counter: 0, peer_delivered: 0, closed: false }
    }
}
