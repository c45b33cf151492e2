//! Joining: a conversation comes to this device by somebody's Welcome.
//!
//! **Invariant**: a conversation shows only when everybody in it is certified by the identity that we go by for them, or
//! first see here; under another identity it is held, or said to be changed.

use fastchat_e2ee::{Fingerprint, IdentityKey, Join, JoinError, Roster, Transaction};
use fastchat_ipc::{ContactState, EventKind};
use fastchat_wire::{AccountName, ConversationId, v1};

use crate::{
    fault,
    store::{
        StoreError,
        rows::{ChatRow, ContactRow, ConversationRow, MemberRow, Peer, Standing},
    },
};

use super::{Broken, Core, group::authenticator, live::HeldJoining, receive::LAST_SEQ, step::Step};

/// How long our leaf keeps its keys; each device adds up to a tenth of it, by its own dice.
const UPDATE_EVERY_MS: u64 = 7 * 24 * 3600 * 1000;
/// A new member's first update waits so long, and so long more for each member: not all at once.
const FIRST_UPDATE_MS: u64 = 60_000;
const FIRST_UPDATE_SPREAD_MS: u64 = 2_000;

/// A Welcome that was taken.
struct Welcomed {
    roster: Roster,
    authenticator: Vec<u8>,
    changes: fastchat_e2ee::Changes,
}

