//! What the account's devices tell each other, through a conversation of their own: what was read, who a contact is.
//!
//! **Invariant**: only a device of ours is believed, nothing that it says is said on, and a contact's key is taken over
//! only where this device knew none, or only along with the trust that a person gave on the other device.

use fastchat_e2ee::{Content, Sync};
use fastchat_ipc::{ContactState, EventKind, MessageState};
use fastchat_wire::{AccountName, ConversationId, MessageId};

use crate::store::{
    Write,
    rows::{ChatRow, ContactRow, OutboxRow, Peer},
};

use super::{Broken, Core, step::Step};
use fastchat_e2ee::sync;

/// Contacts that are told at once to a device that is new.
const CONTACTS_TOLD: usize = 1_000;

/// News that wait for the other devices at most.
const OWN_OUTBOX: usize = 2_000;

/// A message to the own devices.
pub(super) fn sync_content(sent_at_ms: u64, counter: u64, body: &[u8]) -> Content {
    Content::sync(sent_at_ms, counter, Sync::from_bytes(body).unwrap_or_default())
}

impl Core {
    /// The chat of the account's own devices, or a new one with the account's next number.
    pub(super) fn own_chat(&self, account: u32) -> (u32, ChatRow) {
        if let Some((number, row)) = self.all_chats_of(account).find(|(_, row)| row.peer == Peer::Own) {
            return (number, row.clone());
        }
        let number = self.store.tables().accounts.get(&account).map_or(0, |row| row.next_chat);
        (number, ChatRow { id: uuid::Uuid::now_v7().to_string(), ..self.new_chat(Peer::Own) })
    }

    /// Tells the account's other devices something, if there are any.
    fn tell_own(&mut self, account: u32, said: Vec<Sync>) -> Result<(), Broken> {
        if said.is_empty() || !self.live.get(&account).is_some_and(super::live::Live::has_siblings) {
            return Ok(());
        }
        let (number, mut chat) = self.own_chat(account);
        if self.store.outbox(account, number).take(OWN_OUTBOX).count() >= OWN_OUTBOX {
            tracing::warn!("the account's other devices cannot be told anything for now");
            return Ok(());
        }
        let mut write = Write::default();
        for sync in said {
            let row = OutboxRow {
                id: MessageId::generate(),
                written_at_ms: self.now,
                state: MessageState::Queued,
                text: String::new(),
                sync: sync.to_bytes(),
                error: String::new(),
                sealed: None,
            };
            write.outbox(account, number, chat.next_outbox, Some(&row))?;
            chat.next_outbox += 1;
        }
        if let Some(mut row) = self.store.tables().accounts.get(&account).cloned() {
            row.next_chat = row.next_chat.max(number + 1);
            write.account(account, row);
        }
        write.chat(account, number, Some(chat));
        self.commit(write, account, Vec::new())?;
        self.pump(account, number)
    }

    /// A person has read a chat here up to a position (exclusive).
    pub(super) fn tell_read(&mut self, account: u32, number: u32, position: u64) -> Result<(), Broken> {
        let Some(chat) = self.chat_row(account, number) else { return Ok(()) };
        let last = self.store.history(account, number, position, 64)?;
        let last = last.into_iter().map(|(_, row)| row).find(|row| row.kind == fastchat_ipc::MessageKind::Text);
        let (Some(last), Some(chat)) = (last, self.sync_chat(account, &chat)) else { return Ok(()) };
        self.tell_own(account, vec![Sync::read_up_to(chat, last.id.0)])
    }

    fn sync_chat(&self, account: u32, chat: &ChatRow) -> Option<sync::Chat> {
        match chat.peer {
            Peer::Contact(number) => {
                let contact = self.store.tables().contacts.get(&(account, number))?;
                Some(sync::Chat::Direct(contact.name.to_string()))
            }
            Peer::Group => Some(sync::Chat::Group(chat.id.parse::<ConversationId>().ok()?.0.as_bytes().to_vec())),
            Peer::Own => None,
        }
    }

    /// A person has changed here what a contact is to us.
    pub(super) fn tell_contact(&mut self, account: u32, number: u32) -> Result<(), Broken> {
        let Some(contact) = self.store.tables().contacts.get(&(account, number)) else { return Ok(()) };
        self.tell_own(account, vec![sync_of(contact)])
    }

    /// A device of ours is new: it learns whom we know.
    pub(super) fn tell_all_contacts(&mut self, account: u32) -> Result<(), Broken> {
        let contacts = self.contacts_of(account).take(CONTACTS_TOLD).map(|(_, contact)| sync_of(contact)).collect();
        self.tell_own(account, contacts)
    }

