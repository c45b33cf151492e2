//! Handshake messages of ours: sent until the server has answered, merged when they stand in the log.
//!
//! **Invariant**: the same bytes go out on every try, and a lost commit leaves nothing behind but its task.

use fastchat_e2ee::Transaction;
use fastchat_wire::{Code, ConversationId, MessageId, v1};
use prost::Message as _;
use v1::client_frame::Body as Ask;

use crate::{
    fault,
    link::api_error,
    store::{
        StoreError, Write,
        rows::{ChatRow, HandshakeKind, HandshakeRow, Peer, Standing},
    },
};

use super::super::{Broken, Core, live::Asked};

/// A loser of an epoch waits up to so long, doubled with each loss in a row.
const LOSER_PAUSE_MS: u64 = 100;
/// Others' leaving is committed after so long, and so long more by the device's dice for each member.
const TAKE_IN_MS: u64 = 300;
const TAKE_IN_SPREAD_MS: u64 = 150;

impl Core {
    /// Goes on with what is to become of a chat's conversation. `true`: something is under way, and messages wait.
    pub(in crate::core) fn handshake(&mut self, account: u32, chat: u32, row: &ChatRow) -> Result<bool, Broken> {
        if row.peer == Peer::Group
            && let Some(frame) = self.store.creation(account, chat)?
        {
            let create = v1::CreateGroup::decode(frame.as_slice()).map_err(|_| StoreError::Damaged)?;
            self.work(account, chat).handshaking = true;
            self.ask(account, Asked::CreateGroup { chat }, Ask::CreateGroup(create));
            return Ok(true);
        }
        if let Some(handshake) = self.store.handshake(account, chat)? {
            self.send_handshake(account, chat, &handshake)?;
            return Ok(true);
        }
        if self.group_row(account, chat).is_some_and(|group| group.standing == Standing::Joining) {
            self.fetch_group(account, chat);
            return Ok(true);
        }
        let Some(id) = self.open_conversation(account, chat) else {
            self.end_tasks(account, chat)?;
            return Ok(false);
        };
        if self.next_task(account, chat, id)? {
            return Ok(true);
        }
        let leaving = |core: &Self| {
            let group = core.group_row(account, chat);
            group.is_some_and(|group| {
                let others = group.members.iter().filter(|member| !core.is_own_name(account, &member.name));
                group.standing == Standing::Active && others.into_iter().any(|member| member.leaving)
            })
        };
        if !leaving(self) {
            self.work(account, chat).take_in_at = 0;
            return Ok(false);
        }
        let due = self.work(account, chat).take_in_at;
        if due <= self.now || self.store.has_outbox(account, chat)? {
            return self.take_in(account, chat, id);
        }
        Ok(false)
    }

    /// The conversation that a chat's messages go into, if there is one.
    pub(in crate::core) fn open_conversation(&self, account: u32, chat: u32) -> Option<ConversationId> {
        let id = self.store.tables().chats.get(&(account, chat))?.conversation?;
        self.store.tables().conversations.get(&(account, id)).filter(|row| !row.closed && row.chat == chat).map(|_| id)
    }

    pub(in crate::core) fn send_handshake(
        &mut self,
        account: u32,
        chat: u32,
        row: &HandshakeRow,
    ) -> Result<(), Broken> {
        let frame = v1::Handshake::decode(row.frame.as_slice()).map_err(|_| StoreError::Damaged)?;
        self.work(account, chat).handshaking = true;
        self.ask(account, Asked::Handshake { chat, id: row.id }, Ask::Handshake(frame));
        Ok(())
    }

    /// The server has made our group: what waits for that goes on.
    pub(in crate::core) fn group_created(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        let work = self.work(account, chat);
        (work.handshaking, work.pauses) = (false, 0);
        let mut write = Write::default();
        write.creation(account, chat, None)?;
        self.commit(write, account, vec![self.group_changed(account, chat)])?;
        fault::point("create-answered");
        self.pump(account, chat)
    }

    pub(in crate::core) fn group_not_created(
        &mut self,
        account: u32,
        chat: u32,
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        self.work(account, chat).handshaking = false;
        if failure.code().is_temporary() {
            self.retry_later(account, chat, failure);
            return Ok(());
        }
        let error = api_error(failure);
        for (number, _) in self.store.tasks(account, chat)? {
            self.fail_task(account, chat, number, &error)?;
        }
        self.fail_outbox(account, chat, &error.message)?;
        self.give_up_group(account, chat, &format!("the server did not make this group: {}", error.message), true)
    }

