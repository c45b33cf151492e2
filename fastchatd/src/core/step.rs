//! The records that one entry changes, and what the person hears of it.
//!
//! **Invariant**: what belongs to one entry is committed at once: state, message, cursor, event.

use fastchat_ipc::{ContactState, EventKind, MessageKind, MessageState};
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId};

use crate::{
    api::{Alert, Notice},
    store::{
        StoreError, Write,
        rows::{ChatRow, ContactRow, ConversationRow, GroupRow, MessageRow, Peer, Standing},
    },
};

use super::{Action, Broken, Core};

/// The newest messages among which the one to notify of is looked for.
const LOOKED_AT: usize = 32;

/// The rows around one entry of a conversation's log.
pub(super) struct Step {
    pub(super) account: u32,
    pub(super) id: ConversationId,
    pub(super) conversation: ConversationRow,
    pub(super) chat: ChatRow,
    /// The other side of a direct chat.
    pub(super) contact: Option<ContactRow>,
    /// The group as it becomes; `None`: as it is.
    pub(super) group: Option<GroupRow>,
    pub(super) write: Write,
    pub(super) events: Vec<EventKind>,
    /// Somebody's message is new to the person.
    pub(super) news: bool,
    /// This device cannot follow the conversation any more.
    pub(super) lost: bool,
}

impl Core {
    /// The rows around a conversation, to be changed together.
    pub(super) fn step_in(&self, account: u32, id: ConversationId) -> Option<Step> {
        let tables = self.store.tables();
        let conversation = tables.conversations.get(&(account, id))?.clone();
        let chat = tables.chats.get(&(account, conversation.chat))?.clone();
        let contact = match chat.peer {
            Peer::Contact(number) => Some(tables.contacts.get(&(account, number))?.clone()),
            Peer::Group | Peer::Own => None,
        };
        Some(Step::new(account, id, conversation, chat, contact))
    }

    pub(super) fn finish(&mut self, step: Step) -> Result<(), Broken> {
        let Step { account, id, conversation, chat, contact, group, mut write, events, .. } = step;
        if let (Peer::Contact(number), Some(contact)) = (chat.peer, contact) {
            write.contact(account, number, Some(contact));
        }
        if let Some(group) = group {
            write.group(account, conversation.chat, Some(group));
        }
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
    pub(super) fn alert(&mut self, account: u32, number: u32) -> Result<(), Broken> {
        let settings = &self.store.tables().settings;
        let Some(chat) = self.store.tables().chats.get(&(account, number)) else { return Ok(()) };
        if !self.process.alerts.enabled || chat.muted || settings.dnd_until_ms > self.now || chat.unread == 0 {
            return Ok(());
        }
        let preview = settings.preview.unwrap_or(self.process.alerts.preview);
        let contact = self.contact_of_chat(account, number);
        let request = contact.is_some_and(|contact| contact.state == ContactState::Request);
        // What we wrote meanwhile is no news.
        let last = self.store.history(account, number, u64::MAX, LOOKED_AT)?;
        let last = last.into_iter().map(|(_, row)| row).find(|row| !row.mine);
        let sender = match (contact, last.as_ref().and_then(|row| row.from.as_ref())) {
            (Some(contact), _) => Some(super::view::shown_name(contact)),
            (None, Some(from)) => Some(self.name_of(account, from)),
            (None, None) => None,
        };
        let hidden = |row: &MessageRow| self.is_hidden(account, row);
        let text = last.filter(|row| !hidden(row)).map(|row| row.text);
        let group = self.store.tables().groups.get(&(account, number)).map(|group| group.name.clone());
        let notice = Notice {
            account: self.full_name(account),
            chat: chat.id.clone(),
            sender: sender.filter(|_| preview != fastchat_ipc::Preview::None),
            group: group.filter(|_| preview != fastchat_ipc::Preview::None),
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
        contact: Option<ContactRow>,
    ) -> Self {
        let (write, events) = (Write::default(), Vec::new());
        Self { account, id, conversation, chat, contact, group: None, write, events, news: false, lost: false }
    }

    /// How we stand in the group, if it is one.
    pub(super) fn standing(&self, core: &Core) -> Option<Standing> {
        let stored = || core.store.tables().groups.get(&(self.account, self.conversation.chat));
        self.group.as_ref().or_else(stored).map(|group| group.standing)
    }

    /// These devices count their messages from the beginning, as far as this device can tell: they have come, or come
    /// back while it was away.
    pub(super) fn count_anew(&mut self, leaves: &[fastchat_e2ee::Leaf]) -> Result<(), StoreError> {
        leaves.iter().try_for_each(|leaf| self.write.counter(self.account, self.id, DeviceId(leaf.device), 0))
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
        let id = MessageId::generate();
        self.mark(now, id, MessageKind::Notice, (false, None), text)?;
        self.received(id);
        Ok(())
    }

    /// Appends something that is good to see when one reads the chat, and nothing to be called for.
    pub(super) fn remark(&mut self, now: u64, text: String) -> Result<(), StoreError> {
        let id = MessageId::generate();
        // Counts as ours, so that it is not unread.
        self.mark(now, id, MessageKind::Notice, (true, None), text)?;
        let (chat, id) = (self.chat.id.clone(), id.to_string());
        self.events.push(EventKind::MessageReceived { chat, id, request: false, message: None });
        Ok(())
    }

    /// Appends a mark in the place of an entry that does not open.
    pub(super) fn unreadable(
        &mut self,
        now: u64,
        id: MessageId,
        from: Option<AccountName>,
        why: &str,
    ) -> Result<(), StoreError> {
        self.mark(now, id, MessageKind::Unreadable, (false, from), format!("a message could not be read: {why}"))?;
        self.received(id);
        Ok(())
    }

    fn mark(
        &mut self,
        now: u64,
        id: MessageId,
        kind: MessageKind,
        (mine, from): (bool, Option<AccountName>),
        text: String,
    ) -> Result<(), StoreError> {
        if self.chat.peer == Peer::Own {
            tracing::warn!(text, "in the conversation of our own devices");
            return Ok(());
        }
        let state = MessageState::Received;
        let row = MessageRow { id, mine, from, held: false, sent_at_ms: now, accepted_at_ms: now, kind, state, text };
        self.append(&row).map(drop)
    }

    /// Counts a new message, unless nobody wants to hear of its sender.
    pub(super) fn received(&mut self, id: MessageId) {
        if self.chat.peer == Peer::Own {
            return;
        }
        let mut request = false;
        if let Some(contact) = &mut self.contact {
            if contact.removed {
                contact.removed = false;
                contact.state = ContactState::Request;
                self.events.push(EventKind::ContactChanged { contact: contact.name.to_string() });
            }
            if matches!(contact.state, ContactState::Declined | ContactState::Blocked) {
                return;
            }
            request = contact.state == ContactState::Request;
        }
        self.chat.unread += 1;
        self.news = true;
        let (chat, id) = (self.chat.id.clone(), id.to_string());
        self.events.push(EventKind::MessageReceived { chat, id, request, message: None });
    }
}
