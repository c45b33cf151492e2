//! What the log says of a conversation's roster: commits and the leaving of members, each applied as it comes.
//!
//! **Invariant**: a change that its maker's role does not allow is followed by no device; what changed is said in the
//! chat, by whom and whom it concerns.

use fastchat_e2ee::{Applied, ProcessError, Processed, Transaction};
use fastchat_ipc::EventKind;
use fastchat_wire::{AccountName, ConversationId, MessageId, v1};
use prost::Message as _;

use crate::{
    fault,
    store::{
        StoreError,
        rows::{GroupRow, HandshakeKind, HandshakeRow, Peer, Standing},
    },
};

use super::super::{Broken, Core, step::Step};

/// How many names one line of the history lists.
const NAMED: usize = 8;

impl Core {
    /// A handshake message of ours has come to stand in the log.
    pub(in crate::core) fn take_own_handshake(&mut self, mut step: Step, message: MessageId) -> Result<(), Broken> {
        let (account, chat, id) = (step.account, step.conversation.chat, step.id);
        let row = self.store.handshake(account, chat)?.filter(|row| row.id == message && row.conversation == id);
        self.work(account, chat).handshaking = false;
        let Some(row) = row else {
            tracing::warn!("the log has a handshake message of ours that this device does not know");
            return self.finish_lost(step);
        };
        step.write.handshake(account, chat, None)?;
        if row.kind == HandshakeKind::Leave {
            return self.left_by_us(step, &row);
        }
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let applied = match transaction.merge_pending(id.0) {
            Ok(applied) => applied,
            Err(error) => {
                tracing::error!(%error, "a commit of ours cannot be merged");
                return self.finish_lost(step);
            }
        };
        let authenticator = authenticator(&transaction, id)?;
        step.write.state(account, transaction.into_changes());
        step.conversation.update_at_ms = self.next_update(account, id);
        let work = self.work(account, chat);
        (work.losses, work.pauses, work.retry_at) = (0, 0, 0);
        self.applied(step, &applied, authenticator, "commit-merged").map(drop)
    }

    /// Our leaving stands in the log. The commit that takes it in refers to it, so it is kept with the others'.
    fn left_by_us(&mut self, mut step: Step, row: &HandshakeRow) -> Result<(), Broken> {
        let (account, chat, id) = (step.account, step.conversation.chat, step.id);
        let frame = v1::Handshake::decode(row.frame.as_slice()).map_err(|_| StoreError::Damaged)?;
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        if let Err(error) = transaction.process(id.0, row.id.0, &frame.message) {
            tracing::error!(%error, "our own leaving cannot be followed");
            self.finish(step)?;
            return self.state_lost(account, chat, id);
        }
        step.write.state(account, transaction.into_changes());
        let own = self.own_name(account);
        fault::point("proposal-in-log");
        self.leaving(step, &own)
    }

    /// A handshake message of another device. Gives the chat, if it holds news.
    pub(in crate::core) fn take_handshake(
        &mut self,
        mut step: Step,
        entry: &v1::Entry,
        message: MessageId,
    ) -> Result<Option<u32>, Broken> {
        let (account, chat, id) = (step.account, step.conversation.chat, step.id);
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        match transaction.process(id.0, message.0, &entry.payload) {
            Ok(Processed::Leaving(who)) => {
                step.write.state(account, transaction.into_changes());
                self.leaving(step, &who.account)?;
                Ok(None)
            }
            Ok(Processed::Applied(applied)) => {
                let authenticator = authenticator(&transaction, id)?;
                step.write.state(account, transaction.into_changes());
                let lost = self.store.handshake(account, chat)?.is_some_and(|row| row.conversation == id);
                let work = self.work(account, chat);
                (work.pauses, work.behind) = (0, None);
                if lost {
                    // Ours has lost, whatever the server is about to say.
                    step.write.handshake(account, chat, None)?;
                    self.work(account, chat).handshaking = false;
                    self.back_off(account, chat, id);
                } else {
                    self.work(account, chat).retry_at = 0;
                }
                let point = if lost { "commit-lost" } else { "commit-applied" };
                Ok(self.applied(step, &applied, authenticator, point)?.then_some(chat))
            }
            Err(ProcessError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                Err(StoreError::Damaged)
            }
            Err(error @ (ProcessError::NotAllowed(_) | ProcessError::Certificate(_))) => {
                tracing::warn!(%error, "the server let a change through that is not allowed");
                let text = format!("the server let a change through that this device refuses to follow: {error}");
                step.notice(self.now, text)?;
                if step.chat.peer == Peer::Group {
                    self.end_group(&mut step, Standing::Left)?;
                }
                self.finish(step)?;
                if self.group_row(account, chat).is_none() {
                    self.leave(account, chat, id)?;
                }
                Ok(Some(chat))
            }
            Err(error) => {
                tracing::warn!(%error, "a change of a conversation cannot be followed");
                let lost = match &error {
                    ProcessError::UnknownConversation => true,
                    // The log is at the next epoch, whatever is wrong with what took it there.
                    ProcessError::Invalid(_) => true,
                    ProcessError::WrongEpoch { current, found } => found > current,
                    _ => false,
                };
                if lost {
                    self.finish_lost(step)?;
                    return Ok(None);
                }
                step.unreadable(self.now, message, None, &error.to_string())?;
                // A commit that the server took, and we cannot: the others' state, ours and its own part here.
                let parts = !matches!(error, ProcessError::WrongEpoch { .. });
                if parts && entry.kind() == v1::EntryKind::Commit {
                    self.finish_lost(step)?;
                } else {
                    self.finish(step)?;
                }
                Ok(Some(chat))
            }
        }
    }

