//! Coming (back) into a group by an external commit: a new device of a member, or one that lost its place.
//!
//! **Invariant**: who is in the group afterwards is said, wherever it is not who was in it before.

use std::collections::BTreeSet;

use fastchat_e2ee::{CertificateError, JoinError, Leaf, Transaction};
use fastchat_wire::{AccountName, Code, ConversationId, MessageId, v1};
use prost::Message as _;
use v1::client_frame::Body as Ask;

use crate::{
    fault,
    link::api_error,
    store::{
        StoreError, Write,
        rows::{ConversationRow, GroupRow, HandshakeKind, HandshakeRow, Peer, Standing},
    },
};

use super::{
    super::{Broken, Core, live::Asked, receive::LAST_SEQ, step::Step},
    authenticator,
};

/// So many pauses are made for somebody who is known to vouch for a group's state.
const VOUCHED_FOR: u32 = 5;
/// Members that lost their place come back within so long for each of them.
const COMING_BACK_MS: u64 = 150;
/// Groups that wait for that.
const UNJOINED: usize = 4_096;
/// Groups that a device comes into at the same time, on the server's word that its account is a member.
const JOINING_AT_ONCE: usize = 64;

impl Core {
    /// The server says that the account is in a group, and this device is not.
    pub(in crate::core) fn take_unjoined(&mut self, account: u32, unjoined: &v1::Unjoined) -> Result<(), Broken> {
        let Ok(id) = ConversationId::from_wire(&unjoined.conversation) else { return Ok(()) };
        if !self.store.has_room() {
            return self.stall(account);
        }
        let (number, chat) = self.group_chat(account, id);
        let carries = self.store.tables().conversations.get(&(account, id)).map(|row| row.chat);
        if chat.peer != Peer::Group || carries.is_some_and(|carries| carries != number) {
            tracing::warn!("the server names a group by the id of another conversation");
            return Ok(());
        }
        if self.group_row(account, number).is_some_and(|group| group.standing == Standing::Joining) {
            return self.pump(account, number);
        }
        // A group that we left, that is no more, or whose change was refused here comes back by an admin's Welcome only.
        // One without members is known from a backup.
        let over = |group: &GroupRow| !group.is_current() && (group.refused || !group.members.is_empty());
        if self.group_row(account, number).is_some_and(over) {
            return Ok(());
        }
        let groups = self.store.tables().groups.range((account, 0)..=(account, u32::MAX));
        let coming = groups.filter(|(_, group)| group.standing == Standing::Joining && group.members.is_empty());
        if self.group_row(account, number).is_none() && coming.count() >= JOINING_AT_ONCE {
            if let Some(live) = self.live.get_mut(&account).filter(|live| live.unjoined.len() < UNJOINED) {
                live.unjoined.insert(id);
            }
            return Ok(());
        }
        self.rejoin(account, number, id)
    }

    /// This device cannot follow a conversation any more: a group is joined anew, a direct one made anew.
    pub(in crate::core) fn state_lost(&mut self, account: u32, chat: u32, id: ConversationId) -> Result<(), Broken> {
        match self.chat_row(account, chat).map(|row| row.peer) {
            Some(Peer::Group) if self.group_row(account, chat).is_some_and(GroupRow::is_current) => {
                self.rejoin(account, chat, id)
            }
            Some(Peer::Group) | None => Ok(()),
            Some(_) => self.leave(account, chat, id),
        }
    }

    /// An entry shows that this device cannot follow a conversation any more: what follows from that is committed along
    /// with the entry, which does not come again.
    pub(in crate::core) fn lose_place(&self, step: &mut Step) -> Result<(), Broken> {
        let (account, number, id) = (step.account, step.conversation.chat, step.id);
        if step.chat.peer == Peer::Group {
            self.begin_rejoin(step)
        } else if !step.conversation.closed {
            if step.chat.conversation == Some(id) {
                step.chat.conversation = None;
                step.chat.replaces = Some(id);
            }
            self.close(&mut step.write, account, number, Some(id), &mut step.chat)?;
            step.conversation.closed = true;
            step.events.push(fastchat_ipc::EventKind::ChatChanged { chat: step.chat.id.clone() });
            Ok(())
        } else {
            Ok(())
        }
    }

