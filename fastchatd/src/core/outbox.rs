//! Messages on their way out: sealed in order, one batch at a time, the same bytes on every try.
//!
//! **Invariant**: a message's ciphertext is durable before its first byte is sent, and no later message of its chat is
//! with the server before it.

use fastchat_e2ee::{Content, SealError, Transaction};
use fastchat_ipc::{EventKind, MessageState};
use fastchat_wire::{Code, ConversationId, MessageId, v1};
use v1::client_frame::Body as Ask;

use crate::{
    link::api_error,
    store::{
        StoreError, Write,
        rows::{ConversationRow, OutboxRow, Peer, SealedRow},
    },
};

use super::{
    Broken, Core,
    live::{Asked, ChatWork},
};

/// Messages in one batch at most.
const BATCH: usize = 32;
/// Bytes in one batch at most, so that a frame is never too large.
const BATCH_BYTES: usize = 512 * 1024;

impl Core {
    pub(super) fn work(&mut self, account: u32, chat: u32) -> &mut ChatWork {
        self.work.entry((account, chat)).or_default()
    }

    /// The connection is another one: what was under way on the old one begins anew. Advice to wait still counts.
    pub(super) fn reset_work(&mut self, account: u32) {
        for (_, work) in self.work.range_mut((account, 0)..=(account, u32::MAX)) {
            *work = ChatWork { retry_at: work.retry_at, ..ChatWork::default() };
        }
        self.work.retain(|key, work| key.0 != account || work.retry_at > 0);
    }

    /// Goes on with a chat, as far as that is possible now: first what is to become of its conversation, then what
    /// waits to be sent.
    pub(super) fn pump(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        if !self.live.get(&account).is_some_and(super::live::Live::is_up) {
            return Ok(());
        }
        let work = self.work(account, chat);
        if work.submitting || work.handshaking || work.fetching || work.retry_at > 0 {
            return Ok(());
        }
        let Some(row) = self.store.tables().chats.get(&(account, chat)).cloned() else { return Ok(()) };
        if self.handshake(account, chat, &row)? {
            return Ok(());
        }
        if self.is_held(account, chat) || !self.store.has_outbox(account, chat)? {
            return Ok(());
        }
        let open = |id: &ConversationId| {
            let row = self.store.tables().conversations.get(&(account, *id));
            row.is_some_and(|conversation| !conversation.closed && conversation.chat == chat)
        };
        match row.conversation.filter(open) {
            Some(conversation) => self.submit(account, chat, conversation),
            None if self.next_batch(account, chat)?.is_empty() => Ok(()),
            None if row.peer == Peer::Group => self.fail_outbox(account, chat, "you are no member of this group"),
            None => self.establish(account, chat),
        }
    }

    /// Whether nothing may be sent into a chat: somebody's identity key has changed and nobody has trusted it.
    pub(super) fn is_held(&self, account: u32, chat: u32) -> bool {
        !self.changed_people(account, chat).is_empty()
    }

    /// Queued messages, in order, as many as go into one frame.
    fn next_batch(&self, account: u32, chat: u32) -> Result<Vec<(u64, OutboxRow)>, StoreError> {
        let limits = self.live.get(&account).and_then(|live| live.limits).unwrap_or_default();
        let work = self.work.get(&(account, chat));
        let alone = work.is_some_and(|work| work.alone);
        let most = if alone { 1 } else { BATCH.min(limits.submit_entries.max(1) as usize) };
        let mut bytes = 0;
        let accepted = work.map(|work| &work.accepted);
        let mut batch = Vec::new();
        for record in self.store.outbox(account, chat) {
            let (number, row) = record?;
            if row.state != MessageState::Queued || accepted.is_some_and(|accepted| accepted.contains(&number)) {
                continue;
            }
            let plain = row.text.len() + row.sync.len() + 1024;
            bytes += row.sealed.as_ref().map_or(plain, |sealed| sealed.payload.len() + 64);
            if batch.len() >= most || (!batch.is_empty() && bytes > BATCH_BYTES) {
                break;
            }
            batch.push((number, row));
        }
        Ok(batch)
    }