    fn finish_lost(&mut self, mut step: Step) -> Result<(), Broken> {
        let (account, chat) = (step.account, step.conversation.chat);
        self.lose_place(&mut step)?;
        self.finish(step)?;
        self.place_lost(account, chat)
    }

    fn leaving(&mut self, mut step: Step, who: &str) -> Result<(), Broken> {
        let (account, chat, id) = (step.account, step.conversation.chat, step.id);
        let own = who == self.own_name(account);
        if let Some(mut group) = self.group_row(account, chat).cloned() {
            for member in group.members.iter_mut().filter(|member| member.name.as_str() == who) {
                member.leaving = true;
            }
            if own {
                group.standing = Standing::Leaving;
            }
            step.group = Some(group);
        }
        step.events.push(self.group_changed(account, chat));
        self.finish(step)?;
        fault::point("leaving-seen");
        self.schedule_take_in(account, chat, id);
        self.pump(account, chat)
    }

    /// The conversation is at a new epoch. Tells whether that is news for the person.
    fn applied(
        &mut self,
        mut step: Step,
        applied: &Applied,
        authenticator: Vec<u8>,
        point: &str,
    ) -> Result<bool, Broken> {
        let (account, chat) = (step.account, step.conversation.chat);
        step.conversation.epoch = applied.epoch;
        self.unseal(&mut step)?;
        let effect = &applied.effect;
        step.count_anew(&effect.added)?;
        if step.chat.peer == Peer::Group {
            self.applied_to_group(&mut step, applied, authenticator)?;
        }
        let news = step.news;
        self.finish(step)?;
        fault::point(point);
        if self.group_row(account, chat).is_some() {
            self.release_if_free(account, chat)?;
        }
        self.pump(account, chat)?;
        Ok(news)
    }

    fn applied_to_group(&mut self, step: &mut Step, applied: &Applied, authenticator: Vec<u8>) -> Result<(), Broken> {
        let (account, chat) = (step.account, step.conversation.chat);
        let effect = &applied.effect;
        let before = self.group_row(account, chat).map_or(Standing::Active, |group| group.standing);
        self.tell_effect(step, applied, before)?;
        self.meet(step, &effect.added)?;
        if effect.reidentified.is_some() {
            let by = applied.roster.leaves.iter().filter(|leaf| leaf.account == effect.by.account);
            self.meet(step, &by.cloned().collect::<Vec<_>>())?;
        }
        let deleted = effect.profile.as_ref().is_some_and(|profile| profile.deleted);
        let mut group = self.group_of(account, chat, &applied.roster, authenticator, before)?;
        let own_leaving = group.members.iter().any(|member| member.leaving && self.is_own_name(account, &member.name));
        if group.standing == Standing::Leaving && !own_leaving {
            group.standing = Standing::Active;
        }
        step.conversation.delivered.retain(|name, _| group.has(name));
        step.group = Some(group);
        if applied.self_removed {
            self.end_group(step, Standing::Left)?;
        } else if deleted {
            self.end_group(step, Standing::Deleted)?;
        }
        step.events.push(self.group_changed(account, chat));
        if effect.profile.is_some() {
            step.events.push(EventKind::ChatChanged { chat: step.chat.id.clone() });
        }
        Ok(())
    }

    /// Nothing goes into the group any more, or comes out of it.
    fn end_group(&self, step: &mut Step, standing: Standing) -> Result<(), Broken> {
        let mut group = step.group.take().or_else(|| self.group_row(step.account, step.conversation.chat).cloned());
        if let Some(group) = &mut group {
            group.standing = standing;
        }
        step.group = group;
        step.conversation.closed = true;
        step.chat.conversation = None;
        step.write.handshake(step.account, step.conversation.chat, None)?;
        Ok(())
    }

    /// The group is over for us, for a reason that did not come out of its log.
    /// `refused`: the server's word alone does not bring it back.
    pub(in crate::core) fn give_up_group(
        &mut self,
        account: u32,
        chat: u32,
        why: &str,
        refused: bool,
    ) -> Result<(), Broken> {
        let Ok(id) = self.chat_id(account, chat).parse::<ConversationId>() else { return Ok(()) };
        let Some(mut step) = self.step_in(account, id) else { return Ok(()) };
        // A group that never was more than a name says it once.
        let nameless = |group: &GroupRow| group.members.is_empty() && group.epoch == 0;
        let said = self.group_row(account, chat).is_some_and(nameless) && step.chat.next_position > 1;
        if !said {
            step.notice(self.now, why.to_owned())?;
        }
        step.write.creation(account, chat, None)?;
        self.end_group(&mut step, Standing::Left)?;
        if let Some(group) = &mut step.group {
            group.refused = refused;
        }
        step.events.push(self.group_changed(account, chat));
        self.finish(step)?;
        self.next_unjoined(account)?;
        self.pump(account, chat)
    }

