//! What comes out of a conversation's log: entries, in order, each in one commit with the state that it changed.
//!
//! **Invariant**: the cursor moves over every entry exactly once. What cannot be opened becomes a visible mark in the
//! history and never blocks what comes after it.

use fastchat_e2ee::{Body, IdentityKey, OpenError, Opened, Transaction};
use fastchat_ipc::{ContactState, EventKind, MessageKind, MessageState};
use fastchat_wire::{ConversationId, MessageId, v1};
use v1::client_frame::Body as Ask;

use crate::{
    api::{Alert, Notice},
    store::{
        StoreError, Write,
        rows::{ChatRow, ContactRow, ConversationRow, MessageRow},
    },
};

use super::{Action, Broken, Core};

/// No log is longer; counting on from here cannot overflow.
pub(super) const LAST_SEQ: u64 = i64::MAX.unsigned_abs();

/// The newest messages among which the one to notify of is looked for.
const LOOKED_AT: usize = 32;

/// The records that one entry changes.
pub(super) struct Step {
    pub(super) account: u32,
    pub(super) id: ConversationId,
    pub(super) conversation: ConversationRow,
    pub(super) chat: ChatRow,
    pub(super) contact: ContactRow,
    pub(super) write: Write,
    pub(super) events: Vec<EventKind>,
    /// Somebody's message is new to the person.
    news: bool,
}