    /// After [`Core::lose_place`]: begins to come back.
    pub(in crate::core) fn place_lost(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        fault::point("rejoin-begun");
        // All members may have lost it by the same commit: not all come back in the same moment.
        let members = self.group_row(account, chat).map_or(0, |group| group.members.len() as u64);
        let id = self.chat_id(account, chat).parse::<ConversationId>();
        let spread = COMING_BACK_MS * members.saturating_sub(1).min(40);
        let wait = id.map_or(0, |id| self.dice(account, id) % spread.max(1));
        let now = self.now;
        let work = self.work(account, chat);
        (work.handshaking, work.submitting) = (false, false);
        work.retry_at = if wait > 0 { work.retry_at.max(now + wait) } else { work.retry_at };
        self.pump(account, chat)
    }

    fn begin_rejoin(&self, step: &mut Step) -> Result<(), Broken> {
        let (account, number) = (step.account, step.conversation.chat);
        let group = step.group.take().or_else(|| self.group_row(account, number).cloned());
        step.group = Some(match group {
            Some(group) => GroupRow { standing: Standing::Joining, ..group },
            None => GroupRow {
                name: String::new(),
                topic: String::new(),
                standing: Standing::Joining,
                members: Vec::new(),
                created_at_ms: self.now,
                epoch: 0,
                authenticator: Vec::new(),
                refused: false,
            },
        });
        step.conversation.closed = true;
        step.chat.conversation = None;
        step.write.handshake(account, number, None)?;
        step.events.push(self.group_changed(account, number));
        Ok(())
    }

    /// The server takes nothing more into a conversation from us.
    pub(in crate::core) fn end_conversation(
        &mut self,
        account: u32,
        chat: u32,
        id: ConversationId,
    ) -> Result<(), Broken> {
        match self.chat_row(account, chat).map(|row| row.peer) {
            // Whether we are a member still, the attempt to come back tells.
            Some(Peer::Group) => match self.group_row(account, chat).map(|group| group.standing) {
                Some(Standing::Active | Standing::Leaving) => self.rejoin(account, chat, id),
                _ => Ok(()),
            },
            Some(_) => self.leave(account, chat, id),
            None => Ok(()),
        }
    }

    pub(in crate::core) fn rejoin(&mut self, account: u32, number: u32, id: ConversationId) -> Result<(), Broken> {
        let (_, chat) = self.group_chat(account, id);
        let known = self.store.tables().conversations.get(&(account, id)).filter(|row| row.chat == number).cloned();
        let conversation = known.unwrap_or_else(|| self.begun(account, number, id, 0));
        let mut step = Step::new(account, id, ConversationRow { closed: true, ..conversation }, chat, None);
        self.begin_rejoin(&mut step)?;
        self.commit_joining(step)?;
        self.place_lost(account, number)
    }

    pub(in crate::core) fn fetch_group(&mut self, account: u32, chat: u32) {
        let Ok(id) = self.chat_id(account, chat).parse::<ConversationId>() else { return };
        self.work(account, chat).fetching = true;
        let body = Ask::FetchGroup(v1::FetchGroup { conversation: id.to_wire() });
        self.ask(account, Asked::FetchGroup { chat }, body);
    }

