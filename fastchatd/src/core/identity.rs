//! Changed identities: what holds a chat, and what lets it go on.
//!
//! **Invariant**: nothing is sent to, or shown from, an identity that nobody has trusted after it changed.

use fastchat_ipc::EventKind;

use crate::store::{Write, rows::ContactRow};

use super::{Broken, Core, live::HeldJoining};

impl Core {
    /// Somebody's identity key is not the one we go by: the chat is held until it is trusted.
    pub(super) fn identity_changed(&mut self, account: u32, number: u32, key: &[u8]) -> Result<(), Broken> {
        let Some(mut contact) = self.store.tables().contacts.get(&(account, number)).cloned() else { return Ok(()) };
        if contact.changed_identity.as_deref() == Some(key) {
            return Ok(());
        }
        let name = contact.name.to_string();
        contact.changed_identity = Some(key.to_vec());
        let mut write = Write::default();
        let mut events = vec![
            EventKind::IdentityChanged { contact: name.clone() },
            EventKind::ContactChanged { contact: name.clone() },
        ];
        for chat in self.chats_with(account, &contact) {
            self.hold_outbox(&mut write, &mut events, (account, chat), &name)?;
        }
        write.contact(account, number, Some(contact));
        self.commit(write, account, events)
    }

    /// The changed identity is trusted: what was held goes on.
    pub(super) fn trust(&mut self, account: u32, number: u32) -> Result<(), Broken> {
        let Some(mut contact) = self.store.tables().contacts.get(&(account, number)).cloned() else { return Ok(()) };
        let Some(key) = contact.changed_identity.take() else { return Ok(()) };
        let name = contact.name.clone();
        contact.identity = Some(key);
        contact.verified = false;
        let mut write = Write::default();
        let events = vec![EventKind::ContactChanged { contact: name.to_string() }];
        write.contact(account, number, Some(contact));
        self.commit(write, account, events)?;
        self.go_on_after_trust(account, number)?;
        self.tell_contact(account, number)
    }

    /// Somebody trusts a contact's key, here or on another device of ours: what was held goes on.
    pub(super) fn go_on_after_trust(&mut self, account: u32, number: u32) -> Result<(), Broken> {
        let Some(contact) = self.store.tables().contacts.get(&(account, number)).cloned() else { return Ok(()) };
        let (name, key) = (contact.name.clone(), contact.identity.clone().unwrap_or_default());
        let (mut write, mut events) = (Write::default(), Vec::new());
        let chats = self.chats_with(account, &contact);
        for chat in &chats {
            if !self.is_held(account, *chat) {
                self.release_outbox(&mut write, &mut events, (account, *chat))?;
            }
        }
        if let Some(chat) = contact.chat {
            self.drop_creation(&mut write, account, chat)?;
        }
        self.commit(write, account, events)?;
        let old = contact.chat.and_then(|chat| self.store.tables().chats.get(&(account, chat))?.conversation);
        if let (Some(chat), Some(old)) = (contact.chat, old) {
            self.leave(account, chat, old)?;
        }
        let held = self.live.get_mut(&account).and_then(|live| live.held.remove(&name)).unwrap_or_default();
        for HeldJoining { joining, identity, delivers } in held {
            if identity == key {
                self.take_joining(account, joining)?;
                delivers.into_iter().try_for_each(|deliver| self.take_deliver(account, deliver))?;
            } else {
                // Made under an identity that another one has followed: it would come, and alarm, again and again.
                tracing::warn!("a conversation of an identity that was never trusted is given up");
                self.tell_joined(account, &joining);
            }
        }
        chats.into_iter().try_for_each(|chat| self.pump(account, chat))
    }

    /// Nobody's key holds a chat any more, as after somebody was removed: what was held goes on.
    pub(super) fn release_if_free(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        if self.is_held(account, chat) {
            return Ok(());
        }
        let (mut write, mut events) = (Write::default(), Vec::new());
        self.release_outbox(&mut write, &mut events, (account, chat))?;
        if events.is_empty() { Ok(()) } else { self.commit(write, account, events) }
    }

    /// The chats in which a contact is.
    fn chats_with(&self, account: u32, contact: &ContactRow) -> Vec<u32> {
        let groups = self.store.tables().groups.range((account, 0)..=(account, u32::MAX));
        let groups = groups.filter(|(_, group)| group.has(&contact.name)).map(|((_, chat), _)| *chat);
        contact.chat.into_iter().chain(groups).collect()
    }
}