impl Core {
    pub(super) fn take_deliver(&mut self, account: u32, deliver: v1::Deliver) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&deliver.conversation) else { return Ok(()) };
        if deliver.expired_through > LAST_SEQ || deliver.entries.iter().any(|entry| entry.seq > LAST_SEQ) {
            tracing::warn!("the server delivered something from beyond the end of a log");
            return Ok(());
        }
        if !self.store.tables().conversations.contains_key(&(account, id)) {
            if let Some(live) = self.live.get_mut(&account) {
                live.hold_deliver(deliver);
            }
            return Ok(());
        }
        if !self.store.has_room() {
            return self.stall(account);
        }
        self.take_expiry(account, id, deliver.expired_through)?;
        let mut news = None;
        for entry in deliver.entries {
            if let Some(chat) = self.take_entry(account, id, entry)? {
                news = Some(chat);
            }
        }
        if let Some(chat) = news {
            self.alert(account, chat)?;
        }
        self.acknowledge(account, id);
        Ok(())
    }

    pub(super) fn acknowledge(&mut self, account: u32, id: ConversationId) {
        let Some(row) = self.store.tables().conversations.get(&(account, id)) else { return };
        let body = Ask::Ack(v1::Ack { conversation: id.to_wire(), seq: row.cursor });
        self.tell(account, body);
    }

    fn take_expiry(&mut self, account: u32, id: ConversationId, through: u64) -> Result<(), Broken> {
        let Some(mut step) = self.step_in(account, id) else { return Ok(()) };
        if through <= step.conversation.cursor {
            return Ok(());
        }
        let missing = through - step.conversation.cursor;
        step.conversation.cursor = through;
        step.notice(
            self.now,
            format!("{missing} messages were removed by the server before this device came for them"),
        )?;
        self.finish(step)
    }

    /// One entry. Gives the chat if there is something new to read.
    fn take_entry(&mut self, account: u32, id: ConversationId, entry: v1::Entry) -> Result<Option<u32>, Broken> {
        let Some(mut step) = self.step_in(account, id) else { return Ok(None) };
        let Some(missing) = entry.seq.checked_sub(step.conversation.cursor + 1) else { return Ok(None) };
        if missing > 0 {
            step.notice(self.now, format!("the server left out {missing} entries here"))?;
        }
        step.conversation.cursor = entry.seq;
        let own = self.live.get(&account).is_some_and(|live| entry.device == live.device.id().as_bytes().as_slice());
        match MessageId::from_wire(&entry.message_id) {
            Ok(message) if own => self.take_own(&mut step, &entry, message)?,
            Ok(message) => self.take_foreign(&mut step, &entry, message)?,
            Err(_) => step.notice(self.now, "the server delivered an entry without an id".into())?,
        }
        let news = step.news.then_some(step.conversation.chat);
        self.finish(step)?;
        Ok(news)
    }

    /// A message of ours has come to stand in the log.
    pub(super) fn take_own(&mut self, step: &mut Step, entry: &v1::Entry, id: MessageId) -> Result<(), Broken> {
        let (account, chat) = (step.account, step.conversation.chat);
        // The log keeps our order: what comes back is at the front.
        let found = self.store.outbox(account, chat).find(|row| row.as_ref().map_or(true, |(_, row)| row.id == id));
        let Some((number, row)) = found.transpose()? else {
            if self.store.position_of(account, chat, id)?.is_none() {
                step.unreadable(self.now, id, "the server shows an entry as ours that this device did not send")?;
            }
            return Ok(());
        };
        if row.sealed.as_ref().is_none_or(|sealed| sealed.conversation != step.id) {
            // This conversation has ended for us, and the message goes out (again) through the one that follows it.
            return Ok(());
        }
        let delivered = entry.seq <= step.conversation.peer_delivered;
        let state = if delivered { MessageState::Delivered } else { MessageState::Sent };
        let position = step.append(&MessageRow {
            id,
            mine: true,
            sent_at_ms: row.written_at_ms,
            accepted_at_ms: entry.server_time_ms,
            kind: MessageKind::Text,
            state,
            text: row.text,
        })?;
        step.write.outbox(account, chat, number, None)?;
        self.work(account, chat).accepted.remove(&number);
        if !delivered {
            step.write.undelivered(account, step.id, entry.seq, Some(position))?;
        }
        step.events.push(EventKind::MessageState { chat: step.chat.id.clone(), id: id.to_string(), state });
        Ok(())
    }

    /// An entry of somebody else's.
    fn take_foreign(&mut self, step: &mut Step, entry: &v1::Entry, id: MessageId) -> Result<(), Broken> {
        let opened = match self.open_entry(step, entry, id)? {
            Ok(opened) => opened,
            Err(why) => {
                if self.store.position_of(step.account, step.conversation.chat, id)?.is_none() {
                    step.unreadable(self.now, id, &why)?;
                } else {
                    step.notice(
                        self.now,
                        format!("the server delivered something under the id of another message: {why}"),
                    )?;
                }
                return Ok(());
            }
        };
        let missing = opened.content.counter.saturating_sub(step.conversation.peer_counter + 1);
        if missing > 0 {
            let name = step.contact.name.to_string();
            step.notice(
                self.now,
                format!("{missing} messages of {name} are missing here: the server did not deliver them"),
            )?;
        }
        step.conversation.peer_counter = opened.content.counter.max(step.conversation.peer_counter);
        if self.has_shown(step, id, opened.content.body.is_some())? {
            return Ok(());
        }
        let (kind, text) = match opened.content.body {
            Some(Body::Text(text)) => (MessageKind::Text, text.text),
            None => {
                (MessageKind::Unreadable, "a newer version of FastChat sent something that this one cannot show".into())
            }
        };
        step.append(&MessageRow {
            id,
            mine: false,
            sent_at_ms: opened.content.sent_at_ms,
            accepted_at_ms: entry.server_time_ms,
            kind,
            state: MessageState::Received,
            text,
        })?;
        step.received(id);
        Ok(())
    }

    /// Whether the history has a message. A mark in its place does not count for a message that can be read: the server
    /// could have put it there first.
    fn has_shown(&self, step: &Step, id: MessageId, readable: bool) -> Result<bool, Broken> {
        let (account, chat) = (step.account, step.conversation.chat);
        let Some(position) = self.store.position_of(account, chat, id)? else { return Ok(false) };
        let row = self.store.message(account, chat, position)?;
        Ok(row.is_some_and(|row| !readable || row.kind != MessageKind::Unreadable))
    }

    /// Opens an entry; on success its ratchet step is in the step's records. `Err` inside says why it does not open.
    fn open_entry(&self, step: &mut Step, entry: &v1::Entry, id: MessageId) -> Result<Result<Opened, String>, Broken> {
        if entry.kind() != v1::EntryKind::Application {
            return Ok(Err("an entry of a kind that this version does not know".into()));
        }
        let state = self.store.state(step.account);
        let mut transaction = Transaction::new(&state);
        let contact = &step.contact;
        let identity_of = |account: &str| {
            let key = contact.identity.as_ref().filter(|_| account == contact.name.as_str())?;
            IdentityKey::from_der(key).ok()
        };
        match transaction.open(step.id.0, id.0, &entry.payload, &identity_of) {
            Ok(opened) if opened.account != contact.name.as_str() => Ok(Err("it is from somebody else".into())),
            Ok(opened) if opened.content.counter <= step.conversation.peer_counter => {
                Ok(Err("it is out of its order".into()))
            }
            Ok(opened) => {
                step.write.state(step.account, transaction.into_changes());
                Ok(Ok(opened))
            }
            Err(OpenError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                Err(StoreError::Damaged)
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    pub(super) fn take_delivered(&mut self, account: u32, delivered: &v1::Delivered) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&delivered.conversation) else { return Ok(()) };
        let Some(mut step) = self.step_in(account, id) else { return Ok(()) };
        if delivered.account != step.contact.name.as_str() || delivered.seq <= step.conversation.peer_delivered {
            return Ok(());
        }
        step.conversation.peer_delivered = delivered.seq;
        for (seq, position) in self.store.undelivered(account, id, delivered.seq)? {
            step.write.undelivered(account, id, seq, None)?;
            if let Some(mut row) = self.store.message(account, step.conversation.chat, position)? {
                row.state = MessageState::Delivered;
                step.write.message(account, step.conversation.chat, position, &row)?;
                let (chat, id) = (step.chat.id.clone(), row.id.to_string());
                step.events.push(EventKind::MessageState { chat, id, state: MessageState::Delivered });
            }
        }
        self.finish(step)
    }

    /// The rows around a conversation, to be changed together.
    pub(super) fn step_in(&self, account: u32, id: ConversationId) -> Option<Step> {
        let tables = self.store.tables();
        let conversation = tables.conversations.get(&(account, id))?.clone();
        let chat = tables.chats.get(&(account, conversation.chat))?.clone();
        let contact = tables.contacts.get(&(account, chat.contact))?.clone();
        Some(Step::new(account, id, conversation, chat, contact))
    }

    pub(super) fn finish(&mut self, step: Step) -> Result<(), Broken> {
        let Step { account, id, conversation, chat, contact, mut write, events, .. } = step;
        write.contact(account, chat.contact, Some(contact));
        write.chat(account, conversation.chat, Some(chat));
        write.conversation(account, id, Some(conversation));
        self.commit(write, account, events)
    }

    /// Shows again what nobody has read: notifications end with the daemon.
    pub(super) fn alert_unread(&mut self, account: u32) -> Result<(), Broken> {
        let unread = self.chats_of(account).filter(|(_, chat)| chat.unread > 0).map(|(number, _)| number);
        unread.collect::<Vec<_>>().into_iter().try_for_each(|chat| self.alert(account, chat))
    }

    /// Shows the person what is new in a chat, as far as the settings allow.
    fn alert(&mut self, account: u32, number: u32) -> Result<(), Broken> {
        let settings = &self.store.tables().settings;
        let Some(chat) = self.store.tables().chats.get(&(account, number)) else { return Ok(()) };
        let Some(contact) = self.store.tables().contacts.get(&(account, chat.contact)) else { return Ok(()) };
        if !self.process.alerts.enabled || chat.muted || settings.dnd_until_ms > self.now || chat.unread == 0 {
            return Ok(());
        }
        let preview = settings.preview.unwrap_or(self.process.alerts.preview);
        let request = contact.state == ContactState::Request;
        // What we wrote meanwhile is no news.
        let last = self.store.history(account, number, u64::MAX, LOOKED_AT)?;
        let text = last.into_iter().find(|(_, row)| !row.mine).map(|(_, row)| row.text);
        let notice = Notice {
            account: self.full_name(account),
            chat: chat.id.clone(),
            sender: (preview != fastchat_ipc::Preview::None).then(|| super::view::shown_name(contact)),
            text: text.filter(|_| preview == fastchat_ipc::Preview::Full && !request),
            unread: chat.unread,
            request,
        };
        self.actions.push(Action::Alert(Alert::Show(notice)));
        Ok(())
    }
}