    /// The server has a handshake message of ours.
    pub(in crate::core) fn handshake_accepted(
        &mut self,
        account: u32,
        chat: u32,
        id: MessageId,
        accepted: &v1::Accepted,
    ) -> Result<(), Broken> {
        let row = self.store.handshake(account, chat)?.filter(|row| row.id == id);
        let seq = accepted.seqs.first().copied().unwrap_or_default();
        let Some(row) = row else {
            self.work(account, chat).handshaking = false;
            return self.pump(account, chat);
        };
        if row.kind == HandshakeKind::Rejoin {
            fault::point("rejoin-accepted");
            return self.rejoined(account, chat, &row, seq);
        }
        fault::point(if row.kind == HandshakeKind::Leave { "proposal-answered" } else { "commit-answered" });
        let cursor = self.store.tables().conversations.get(&(account, row.conversation)).map_or(0, |row| row.cursor);
        if seq <= cursor {
            // It stands where we have passed already: the server had removed it by then.
            self.work(account, chat).handshaking = false;
            return self.state_lost(account, chat, row.conversation);
        }
        // Until it comes out of the log, it is under way.
        Ok(())
    }

    pub(in crate::core) fn handshake_failed(
        &mut self,
        account: u32,
        chat: u32,
        id: MessageId,
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        self.work(account, chat).handshaking = false;
        let Some(row) = self.store.handshake(account, chat)?.filter(|row| row.id == id) else {
            return self.pump(account, chat);
        };
        match failure.code() {
            Code::StaleEpoch if row.kind == HandshakeKind::Commit || row.kind == HandshakeKind::Leave => {
                // The winner is on its way through the log, and takes this one's place.
                self.behind(account, chat, row.conversation, failure)
            }
            Code::StaleEpoch | Code::ProposalsPending => {
                self.drop_handshake(account, chat, &row)?;
                self.back_off(account, chat, row.conversation);
                Ok(())
            }
            code if code.is_temporary() => {
                self.retry_later(account, chat, failure);
                Ok(())
            }
            Code::NotAMember | Code::NotFound | Code::ClosedConversation
                if row.kind != HandshakeKind::Rejoin && self.may_be_told(account, chat) =>
            {
                self.drop_handshake(account, chat, &row)?;
                self.retry_later(account, chat, failure);
                Ok(())
            }
            Code::NotAMember | Code::NotFound | Code::ClosedConversation => {
                self.drop_handshake(account, chat, &row)?;
                if row.kind == HandshakeKind::Rejoin || failure.code() == Code::ClosedConversation {
                    let text = "the server says that this account is no member of the group, or that it is no more";
                    self.give_up_group(account, chat, text, true)?;
                } else {
                    self.end_conversation(account, chat, row.conversation)?;
                }
                self.pump(account, chat)
            }
            Code::RosterMismatch if self.work(account, chat).pauses < 4 => {
                // Somebody's devices are others than a moment ago.
                self.drop_handshake(account, chat, &row)?;
                self.retry_later(account, chat, failure);
                Ok(())
            }
            _ => {
                self.drop_handshake(account, chat, &row)?;
                if row.kind == HandshakeKind::Rejoin {
                    self.retry_later(account, chat, failure);
                    return Ok(());
                }
                self.fail_task(account, chat, row.task, &api_error(failure))?;
                if row.task == 0 {
                    self.retry_later(account, chat, failure);
                }
                self.pump(account, chat)
            }
        }
    }

    /// The server takes nothing more from us into a group, and the log, which may be on its way here still, has not
    /// said why: it gets some time to.
    pub(in crate::core) fn may_be_told(&mut self, account: u32, chat: u32) -> bool {
        const PAUSES: u32 = 6;
        self.group_row(account, chat).is_some() && self.work(account, chat).pauses < PAUSES
    }

    /// A handshake message of ours is not in the log, and will not be.
    fn drop_handshake(&mut self, account: u32, chat: u32, row: &HandshakeRow) -> Result<(), Broken> {
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let undone = match row.kind {
            HandshakeKind::Rejoin => transaction.forget(row.conversation.0),
            HandshakeKind::Commit | HandshakeKind::Leave => transaction.clear_pending(row.conversation.0),
        };
        if let Err(error) = undone {
            tracing::error!(%error, "the encryption state cannot be read");
            return Err(StoreError::Damaged);
        }
        let mut write = Write::default();
        write.state(account, transaction.into_changes());
        write.handshake(account, chat, None)?;
        self.commit(write, account, Vec::new())?;
        fault::point("commit-dropped");
        Ok(())
    }

    /// Another commit was faster: the next try waits a little, by the device's own dice.
    pub(in crate::core) fn back_off(&mut self, account: u32, chat: u32, id: ConversationId) {
        let (now, dice) = (self.now, self.dice(account, id));
        let work = self.work(account, chat);
        work.losses += 1;
        work.retry_at = now + 1 + dice % (LOSER_PAUSE_MS << work.losses.min(6));
    }

    /// Somebody leaves: one of the others commits it.
    pub(in crate::core) fn schedule_take_in(&mut self, account: u32, chat: u32, id: ConversationId) {
        let members = self.group_row(account, chat).map_or(1, |group| group.members.len() as u64);
        let wait = TAKE_IN_MS + self.dice(account, id) % (TAKE_IN_SPREAD_MS * members.clamp(1, 40));
        let due = self.now + wait;
        self.work(account, chat).take_in_at = due;
    }
}
