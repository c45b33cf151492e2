//! What comes out of a conversation's log: entries, in order, each in one commit with the state that it changed.
//!
//! **Invariant**: the cursor moves over every entry exactly once. What cannot be opened becomes a visible mark in the
//! history and never blocks what comes after it.

use fastchat_e2ee::{Body, OpenError, Opened, Transaction};
use fastchat_ipc::{EventKind, MessageKind, MessageState};
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId, v1};
use v1::client_frame::Body as Ask;

use crate::store::{
    StoreError,
    rows::{MessageRow, Peer, Standing},
};

use super::{Broken, Core, step::Step};

/// No log is longer; counting on from here cannot overflow.
pub(super) const LAST_SEQ: u64 = i64::MAX.unsigned_abs();

/// An opened message and what is known of its sender.
struct Readable {
    opened: Opened,
    from: AccountName,
    mine: bool,
    /// Nobody has trusted the identity that certified it.
    held: bool,
    /// Messages of its device that were not delivered before it.
    missing: u64,
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
        // On its way in again, a device opens nothing of what came before.
        if step.standing(self) == Some(Standing::Joining) {
            // Its external commit may come out of the log before the server's answer to it does.
            let chat = step.conversation.chat;
            if let Some(row) = self.store.handshake(account, chat)?.filter(|row| row.is_rejoin(&entry)) {
                self.rejoined(account, chat, &row, entry.seq)?;
            }
            return Ok(None);
        }
        // What comes after the end is not ours to open.
        if matches!(step.standing(self), Some(Standing::Left | Standing::Deleted)) {
            step.conversation.cursor = entry.seq;
            self.finish(step)?;
            return Ok(None);
        }
        if missing > 0 {
            step.notice(self.now, format!("the server left out {missing} entries here"))?;
            // Or this device is an older copy of itself, and its keys were used before: it goes on with fresh ones.
            step.lost = true;
        }
        step.conversation.cursor = entry.seq;
        let own = self.live.get(&account).is_some_and(|live| entry.device == live.device.id().as_bytes().as_slice());
        let handshake = matches!(entry.kind(), v1::EntryKind::Commit | v1::EntryKind::Proposal);
        let Ok(message) = MessageId::from_wire(&entry.message_id) else {
            step.notice(self.now, "the server delivered an entry without an id".into())?;
            self.finish(step)?;
            return Ok(None);
        };
        match (handshake, own) {
            (true, true) => return self.take_own_handshake(step, message).map(|()| None),
            (true, false) => return self.take_handshake(step, &entry, message),
            // It goes out again where the others can open it for sure.
            (false, true) if step.lost => {}
            (false, true) => self.take_own(&mut step, &entry, message)?,
            (false, false) => self.take_foreign(&mut step, &entry, message)?,
        }
        let news = step.news.then_some(step.conversation.chat);
        let (chat, lost) = (step.conversation.chat, step.lost);
        if lost {
            self.lose_place(&mut step)?;
        }
        self.finish(step)?;
        if lost {
            self.place_lost(account, chat)?;
        }
        Ok(news)
    }

    /// A message of ours has come to stand in the log.
    pub(super) fn take_own(&mut self, step: &mut Step, entry: &v1::Entry, id: MessageId) -> Result<(), Broken> {
        self.take_own_at(step, (Some(entry.seq), entry.server_time_ms), id)
    }

    /// The same of a message that stands somewhere in the log, if `seq` is not known.
    pub(super) fn take_own_at(
        &mut self,
        step: &mut Step,
        (seq, accepted_at_ms): (Option<u64>, u64),
        id: MessageId,
    ) -> Result<(), Broken> {
        let (account, chat) = (step.account, step.conversation.chat);
        // The log keeps our order: what comes back is at the front.
        let found = self.store.outbox(account, chat).find(|row| row.as_ref().map_or(true, |(_, row)| row.id == id));
        let Some((number, row)) = found.transpose()? else {
            if step.chat.peer != Peer::Own && self.store.position_of(account, chat, id)?.is_none() {
                step.unreadable(self.now, id, None, "the server shows an entry as ours that this device did not send")?;
                // Then this store is older than the log: what it would seal with was used already.
                step.lost = true;
            }
            return Ok(());
        };
        if row.sealed.as_ref().is_none_or(|sealed| sealed.conversation != step.id) {
            // This conversation has ended for us, and the message goes out (again) through the one that follows it.
            return Ok(());
        }
        step.write.outbox(account, chat, number, None)?;
        self.work(account, chat).accepted.remove(&number);
        // Another device of ours may have sent it on, and that copy has come before.
        if self.store.position_of(account, chat, id)?.is_some() {
            return Ok(());
        }
        if step.chat.peer == Peer::Own {
            return Ok(());
        }
        let delivered = seq.is_some_and(|seq| seq <= self.delivered_through(step));
        let state = if delivered { MessageState::Delivered } else { MessageState::Sent };
        let position = step.append(&MessageRow {
            id,
            mine: true,
            from: None,
            held: false,
            sent_at_ms: row.written_at_ms,
            accepted_at_ms,
            kind: MessageKind::Text,
            state,
            text: row.text,
        })?;
        if let Some(seq) = seq.filter(|_| !delivered) {
            step.write.undelivered(account, step.id, seq, Some(position))?;
        }
        step.events.push(EventKind::MessageState { chat: step.chat.id.clone(), id: id.to_string(), state });
        Ok(())
    }

    /// A message from another device: of somebody else, or of ours.
    fn take_foreign(&mut self, step: &mut Step, entry: &v1::Entry, id: MessageId) -> Result<(), Broken> {
        let chat = step.conversation.chat;
        let readable = match self.open_entry(step, entry, id)? {
            Ok(readable) => readable,
            Err(_) if step.chat.peer == Peer::Own => return Ok(()),
            Err(why) => {
                let sender = entry.sender.parse().ok().filter(|_| step.chat.peer == Peer::Group);
                if self.store.position_of(step.account, chat, id)?.is_none() {
                    step.unreadable(self.now, id, sender, &why)?;
                } else {
                    let text = format!("the server delivered something under the id of another message: {why}");
                    step.notice(self.now, text)?;
                }
                return Ok(());
            }
        };
        let Readable { opened, from, mine, held, missing } = readable;
        step.write.counter(step.account, step.id, DeviceId(opened.device), opened.content.counter)?;
        if missing > 0 && step.chat.peer != Peer::Own {
            let text = format!("{missing} messages of {from} are missing here: the server did not deliver them");
            step.notice(self.now, text)?;
        }
        if step.chat.peer == Peer::Own {
            return match opened.content.body {
                Some(Body::Sync(sync)) => self.take_sync(step, sync),
                _ => Ok(()),
            };
        }
        if self.has_shown(step, id, opened.content.body.is_some())? {
            return Ok(());
        }
        let (kind, text) = match opened.content.body {
            Some(Body::Text(text)) => (MessageKind::Text, text.text),
            Some(Body::Sync(_)) | None => {
                (MessageKind::Unreadable, "a newer version of FastChat sent something that this one cannot show".into())
            }
        };
        let delivered = mine && entry.seq <= self.delivered_through(step);
        let state = match (mine, delivered) {
            (true, true) => MessageState::Delivered,
            (true, false) => MessageState::Sent,
            (false, _) => MessageState::Received,
        };
        let group = step.chat.peer == Peer::Group;
        let position = step.append(&MessageRow {
            id,
            mine,
            from: (group && !mine).then_some(from),
            held,
            sent_at_ms: opened.content.sent_at_ms,
            accepted_at_ms: entry.server_time_ms,
            kind,
            state,
            text,
        })?;
        if mine {
            self.sent_elsewhere(step, id)?;
            if !delivered {
                step.write.undelivered(step.account, step.id, entry.seq, Some(position))?;
            }
            step.events.push(EventKind::MessageState { chat: step.chat.id.clone(), id: id.to_string(), state });
        } else {
            step.received(id);
        }
        self.read_if_read_elsewhere(step, id, position);
        Ok(())
    }

    /// Another device of ours has sent what waits here too, after a conversation ended: it is out.
    fn sent_elsewhere(&mut self, step: &mut Step, id: MessageId) -> Result<(), Broken> {
        let (account, chat) = (step.account, step.conversation.chat);
        let found = self.store.outbox(account, chat).find(|row| row.as_ref().map_or(true, |(_, row)| row.id == id));
        if let Some((number, row)) = found.transpose()? {
            let accepted = self.work(account, chat).accepted.remove(&number);
            // Our copy is refused, as its id is there already.
            if !accepted && row.sealed.is_some_and(|sealed| sealed.conversation == step.id) {
                self.unseal_from(step, &[(number, id)])?;
            }
            step.write.outbox(account, chat, number, None)?;
        }
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
    fn open_entry(
        &self,
        step: &mut Step,
        entry: &v1::Entry,
        id: MessageId,
    ) -> Result<Result<Readable, String>, Broken> {
        if entry.kind() != v1::EntryKind::Application {
            return Ok(Err("an entry of a kind that this version does not know".into()));
        }
        let state = self.store.state(step.account);
        let mut transaction = Transaction::new(&state);
        let opened = match transaction.open(step.id.0, id.0, &entry.payload) {
            Ok(opened) => opened,
            Err(OpenError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                return Err(StoreError::Damaged);
            }
            Err(error) => {
                // At another epoch than ours, or without one: what would have taken us there is gone.
                step.lost |= matches!(error, OpenError::UnknownConversation)
                    || matches!(error, OpenError::WrongEpoch { current, found } if found > current);
                return Ok(Err(error.to_string()));
            }
        };
        let Ok(from) = opened.account.parse::<AccountName>() else {
            return Ok(Err("it is from nobody whose name could be".into()));
        };
        let (mine, held) = match self.judge_sender(step, &from, &opened) {
            Ok(judged) => judged,
            Err(why) => return Ok(Err(why)),
        };
        let last = self.store.counter(step.account, step.id, DeviceId(opened.device))?;
        if opened.content.counter <= last {
            return Ok(Err("it is out of its order".into()));
        }
        // Who joined later has not missed what was sent before.
        let first = last == 0 && step.chat.peer == Peer::Group;
        let missing = if first { 0 } else { opened.content.counter - last - 1 };
        step.write.state(step.account, transaction.into_changes());
        Ok(Ok(Readable { opened, from, mine, held, missing }))
    }

    /// Whether a certified sender is who it should be: ours, or hidden until its identity is trusted.
    fn judge_sender(&self, step: &Step, from: &AccountName, opened: &Opened) -> Result<(bool, bool), String> {
        let unverified = "the sender's identity key is another one than is known for it";
        if self.is_own_name(step.account, from) {
            let own = self.live.get(&step.account).map(|live| live.identity.public());
            return if own == Some(&opened.identity) { Ok((true, false)) } else { Err(unverified.into()) };
        }
        match (step.chat.peer, &step.contact) {
            (Peer::Contact(_), Some(contact)) if contact.name == *from => {
                let known = contact.identity.as_deref() == Some(opened.identity.to_der());
                if known { Ok((false, false)) } else { Err(unverified.into()) }
            }
            (Peer::Group, _) => {
                let known = self.known_fingerprint(step.account, from);
                Ok((false, known.is_some_and(|known| known != opened.identity.fingerprint())))
            }
            _ => Err("it is from somebody else".into()),
        }
    }

    pub(super) fn take_delivered(&mut self, account: u32, delivered: &v1::Delivered) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&delivered.conversation) else { return Ok(()) };
        let Some(mut step) = self.step_in(account, id) else { return Ok(()) };
        let Ok(name) = delivered.account.parse::<AccountName>() else { return Ok(()) };
        let concerned = match step.chat.peer {
            Peer::Contact(_) => step.contact.as_ref().is_some_and(|contact| contact.name == name),
            Peer::Group => !self.is_own_name(account, &name) && self.is_member(account, step.conversation.chat, &name),
            Peer::Own => false,
        };
        let known = step.conversation.delivered.get(&name).copied().unwrap_or_default();
        if !concerned || delivered.seq <= known || delivered.seq > LAST_SEQ {
            return Ok(());
        }
        step.conversation.delivered.insert(name, delivered.seq);
        let through = self.delivered_through(&step);
        for (seq, position) in self.store.undelivered(account, id, through)? {
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

    /// Up to which seq everybody else has a conversation's entries, as far as the server has told.
    fn delivered_through(&self, step: &Step) -> u64 {
        let of = |name: &AccountName| step.conversation.delivered.get(name).copied().unwrap_or_default();
        match (step.chat.peer, &step.contact) {
            (Peer::Contact(_), Some(contact)) => of(&contact.name),
            (Peer::Group, _) => {
                let key = (step.account, step.conversation.chat);
                let group = step.group.as_ref().or_else(|| self.store.tables().groups.get(&key));
                let others = group.into_iter().flat_map(|group| &group.members);
                let others = others.filter(|member| !self.is_own_name(step.account, &member.name));
                others.map(|member| of(&member.name)).min().unwrap_or_default()
            }
            _ => 0,
        }
    }
}
