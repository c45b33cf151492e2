//! Changed identities: what holds a chat, and what lets it go on.
//!
//! **Invariant**: nothing is sent to, or shown from, an identity that nobody has trusted after it changed.

use fastchat_ipc::EventKind;
use fastchat_wire::v1;
use v1::client_frame::Body as Ask;

use crate::store::Write;

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
        if let Some(chat) = contact.chat {
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
        contact.identity = Some(key.clone());
        contact.verified = false;
        let chat = contact.chat;
        let mut write = Write::default();
        let mut events = vec![EventKind::ContactChanged { contact: name.to_string() }];
        if let Some(chat) = chat {
            self.release_outbox(&mut write, &mut events, (account, chat))?;
            self.drop_creation(&mut write, account, chat)?;
        }
        write.contact(account, number, Some(contact));
        self.commit(write, account, events)?;
        let old = chat.and_then(|chat| self.store.tables().chats.get(&(account, chat))?.conversation);
        if let (Some(chat), Some(old)) = (chat, old) {
            self.leave(account, chat, old)?;
        }
        let held = self.live.get_mut(&account).and_then(|live| live.held.remove(&name)).unwrap_or_default();
        for HeldJoining { joining, delivers } in held {
            if joining.creator_identity_key.as_ref() == key {
                self.take_joining(account, joining)?;
                delivers.into_iter().try_for_each(|deliver| self.take_deliver(account, deliver))?;
            } else {
                // Made under an identity that another one has followed: it would come, and alarm, again and again.
                tracing::warn!("a conversation of an identity that was never trusted is given up");
                let (conversation, seq) = (joining.conversation, joining.start_seq);
                self.tell(account, Ask::Ack(v1::Ack { conversation, seq }));
            }
        }
        chat.map_or(Ok(()), |chat| self.pump(account, chat))
    }
}