    /// Another device of ours has told something.
    pub(super) fn take_sync(&mut self, step: &mut Step, said: Sync) -> Result<(), Broken> {
        match said.kind {
            Some(sync::Kind::ReadUpTo(read)) => self.read_elsewhere(step, read),
            Some(sync::Kind::Contact(contact)) => self.take_contact(step, contact),
            None => Ok(()),
        }
    }

    fn read_elsewhere(&mut self, step: &mut Step, read: sync::ReadUpTo) -> Result<(), Broken> {
        let account = step.account;
        let number = match read.chat {
            Some(sync::Chat::Direct(name)) => {
                let name = name.parse::<AccountName>().ok();
                name.and_then(|name| self.contact_named(account, &name)?.1.chat)
            }
            Some(sync::Chat::Group(id)) => ConversationId::from_wire(&id).ok().and_then(|id| {
                let id = id.to_string();
                self.chats_of(account).find(|(_, row)| row.id == id).map(|(number, _)| number)
            }),
            None => None,
        };
        let (Some(number), Ok(message)) = (number, MessageId::from_wire(&read.message)) else { return Ok(()) };
        match self.store.position_of(account, number, message)? {
            Some(position) => self.waits.read_elsewhere.push((account, number, position)),
            // It comes through another conversation, which may be slower.
            None => {
                if let Some(mut chat) = self.chat_row(account, number) {
                    chat.read_elsewhere = Some(message);
                    step.write.chat(account, number, Some(chat));
                }
            }
        }
        Ok(())
    }

    /// The message that another device has read has come here too.
    pub(super) fn read_if_read_elsewhere(&mut self, step: &mut Step, id: MessageId, position: u64) {
        if step.chat.read_elsewhere == Some(id) {
            step.chat.read_elsewhere = None;
            self.waits.read_elsewhere.push((step.account, step.conversation.chat, position));
        }
    }

    fn take_contact(&mut self, step: &mut Step, told: sync::Contact) -> Result<(), Broken> {
        let account = step.account;
        let (Ok(name), Some(state)) = (told.name.parse::<AccountName>(), state_named(&told.state)) else {
            return Ok(());
        };
        if self.is_own_name(account, &name) {
            return Ok(());
        }
        let (number, mut contact) = self.contact_for(account, &name, state);
        let known = super::view::fingerprint_of(contact.identity.as_deref());
        let theirs = super::view::fingerprint_of(Some(&told.identity));
        contact.alias = told.alias;
        (contact.state, contact.removed) = (state, told.removed);
        if theirs.is_some()
            && (known.is_none() || known == theirs || contact.changed_identity.as_ref() == Some(&told.identity))
        {
            contact.identity = Some(told.identity);
            contact.verified = told.verified;
            // The person trusted the changed key on the other device.
            if known != theirs && contact.changed_identity.take().is_some() {
                self.waits.trusted_elsewhere.push((account, number));
            }
        }
        step.events.push(EventKind::ContactChanged { contact: name.to_string() });
        if let Some(mut row) = self.store.tables().accounts.get(&account).cloned() {
            row.next_contact = row.next_contact.max(number + 1);
            step.write.account(account, row);
        }
        step.write.contact(account, number, Some(contact));
        Ok(())
    }

    /// Does what other devices' news ask for, once those are stored.
    pub(super) fn follow_own_devices(&mut self) -> Result<(), Broken> {
        for (account, chat, position) in std::mem::take(&mut self.waits.read_elsewhere) {
            self.read_here(account, chat, position)?;
        }
        for (account, contact) in std::mem::take(&mut self.waits.trusted_elsewhere) {
            self.go_on_after_trust(account, contact)?;
        }
        Ok(())
    }
}

fn sync_of(contact: &ContactRow) -> Sync {
    Sync::contact(sync::Contact {
        name: contact.name.to_string(),
        alias: contact.alias.clone(),
        state: state_name(contact.state).into(),
        identity: contact.identity.clone().unwrap_or_default(),
        verified: contact.verified,
        removed: contact.removed,
    })
}

fn state_name(state: ContactState) -> &'static str {
    match state {
        ContactState::Accepted => "accepted",
        ContactState::Request => "request",
        ContactState::Declined => "declined",
        ContactState::Blocked => "blocked",
    }
}

fn state_named(name: &str) -> Option<ContactState> {
    [ContactState::Accepted, ContactState::Request, ContactState::Declined, ContactState::Blocked]
        .into_iter()
        .find(|state| state_name(*state) == name)
}