impl Core {
    /// Somebody made a conversation with us, or added this device to a group.
    pub(super) fn take_joining(&mut self, account: u32, joining: v1::Joining) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&joining.conversation) else { return Ok(()) };
        let known = self.store.tables().conversations.get(&(account, id));
        // Removed and added again while it was away, a device gets the Welcome before it hears of its removal.
        let anew = |row: &ConversationRow| joining.group && (row.closed || joining.start_seq > row.cursor);
        if known.is_some_and(|row| !self.may_carry(account, id, row, joining.group)) {
            tracing::warn!("the server offers a conversation under the id of another one");
            return Ok(());
        }
        if known.is_some_and(|row| !anew(row)) {
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
        let own = self.is_own_name(account, &creator);
        let ours = self.live.get(&account).is_some_and(|live| *live.identity.public() == identity);
        if joining.start_seq > LAST_SEQ || (own && !ours) {
            tracing::warn!(
                "the server sent a Welcome that cannot be: of another identity than ours, or beyond the end"
            );
            return Ok(());
        }
        // In a group, a changed identity hides what it says; a direct conversation with it waits as a whole.
        if !own && !joining.group && self.hold_if_changed(account, &creator, &identity, &joining)? {
            return Ok(());
        }
        if joining.group {
            self.join_group(account, id, (&creator, &identity), &joining)
        } else {
            self.join_direct(account, id, (&creator, &identity), joining)
        }
    }

    /// Whether a conversation that is known is of the kind that the server now says it is.
    fn may_carry(&self, account: u32, id: ConversationId, row: &ConversationRow, group: bool) -> bool {
        let chat = self.store.tables().chats.get(&(account, row.chat));
        chat.is_some_and(|chat| (chat.peer == Peer::Group) == group && (!group || chat.id == id.to_string()))
    }

    /// Whether a Welcome into a group that this device is in, or was, may take the place of what it has: only a later
    /// epoch, and, while it is in, only by somebody whom it knows as an admin there.
    fn may_replace(&self, account: u32, id: ConversationId, adder: (&AccountName, &IdentityKey), epoch: u64) -> bool {
        let (number, _) = self.group_chat(account, id);
        let Some(group) = self.group_row(account, number).filter(|group| !group.members.is_empty()) else {
            return true;
        };
        let known = |member: &MemberRow| {
            member.name == *adder.0 && member.admin && member.fingerprint == adder.1.fingerprint().0
        };
        let trusted = !group.is_current() || self.is_own_name(account, adder.0) || group.members.iter().any(known);
        epoch > group.epoch && trusted
    }

    /// Holds a Welcome that a contact's unknown identity is behind.
    fn hold_if_changed(
        &mut self,
        account: u32,
        name: &AccountName,
        identity: &IdentityKey,
        joining: &v1::Joining,
    ) -> Result<bool, Broken> {
        let Some((number, _)) = self.contact_named(account, name) else { return Ok(false) };
        if self.known_fingerprint(account, name).is_none_or(|known| known == identity.fingerprint()) {
            return Ok(false);
        }
        if let Some(live) = self.live.get_mut(&account) {
            let held =
                HeldJoining { joining: joining.clone(), identity: identity.to_der().to_vec(), delivers: Vec::new() };
            live.hold(name.clone(), held);
        }
        self.identity_changed(account, number, identity.to_der())?;
        Ok(true)
    }

    /// Takes the Welcome. `Err` inside: why it is refused. Nothing is changed yet.
    fn open_welcome(
        &self,
        account: u32,
        id: ConversationId,
        adder: (&AccountName, &IdentityKey),
        joining: &v1::Joining,
    ) -> Result<Result<Welcomed, JoinError>, Broken> {
        let Some(live) = self.live.get(&account) else { return Ok(Err(JoinError::NoKeyPackage)) };
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let welcome = joining.welcome.clone().unwrap_or_default();
        // What is left of an earlier membership is of no use any more.
        let joined = transaction.forget(id.0).map_err(JoinError::from).and_then(|()| {
            let join = Join {
                adder: (adder.0.as_str(), adder.1),
                welcome: &welcome.welcome,
                join_key: &welcome.join_key,
                ratchet_tree: &joining.ratchet_tree,
                group: joining.group,
            };
            transaction.join(&live.identity, &live.device, id.0, &join)
        });
        match joined {
            Err(JoinError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                Err(StoreError::Damaged)
            }
            Err(error) => Ok(Err(error)),
            Ok(roster) => {
                let authenticator = authenticator(&transaction, id)?;
                Ok(Ok(Welcomed { roster, authenticator, changes: transaction.into_changes() }))
            }
        }
    }

    fn join_direct(
        &mut self,
        account: u32,
        id: ConversationId,
        adder: (&AccountName, &IdentityKey),
        joining: v1::Joining,
    ) -> Result<(), Broken> {
        let joined = self.open_welcome(account, id, adder, &joining)?;
        // Whom it is with is what its leaves say; the server's word counts only for telling of a refusal.
        let peer = match &joined {
            Ok(welcomed) => self.other_account(account, &welcomed.roster),
            Err(_) if self.is_own_name(account, adder.0) => {
                joining.peer.parse().ok().map(|name| (name, adder.1.clone()))
            }
            Err(_) => Some((adder.0.clone(), adder.1.clone())),
        };
        let Some((name, identity)) = peer else {
            tracing::error!("a Welcome of our own device is refused, and nobody knows whom it is with");
            self.tell_joined(account, &joining);
            return Ok(());
        };
        let own = self.is_own_name(account, &name);
        if !own && joined.is_ok() && self.hold_if_changed(account, &name, &identity, &joining)? {
            return Ok(());
        }
        let (number, chat, contact) = if own {
            let (number, chat) = self.own_chat(account);
            (number, chat, None)
        } else {
            let by_us = self.is_own_name(account, adder.0);
            let first = if by_us { ContactState::Accepted } else { ContactState::Request };
            let (contact_number, mut contact) = self.contact_for(account, &name, first);
            if joined.is_ok() {
                contact.identity.get_or_insert_with(|| identity.to_der().to_vec());
            }
            let (number, chat) = self.chat_for(account, contact_number, &mut contact);
            (number, chat, Some(contact))
        };
        let begun = self.begun(account, number, id, joining.start_seq);
        let mut step = Step::new(account, id, begun, chat, contact);
        step.events.push(EventKind::ChatChanged { chat: step.chat.id.clone() });
        if let Some(contact) = &step.contact {
            step.events.push(EventKind::ContactChanged { contact: contact.name.to_string() });
        }
        match joined {
            Ok(welcomed) => self.joined_direct(&mut step, welcomed, &joining)?,
            Err(error) => {
                step.conversation.closed = true;
                step.chat.replaces = Some(id);
                step.notice(self.now, format!("an encrypted conversation was offered and refused: {error}"))?;
            }
        }
        let chat = step.conversation.chat;
        self.commit_joining(step)?;
        fault::point("direct-joined");
        self.after_joining(account, chat, id)
    }

    fn joined_direct(&mut self, step: &mut Step, welcomed: Welcomed, joining: &v1::Joining) -> Result<(), Broken> {
        step.write.state(step.account, welcomed.changes);
        step.conversation.epoch = welcomed.roster.epoch;
        let old = step.chat.conversation.replace(step.id);
        step.chat.replaces = None;
        // One that we were about to make is not needed any more.
        self.drop_creation(&mut step.write, step.account, step.conversation.chat)?;
        // The server may have closed the one before already.
        let former = ConversationId::from_wire(&joining.replaces).ok();
        let known = |id: &ConversationId| self.store.tables().conversations.contains_key(&(step.account, *id));
        if old.or(former).filter(known).is_some()
            && let Some(contact) = &step.contact
        {
            let text = format!("the encrypted conversation with {} begins anew: a device is new or gone", contact.name);
            step.remark(self.now, text)?;
        }
        let mut chat = step.chat.clone();
        self.close(&mut step.write, step.account, step.conversation.chat, old, &mut chat)?;
        step.chat = chat;
        Ok(())
    }

    fn join_group(
        &mut self,
        account: u32,
        id: ConversationId,
        adder: (&AccountName, &IdentityKey),
        joining: &v1::Joining,
    ) -> Result<(), Broken> {
        let Welcomed { roster, authenticator, changes } = match self.open_welcome(account, id, adder, joining)? {
            Ok(joined) => joined,
            Err(error) => {
                // The group has this device in it now; it gets in by an external commit, with fresh keys.
                tracing::warn!(%error, "a group's Welcome is refused");
                self.tell_joined(account, joining);
                if matches!(error, JoinError::NoKeyPackage) {
                    // Whoever made it has signed the join key: only our half of it is lost.
                    let (number, _) = self.group_chat(account, id);
                    return self.rejoin(account, number, id);
                }
                return self.take_unjoined(account, &v1::Unjoined { conversation: joining.conversation.clone() });
            }
        };
        if !self.may_replace(account, id, adder, roster.epoch) {
            tracing::warn!(
                "a Welcome into a group that is known here is refused: of an earlier epoch, or of a stranger"
            );
            self.tell_joined(account, joining);
            let (number, _) = self.group_chat(account, id);
            return self.state_lost(account, number, id);
        }
        let (number, chat) = self.group_chat(account, id);
        let conversation =
            ConversationRow { epoch: roster.epoch, ..self.begun(account, number, id, joining.start_seq) };
        let mut step = Step::new(account, id, conversation, chat, None);
        step.chat.conversation = Some(id);
        step.write.state(account, changes);
        step.write.handshake(account, number, None)?;
        self.schedule_first_update(&mut step, roster.leaves.len());
        let group = self.group_of(account, number, &roster, authenticator, Standing::Active)?;
        let by = self.name_of(account, adder.0);
        let text = if self.is_own_name(account, adder.0) {
            format!("this device is in the group {} now", group.name)
        } else {
            format!("{by} added you to the group {}", group.name)
        };
        self.meet(&mut step, &roster.leaves)?;
        step.count_anew(&roster.leaves)?;
        step.group = Some(group);
        step.notice(self.now, text)?;
        step.events.push(EventKind::ChatChanged { chat: step.chat.id.clone() });
        step.events.push(EventKind::GroupChanged { group: step.chat.id.clone(), chat: step.chat.id.clone() });
        self.commit_joining(step)?;
        fault::point("welcome-stored");
        self.alert(account, number)?;
        // A device of ours may be in it that is gone from the account.
        self.list_devices(account);
        self.after_joining(account, number, id)
    }

    fn after_joining(&mut self, account: u32, chat: u32, id: ConversationId) -> Result<(), Broken> {
        self.work(account, chat).retry_at = 0;
        self.acknowledge(account, id);
        self.key_package_used(account)?;
        self.pump(account, chat)
    }

    /// Tells the server that a Welcome needs not be sent again.
    pub(super) fn tell_joined(&mut self, account: u32, joining: &v1::Joining) {
        let (conversation, seq) = (joining.conversation.clone(), joining.start_seq);
        self.tell(account, v1::client_frame::Body::Ack(v1::Ack { conversation, seq }));
    }

    /// The one account beside ours in a direct conversation, and its identity; ours, if it is with ourselves.
    fn other_account(&self, account: u32, roster: &Roster) -> Option<(AccountName, IdentityKey)> {
        let own = self.own_name(account);
        let leaf = roster.leaves.iter().find(|leaf| leaf.account != own).or_else(|| roster.leaves.first())?;
        Some((leaf.account.parse().ok()?, IdentityKey::from_der(&leaf.identity).ok()?))
    }

    /// The account's next numbers move on with the rows that took them.
    pub(super) fn commit_joining(&mut self, mut step: Step) -> Result<(), Broken> {
        if let Some(mut row) = self.store.tables().accounts.get(&step.account).cloned() {
            if let Peer::Contact(contact) = step.chat.peer {
                row.next_contact = row.next_contact.max(contact + 1);
            }
            row.next_chat = row.next_chat.max(step.conversation.chat + 1);
            step.write.account(step.account, row);
        }
        self.finish(step)
    }

    /// The chat of a group, or a new one with the account's next number.
    pub(super) fn group_chat(&self, account: u32, id: ConversationId) -> (u32, ChatRow) {
        let name = id.to_string();
        if let Some((number, row)) = self.chats_of(account).find(|(_, row)| row.id == name) {
            return (number, row.clone());
        }
        let number = self.store.tables().accounts.get(&account).map_or(0, |row| row.next_chat);
        (number, ChatRow { id: name, ..self.new_chat(Peer::Group) })
    }

    /// A conversation's row as it begins, with the time of our leaf's next update.
    pub(super) fn begun(&self, account: u32, chat: u32, id: ConversationId, cursor: u64) -> ConversationRow {
        ConversationRow {
            chat,
            cursor,
            epoch: 0,
            sent_counter: 0,
            delivered: std::collections::BTreeMap::new(),
            closed: false,
            update_at_ms: self.next_update(account, id),
        }
    }

    pub(super) fn next_update(&self, account: u32, id: ConversationId) -> u64 {
        self.now + UPDATE_EVERY_MS + self.dice(account, id) % (UPDATE_EVERY_MS / 10)
    }

    pub(super) fn schedule_first_update(&self, step: &mut Step, leaves: usize) {
        let spread = FIRST_UPDATE_SPREAD_MS * (leaves as u64).min(3600);
        step.conversation.update_at_ms = self.now + FIRST_UPDATE_MS + self.dice(step.account, step.id) % spread.max(1);
    }

    /// A number of this device's own for a conversation, so that devices do not act in the same moment.
    pub(super) fn dice(&self, account: u32, id: ConversationId) -> u64 {
        let device = self.live.get(&account).map_or(0, |live| live.device.id().as_u64_pair().1);
        (device ^ id.0.as_u64_pair().1 ^ self.now).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    }

    /// Compares the identities of leaves that have come with those that we know, and says who is another one.
    pub(super) fn meet(&mut self, step: &mut Step, leaves: &[fastchat_e2ee::Leaf]) -> Result<(), Broken> {
        let mut seen = std::collections::BTreeSet::new();
        for leaf in leaves {
            let Ok(name) = leaf.account.parse::<AccountName>() else { continue };
            if self.is_own_name(step.account, &name) || !seen.insert(name.clone()) {
                continue;
            }
            let Some(print) = super::view::fingerprint_of(Some(&leaf.identity)) else { continue };
            match self.contact_named(step.account, &name) {
                Some((number, contact)) => {
                    let contact = contact.clone();
                    self.meet_contact(step, number, contact, &leaf.identity, print)?;
                }
                None if self.known_fingerprint(step.account, &name).is_some_and(|known| known != print) => {
                    step.notice(self.now, format!("the identity key of {name} is another one than before"))?;
                }
                None => {}
            }
        }
        Ok(())
    }

    fn meet_contact(
        &self,
        step: &mut Step,
        number: u32,
        mut contact: ContactRow,
        identity: &[u8],
        print: Fingerprint,
    ) -> Result<(), Broken> {
        match self.known_fingerprint(step.account, &contact.name) {
            None => contact.identity = Some(identity.to_vec()),
            Some(known) if known == print => return Ok(()),
            Some(_) if contact.changed_identity.as_deref() == Some(identity) => return Ok(()),
            Some(_) => {
                let name = contact.name.to_string();
                step.notice(
                    self.now,
                    format!("the identity key of {name} has changed: nothing is sent until you trust it"),
                )?;
                step.events.push(EventKind::IdentityChanged { contact: name.clone() });
                step.events.push(EventKind::ContactChanged { contact: name.clone() });
                contact.changed_identity = Some(identity.to_vec());
                if let Some(chat) = contact.chat {
                    self.hold_outbox(&mut step.write, &mut step.events, (step.account, chat), &name)?;
                }
            }
        }
        step.write.contact(step.account, number, Some(contact));
        Ok(())
    }
}