impl Step {
    pub(super) fn new(
        account: u32,
        id: ConversationId,
        conversation: ConversationRow,
        chat: ChatRow,
        contact: ContactRow,
    ) -> Self {
        let (write, events) = (Write::default(), Vec::new());
        Self { account, id, conversation, chat, contact, write, events, news: false }
    }

    /// Appends to the chat's history; gives the position.
    pub(super) fn append(&mut self, row: &MessageRow) -> Result<u64, StoreError> {
        let position = self.chat.next_position;
        self.chat.next_position += 1;
        self.chat.last_at_ms = self.chat.last_at_ms.max(row.accepted_at_ms);
        self.write.message(self.account, self.conversation.chat, position, row)?;
        Ok(position)
    }

    /// Appends something that the chat's people should know.
    pub(super) fn notice(&mut self, now: u64, text: String) -> Result<(), StoreError> {
        self.mark(now, MessageId::generate(), MessageKind::Notice, text)
    }

    /// Appends a mark in the place of an entry that does not open.
    fn unreadable(&mut self, now: u64, id: MessageId, why: &str) -> Result<(), StoreError> {
        self.mark(now, id, MessageKind::Unreadable, format!("a message could not be read: {why}"))
    }

    fn mark(&mut self, now: u64, id: MessageId, kind: MessageKind, text: String) -> Result<(), StoreError> {
        let state = MessageState::Received;
        self.append(&MessageRow { id, mine: false, sent_at_ms: now, accepted_at_ms: now, kind, state, text })?;
        self.received(id);
        Ok(())
    }

    /// Counts a new message, unless nobody wants to hear of its sender.
    fn received(&mut self, id: MessageId) {
        if self.contact.removed {
            self.contact.removed = false;
            self.contact.state = ContactState::Request;
            self.events.push(EventKind::ContactChanged { contact: self.contact.name.to_string() });
        }
        if matches!(self.contact.state, ContactState::Declined | ContactState::Blocked) {
            return;
        }
        self.chat.unread += 1;
        self.news = true;
        let request = self.contact.state == ContactState::Request;
        let (chat, id) = (self.chat.id.clone(), id.to_string());
        self.events.push(EventKind::MessageReceived { chat, id, request, message: None });
    }
}