    fn submit(&mut self, account: u32, chat: u32, conversation: ConversationId) -> Result<(), Broken> {
        let mut batch = self.next_batch(account, chat)?;
        if batch.is_empty() || !self.seal(account, chat, conversation, &mut batch)? {
            return Ok(());
        }
        let entry = |(_, row): &(u64, OutboxRow)| {
            let sealed = row.sealed.clone()?;
            Some(v1::NewEntry {
                message_id: row.id.to_wire(),
                epoch: sealed.epoch,
                kind: v1::EntryKind::Application.into(),
                payload: sealed.payload.into(),
            })
        };
        let entries = batch.iter().filter_map(entry).collect();
        let messages = batch.iter().map(|(number, row)| (*number, row.id)).collect();
        self.work(account, chat).submitting = true;
        let body = Ask::Submit(v1::Submit { conversation: conversation.to_wire(), entries });
        self.ask(account, Asked::Submit { chat, conversation, messages }, body);
        Ok(())
    }

    /// Seals those of a batch that are not sealed for this conversation yet. `false`: the conversation has to be left.
    fn seal(
        &mut self,
        account: u32,
        chat: u32,
        id: ConversationId,
        batch: &mut [(u64, OutboxRow)],
    ) -> Result<bool, Broken> {
        let Some(mut row) = self.store.tables().conversations.get(&(account, id)).cloned() else { return Ok(false) };
        let Some(live) = self.live.get(&account) else { return Ok(false) };
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let mut write = Write::default();
        for (number, message) in batch.iter_mut() {
            if message.sealed.as_ref().is_some_and(|sealed| sealed.conversation == id) {
                continue;
            }
            row.sent_counter += 1;
            let content = if message.sync.is_empty() {
                Content::text(message.written_at_ms, row.sent_counter, message.text.clone())
            } else {
                super::own::sync_content(message.written_at_ms, row.sent_counter, &message.sync)
            };
            match transaction.seal(&live.device, id.0, message.id.0, &content) {
                Ok(sealed) => {
                    let (epoch, payload) = (sealed.epoch, sealed.payload);
                    message.sealed = Some(SealedRow { conversation: id, epoch, payload });
                    write.outbox(account, chat, *number, Some(message))?;
                }
                Err(SealError::Store(error)) => {
                    tracing::error!(%error, "the encryption state cannot be read");
                    return Err(StoreError::Damaged);
                }
                // A commit of ours is under way, or somebody leaves: it goes into the next epoch.
                Err(SealError::Pending) => return Ok(false),
                Err(error) => {
                    tracing::error!(%error, "a conversation cannot be used any more");
                    self.state_lost(account, chat, id)?;
                    self.pump(account, chat)?;
                    return Ok(false);
                }
            }
        }
        write.state(account, transaction.into_changes());
        write.conversation(account, id, Some(row));
        self.commit(write, account, Vec::new())?;
        Ok(true)
    }

    /// The server has the batch. Its messages move to the history when they come back in the log.
    pub(super) fn submitted(
        &mut self,
        account: u32,
        chat: u32,
        conversation: ConversationId,
        messages: &[(u64, MessageId)],
        accepted: &v1::Accepted,
    ) -> Result<(), Broken> {
        let mut waiting = Vec::new();
        for (index, (number, id)) in messages.iter().enumerate() {
            if !self.store.is_waiting(account, chat, *number)? {
                continue;
            }
            let seq = accepted.seqs.get(index).copied().unwrap_or_default();
            match self.step_in(account, conversation).filter(|step| (1..=step.conversation.cursor).contains(&seq)) {
                // It stands where we have passed already, so it will not come back: the server had removed it by then.
                Some(mut step) => {
                    let entry = v1::Entry { seq, server_time_ms: accepted.server_time_ms, ..v1::Entry::default() };
                    self.take_own(&mut step, &entry, *id)?;
                    self.finish(step)?;
                }
                None => waiting.push(*number),
            }
        }
        let work = self.work(account, chat);
        (work.submitting, work.alone) = (false, false);
        (work.pauses, work.attempts) = (0, 0);
        work.accepted.extend(waiting);
        self.pump(account, chat)
    }