    /// Says in the chat what has changed.
    fn tell_effect(&self, step: &mut Step, applied: &Applied, standing: Standing) -> Result<(), Broken> {
        let (account, effect) = (step.account, &applied.effect);
        let remains = |name: &str| applied.roster.leaves.iter().any(|leaf| leaf.account == name);
        let own = self.own_name(account);
        let called = |name: &str| match name.parse::<AccountName>() {
            Ok(name) if name.as_str() == own => "you".to_owned(),
            Ok(name) => self.name_of(account, &name),
            Err(_) => name.escape_default().to_string(),
        };
        let by = called(&effect.by.account);
        let accounts = |leaves: &[fastchat_e2ee::Leaf]| {
            let names: std::collections::BTreeSet<String> = leaves.iter().map(|leaf| leaf.account.clone()).collect();
            names
        };
        let (added, removed) = (accounts(&effect.added), accounts(&effect.removed));
        let known = self.group_row(account, step.conversation.chat);
        let was_in = |name: &String| known.is_some_and(|group| group.members.iter().any(|m| m.name.as_str() == name));
        let was_leaving = |name: &&String| {
            known.is_some_and(|group| group.members.iter().any(|m| m.leaving && m.name.as_str() == name.as_str()))
        };
        let now = self.now;
        let new_people: Vec<String> = added.iter().filter(|name| !was_in(name)).map(|name| called(name)).collect();
        if !new_people.is_empty() {
            step.remark(now, format!("{by} added {}", listed(&new_people)))?;
        }
        // A device that takes its own place again is nothing to tell.
        let new_devices = added.iter().filter(|name| was_in(name) && (!effect.external || !removed.contains(*name)));
        for name in new_devices {
            let who = called(name);
            let line =
                if who == "you" { "you have a new device here".into() } else { format!("{who} has a new device") };
            step.remark(now, line)?;
        }
        let gone = removed.iter().filter(|name| !remains(name));
        let (left, expelled): (Vec<&String>, Vec<&String>) = gone.partition(was_leaving);
        for name in left {
            let who = called(name);
            step.remark(now, if who == "you" { "you left the group".into() } else { format!("{who} left") })?;
        }
        let expelled: Vec<String> = expelled.into_iter().map(|name| called(name)).collect();
        match expelled.as_slice() {
            [] => {}
            [one] if one == "you" && standing == Standing::Leaving => step.remark(now, "you left the group".into())?,
            some if some.iter().any(|name| name == "you") => {
                step.notice(now, format!("{by} removed you from the group"))?
            }
            some => step.remark(now, format!("{by} removed {}", listed(some)))?,
        }
        if let (Some(profile), Some(group)) = (&effect.profile, known) {
            if profile.deleted {
                step.notice(now, format!("{by} deleted the group"))?;
            }
            if profile.name != group.name {
                step.remark(now, format!("{by} named the group {}", profile.name))?;
            }
            if profile.topic != group.topic {
                step.remark(now, format!("{by} set the topic: {}", profile.topic))?;
            }
            let admins: Vec<&str> = group.admins().map(AccountName::as_str).collect();
            for name in profile.admins.iter().filter(|name| !admins.contains(&name.as_str())) {
                let verb = if called(name) == "you" { "are" } else { "is" };
                step.remark(now, format!("{} {verb} an admin now", called(name)))?;
            }
            let gone = |name: &&&str| !profile.admins.iter().any(|admin| admin == **name);
            for name in admins.iter().filter(gone).filter(|name| remains(name)) {
                let verb = if called(name) == "you" { "are" } else { "is" };
                step.remark(now, format!("{} {verb} no admin any more", called(name)))?;
            }
        }
        Ok(())
    }
}

/// What all members have in common in the epoch that a transaction has come to; empty when it is over for us.
pub(in crate::core) fn authenticator(transaction: &Transaction<'_>, id: ConversationId) -> Result<Vec<u8>, Broken> {
    match transaction.epoch_authenticator(id.0) {
        Ok(authenticator) => Ok(authenticator.unwrap_or_default()),
        Err(error) => {
            tracing::error!(%error, "the encryption state cannot be read");
            Err(StoreError::Damaged)
        }
    }
}

pub(super) fn listed(names: &[String]) -> String {
    match names.len().checked_sub(NAMED) {
        Some(more) if more > 0 => format!("{} and {more} others", names.get(..NAMED).unwrap_or_default().join(", ")),
        _ => names.join(", "),
    }
}