    /// What the external commit needs has come.
    pub(in crate::core) fn group_fetched(
        &mut self,
        account: u32,
        chat: u32,
        found: &v1::GroupState,
    ) -> Result<(), Broken> {
        self.work(account, chat).fetching = false;
        let joining = self.group_row(account, chat).is_some_and(|group| group.standing == Standing::Joining);
        let Ok(id) = self.chat_id(account, chat).parse::<ConversationId>() else { return Ok(()) };
        if !joining || found.conversation != id.to_wire() {
            return self.pump(account, chat);
        }
        let patient = self.work(account, chat).pauses < VOUCHED_FOR;
        let Some(live) = self.live.get(&account) else { return Ok(()) };
        fault::point("rejoin-fetched");
        let message = MessageId::generate();
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let proposals: Vec<Vec<u8>> = found.proposals.iter().map(|proposal| proposal.to_vec()).collect();
        let (info, tree) = (&found.group_info, &found.ratchet_tree);
        let prepared = match transaction.rejoin(&live.device, id.0, message.0, info, tree, &proposals) {
            Ok(prepared) => prepared,
            Err(JoinError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                return Err(StoreError::Damaged);
            }
            Err(JoinError::Older { had, offered }) => return self.refuse_older(account, chat, id, (offered, had)),
            Err(JoinError::Member(CertificateError::OtherIdentity)) => {
                let text = "this account is in the group under another identity than it has now: an admin has to remove \
                            it and add it again";
                return self.give_up_group(account, chat, text, false);
            }
            Err(error) => {
                tracing::warn!(%error, "a group cannot be joined as the server shows it");
                let failure = v1::Failure::new(Code::Internal, format!("the group cannot be joined: {error}"));
                self.retry_later(account, chat, &failure);
                return Ok(());
            }
        };
        let known = self.group_row(account, chat).map_or(0, |group| group.epoch);
        if prepared.epoch < known {
            return self.refuse_older(account, chat, id, (prepared.epoch, known));
        }
        if !self.vouches(account, chat, prepared.shown_by.as_ref()) && patient {
            // A member that is known here may commit in a moment. When none does, who is new is said in the chat.
            let text = "the group's state is shown by somebody who is not known to be in it";
            self.retry_later(account, chat, &v1::Failure::new(Code::Internal, text));
            return Ok(());
        }
        let frame = v1::Handshake {
            conversation: id.to_wire(),
            message_id: message.to_wire(),
            epoch: prepared.epoch,
            kind: v1::EntryKind::Commit.into(),
            message: prepared.message.into(),
            group_info: prepared.group_info.into(),
            welcomes: Vec::new(),
        };
        let frame = frame.encode_to_vec();
        let row = HandshakeRow { id: message, conversation: id, frame, task: 0, kind: HandshakeKind::Rejoin };
        let mut write = Write::default();
        write.state(account, transaction.into_changes());
        write.handshake(account, chat, Some(&row))?;
        self.commit(write, account, Vec::new())?;
        fault::point("rejoin-stored");
        self.send_handshake(account, chat, &row)
    }

    /// One of the groups that the account is in has come to an end here, one way or the other: the next one's turn.
    pub(in crate::core) fn next_unjoined(&mut self, account: u32) -> Result<(), Broken> {
        match self.live.get_mut(&account).and_then(|live| live.unjoined.pop_first()) {
            Some(next) => self.take_unjoined(account, &v1::Unjoined { conversation: next.to_wire() }),
            None => Ok(()),
        }
    }

    /// Whether whoever signed the shown state of a group is a member of it as far as this device knew it.
    fn vouches(&self, account: u32, chat: u32, shown_by: Option<&Leaf>) -> bool {
        let Some(group) = self.group_row(account, chat).filter(|group| !group.members.is_empty()) else { return true };
        let Some(leaf) = shown_by else { return false };
        let print = super::super::view::fingerprint_of(Some(&leaf.identity)).map(|print| print.0);
        group.members.iter().any(|member| member.name.as_str() == leaf.account && Some(member.fingerprint) == print)
    }

    /// The server shows the group at an epoch that it has left behind: who was removed since would be in it again.
    fn refuse_older(
        &mut self,
        account: u32,
        chat: u32,
        id: ConversationId,
        (shown, known): (u64, u64),
    ) -> Result<(), Broken> {
        if self.work(account, chat).pauses == 0
            && let Some(mut step) = self.step_in(account, id)
        {
            let text = format!(
                "the server shows this group as it was at epoch {shown}, and it was at {known} here: the device does \
                 not go back; ask the server's operator whether an older backup was put in place"
            );
            step.notice(self.now, text)?;
            self.finish(step)?;
        }
        let failure = v1::Failure::new(Code::Internal, "the server shows an older epoch of a group");
        self.retry_later(account, chat, &failure);
        Ok(())
    }

    pub(in crate::core) fn group_not_fetched(
        &mut self,
        account: u32,
        chat: u32,
        failure: &v1::Failure,
    ) -> Result<(), Broken> {
        self.work(account, chat).fetching = false;
        match failure.code() {
            Code::NotAMember | Code::NotFound | Code::ClosedConversation => {
                let text = "the server says that this account is no member of the group any more";
                self.give_up_group(account, chat, text, true)
            }
            _ => {
                tracing::warn!(error = api_error(failure).message, "a group's state was not to be had");
                self.retry_later(account, chat, failure);
                Ok(())
            }
        }
    }