    pub(super) fn submit_failed(
        &mut self,
        account: u32,
        chat: u32,
        conversation: ConversationId,
        messages: &[(u64, MessageId)],
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        self.work(account, chat).submitting = false;
        match failure.code() {
            // The commit that it lacks is on its way through the log; a pause, in case that takes long.
            Code::StaleEpoch => {
                // What was sealed at an earlier epoch has been unsealed by the commit that came since: it goes out anew.
                let here = self.store.tables().conversations.get(&(account, conversation)).map(|row| row.epoch);
                let mut sealed = false;
                for record in self.store.outbox(account, chat) {
                    let (number, row) = record?;
                    sealed |= messages.iter().any(|(known, _)| *known == number)
                        && row.sealed.is_some_and(|sealed| Some(sealed.epoch) == here);
                }
                if sealed || here < Some(failure.epoch) {
                    self.behind(account, chat, conversation, failure)?;
                } else {
                    self.seal_anew(account, chat, (conversation, failure.epoch), messages)?;
                }
                self.pump(account, chat)
            }
            Code::ClosedConversation | Code::NotAMember | Code::NotFound if self.may_be_told(account, chat) => {
                self.retry_later(account, chat, failure);
                Ok(())
            }
            Code::ClosedConversation | Code::NotAMember | Code::NotFound => {
                self.end_conversation(account, chat, conversation)?;
                self.pump(account, chat)
            }
            code if code.is_temporary() => {
                self.retry_later(account, chat, failure);
                Ok(())
            }
            // Some of them may be in the log, if an earlier answer was lost: only of one alone is it certain.
            _ if messages.len() > 1 => {
                self.work(account, chat).alone = true;
                self.pump(account, chat)
            }
            // It is there already, sealed at an epoch that this device has lost since.
            Code::Conflict => {
                let Some(mut step) = self.step_in(account, conversation) else { return Ok(()) };
                self.unseal_from(&mut step, messages)?;
                for (_, id) in messages {
                    self.take_own_at(&mut step, (None, self.now), *id)?;
                }
                self.finish(step)?;
                self.pump(account, chat)
            }
            Code::Refused => {
                let why = match self.contact_of_chat(account, chat) {
                    Some(contact) => format!("{} does not accept messages from you", contact.name),
                    None => "the group does not accept messages from you".to_owned(),
                };
                self.fail_message(account, chat, conversation, messages, &why)
            }
            _ => {
                let why = api_error(failure).message;
                self.fail_message(account, chat, conversation, messages, &why)
            }
        }
    }

    /// The server has a conversation at another epoch than this device. The commits that it lacks come through the log;
    /// when they do not, they are gone, or the server is not what it was.
    pub(super) fn behind(
        &mut self,
        account: u32,
        chat: u32,
        id: ConversationId,
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        const TIMES: u32 = 4;
        let Some(row) = self.store.tables().conversations.get(&(account, id)) else { return Ok(()) };
        let (epoch, cursor) = (row.epoch, row.cursor);
        let work = self.work(account, chat);
        let times = match work.behind {
            Some((at, read, times)) if (at, read) == (epoch, cursor) => times + 1,
            _ => 1,
        };
        work.behind = Some((epoch, cursor, times));
        if times < TIMES {
            self.retry_later(account, chat, failure);
            return Ok(());
        }
        self.work(account, chat).behind = None;
        tracing::warn!("a conversation is at another epoch than the server's, and its log does not say why");
        self.state_lost(account, chat, id)
    }

    /// A message is not in the log, and trying again as it is would not help. Neither is anything that was sealed after
    /// it: all of that is sealed anew, so that the other side sees no gap.
    fn fail_message(
        &mut self,
        account: u32,
        chat: u32,
        conversation: ConversationId,
        message: &[(u64, MessageId)],
        why: &str,
    ) -> Result<(), Broken> {
        let mut write = Write::default();
        let mut events = Vec::new();
        let mut unsealed = 0;
        let title = self.chat_id(account, chat);
        let mut found = false;
        for record in self.store.outbox(account, chat) {
            let (number, mut row) = record?;
            let failed = message.contains(&(number, row.id));
            found |= failed;
            if !found || (!failed && row.sealed.is_none()) {
                continue;
            }
            unsealed += u64::from(row.sealed.take().is_some_and(|sealed| sealed.conversation == conversation));
            if failed {
                fail(&mut row, why);
                events.push(state_event(&title, &row));
            }
            write.outbox(account, chat, number, Some(&row))?;
        }
        if let Some(row) = self.store.tables().conversations.get(&(account, conversation)).cloned() {
            let sent_counter = row.sent_counter.saturating_sub(unsealed);
            write.conversation(account, conversation, Some(ConversationRow { sent_counter, ..row }));
        }
        self.commit(write, account, events)?;
        self.pump(account, chat)
    }

    /// The conversation is at a later epoch: what was sealed at an earlier one is not in the log and never will be, or it
    /// would have come back before the commit. It is sealed anew, under the same ids.
    pub(super) fn unseal(&self, step: &mut super::step::Step) -> Result<(), Broken> {
        let mut unsealed = 0;
        for record in self.store.outbox(step.account, step.conversation.chat) {
            let (number, mut row) = record?;
            let stale = |sealed: &SealedRow| sealed.conversation == step.id && sealed.epoch < step.conversation.epoch;
            if row.sealed.as_ref().is_some_and(stale) {
                row.sealed = None;
                unsealed += 1;
                step.write.outbox(step.account, step.conversation.chat, number, Some(&row))?;
            }
        }
        step.conversation.sent_counter = step.conversation.sent_counter.saturating_sub(unsealed);
        Ok(())
    }

    /// What a device sealed before it lost its place may be in the log or not: the same bytes are sent once more, and only
    /// when the server refuses one alone, it is certain that it is not.
    fn seal_anew(
        &mut self,
        account: u32,
        chat: u32,
        (conversation, epoch): (ConversationId, u64),
        messages: &[(u64, MessageId)],
    ) -> Result<(), Broken> {
        let stale = |sealed: &SealedRow| sealed.conversation == conversation && sealed.epoch < epoch;
        let rows: Vec<(u64, OutboxRow)> = self.store.outbox(account, chat).collect::<Result<_, _>>()?;
        let concerned = |(number, row): &(u64, OutboxRow)| {
            messages.contains(&(*number, row.id)) && row.sealed.as_ref().is_some_and(stale)
        };
        if !rows.iter().any(concerned) {
            return Ok(());
        }
        if messages.len() > 1 {
            self.work(account, chat).alone = true;
            return Ok(());
        }
        let Some(mut step) = self.step_in(account, conversation) else { return Ok(()) };
        self.unseal_from(&mut step, messages)?;
        self.finish(step)
    }

    /// The bytes of some messages are not in the log. They and what was sealed after them are sealed anew, so that
    /// nobody sees a gap, or another order.
    pub(super) fn unseal_from(
        &self,
        step: &mut super::step::Step,
        messages: &[(u64, MessageId)],
    ) -> Result<(), Broken> {
        let (mut found, mut unsealed) = (false, 0);
        for record in self.store.outbox(step.account, step.conversation.chat) {
            let (number, mut row) = record?;
            found |= messages.contains(&(number, row.id));
            if !found || row.sealed.as_ref().is_none_or(|sealed| sealed.conversation != step.id) {
                continue;
            }
            // What is from before this device came back was counted by itself.
            unsealed += u64::from(row.sealed.take().is_some_and(|sealed| sealed.epoch == step.conversation.epoch));
            step.write.outbox(step.account, step.conversation.chat, number, Some(&row))?;
        }
        step.conversation.sent_counter = step.conversation.sent_counter.saturating_sub(unsealed);
        Ok(())
    }

    /// Nothing of a chat's outbox can go out.
    pub(super) fn fail_outbox(&mut self, account: u32, chat: u32, why: &str) -> Result<(), Broken> {
        let (mut write, mut events) = (Write::default(), Vec::new());
        self.move_outbox(&mut write, &mut events, (account, chat), MessageState::Queued, |row| fail(row, why))?;
        self.commit(write, account, events)
    }

    /// What is queued waits until somebody trusts the contact's new identity.
    pub(super) fn hold_outbox(
        &self,
        write: &mut Write,
        events: &mut Vec<EventKind>,
        chat: (u32, u32),
        name: &str,
    ) -> Result<(), Broken> {
        self.move_outbox(write, events, chat, MessageState::Queued, |row| {
            row.state = MessageState::Held;
            row.error = held_reason(name);
        })
    }

    /// What was held goes on.
    pub(super) fn release_outbox(
        &self,
        write: &mut Write,
        events: &mut Vec<EventKind>,
        chat: (u32, u32),
    ) -> Result<(), Broken> {
        self.move_outbox(write, events, chat, MessageState::Held, |row| {
            row.state = MessageState::Queued;
            row.error.clear();
        })
    }

    /// Moves every message of a chat's outbox that is in one state into another.
    fn move_outbox(
        &self,
        write: &mut Write,
        events: &mut Vec<EventKind>,
        (account, chat): (u32, u32),
        from: MessageState,
        change: impl Fn(&mut OutboxRow),
    ) -> Result<(), Broken> {
        let title = self.chat_id(account, chat);
        for record in self.store.outbox(account, chat) {
            let (number, mut row) = record?;
            if row.state == from {
                change(&mut row);
                write.outbox(account, chat, number, Some(&row))?;
                events.push(state_event(&title, &row));
            }
        }
        Ok(())
    }
}

pub(super) fn held_reason(name: &str) -> String {
    format!("the identity key of {name} has changed")
}

pub(super) fn state_event(chat: &str, row: &OutboxRow) -> EventKind {
    EventKind::MessageState { chat: chat.to_owned(), id: row.id.to_string(), state: row.state }
}

fn fail(row: &mut OutboxRow, why: &str) {
    row.state = MessageState::Failed;
    why.clone_into(&mut row.error);
}