    /// The external commit stands in the log: the device is in.
    pub(in crate::core) fn rejoined(
        &mut self,
        account: u32,
        chat: u32,
        row: &HandshakeRow,
        seq: u64,
    ) -> Result<(), Broken> {
        let id = row.conversation;
        self.work(account, chat).handshaking = false;
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let applied = match transaction.merge_pending(id.0) {
            Ok(applied) if seq <= LAST_SEQ => applied,
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, "the external commit cannot be merged");
                return self.rejoin(account, chat, id);
            }
        };
        let authenticator = authenticator(&transaction, id)?;
        let Some(mut step) = self.step_in(account, id) else { return Ok(()) };
        step.write.state(account, transaction.into_changes());
        step.write.handshake(account, chat, None)?;
        let first = self.group_row(account, chat).is_none_or(|group| group.members.is_empty());
        let group = self.group_of(account, chat, &applied.roster, authenticator, Standing::Active)?;
        if first {
            self.tell_of_group(&mut step, &group)?;
        } else {
            self.tell_of_the_gap(&mut step, &group, seq)?;
        }
        self.meet(&mut step, &applied.roster.leaves)?;
        step.count_anew(&applied.roster.leaves)?;
        step.group = Some(group);
        step.chat.conversation = Some(id);
        let conversation = &mut step.conversation;
        (conversation.closed, conversation.cursor, conversation.epoch) = (false, seq, applied.epoch);
        conversation.sent_counter = 0;
        conversation.update_at_ms = self.next_update(account, id);
        step.events.push(self.group_changed(account, chat));
        step.events.push(fastchat_ipc::EventKind::ChatChanged { chat: step.chat.id.clone() });
        let news = step.news;
        self.finish(step)?;
        fault::point("rejoin-merged");
        self.release_if_free(account, chat)?;
        if news {
            self.alert(account, chat)?;
        }
        let work = self.work(account, chat);
        (work.losses, work.pauses, work.retry_at) = (0, 0, 0);
        // Messages of ours may stand in what was passed over: the server says so when they come again.
        work.accepted.clear();
        self.next_unjoined(account)?;
        self.acknowledge(account, id);
        // A device of ours may be in it that is gone from the account.
        self.list_devices(account);
        self.pump(account, chat)
    }

    /// A group that this device did not know: nobody but the server has named it, so everybody in it is told.
    fn tell_of_group(&self, step: &mut Step, group: &GroupRow) -> Result<(), Broken> {
        let others = group.members.iter().filter(|member| !self.is_own_name(step.account, &member.name));
        let names: Vec<String> = others.map(|member| self.name_of(step.account, &member.name)).collect();
        let with = if names.is_empty() { String::new() } else { format!(", with {}", super::apply::listed(&names)) };
        let name = &group.name;
        let text = format!("the server says that this account is in the group {name}; this device is in it now{with}");
        step.notice(self.now, text)?;
        Ok(())
    }

    /// What this device has missed, as far as it can tell.
    fn tell_of_the_gap(&self, step: &mut Step, now: &GroupRow, seq: u64) -> Result<(), Broken> {
        let Some(before) = self.group_row(step.account, step.conversation.chat) else { return Ok(()) };
        let names = |group: &GroupRow| group.members.iter().map(|member| member.name.clone()).collect::<BTreeSet<_>>();
        let admins = |group: &GroupRow| group.admins().cloned().collect::<BTreeSet<_>>();
        let listed = |set: BTreeSet<AccountName>| {
            let names: Vec<String> = set.iter().map(|name| self.name_of(step.account, name)).collect();
            super::apply::listed(&names)
        };
        let missed = seq.saturating_sub(step.conversation.cursor + 1);
        let mut text = format!(
            "this device had lost its place in the group and is in it again; {missed} entries are missing here"
        );
        for (what, set) in [
            ("new since", &names(now) - &names(before)),
            ("gone since", &names(before) - &names(now)),
            ("admins since", &admins(now) - &admins(before)),
        ] {
            if !set.is_empty() {
                text.push_str(&format!("; {what}: {}", listed(set)));
            }
        }
        step.notice(self.now, text)?;
        Ok(())
    }
}

impl HandshakeRow {
    /// Whether an entry of the log is the external commit that this row is about.
    pub(in crate::core) fn is_rejoin(&self, entry: &v1::Entry) -> bool {
        self.kind == HandshakeKind::Rejoin && entry.message_id == self.id.to_wire()
    }
}
