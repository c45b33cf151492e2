//! The model server's logs: what is appended, who gets it, what retention takes.
//!
//! **Invariant**: a device gets the entries of its time, each once and in order, unless a planted defect says otherwise.

use fastchat_wire::v1;
use rand::RngExt;
use v1::server_frame::Body as Said;

use super::{Bug, Conversation, Follows, Record, Server, Session, failure};

impl Server {
    /// A device has connected.
    pub(in crate::core::simulation) fn begin_session(&mut self, device: usize) {
        self.devices[device].session = Some(Session::default());
        let of = |conversation: &Conversation| conversation.members.get(&device).map(|member| member.joining.is_some());
        let mine: Vec<(usize, bool)> =
            self.conversations.iter().enumerate().filter_map(|(at, found)| Some((at, of(found)?))).collect();
        for (conversation, _) in mine.iter().filter(|(_, joining)| !joining) {
            self.follow(device, *conversation);
        }
        for (conversation, _) in mine.iter().filter(|(_, joining)| *joining) {
            self.join(device, *conversation);
        }
        for conversation in 0..self.conversations.len() {
            self.tell_unjoined(device, conversation);
        }
        for (conversation, _) in mine {
            self.pump(device, conversation);
        }
    }

    pub(super) fn followers(&self, conversation: usize) -> Vec<usize> {
        let follows = |device: &usize| {
            self.devices[*device].session.as_ref().is_some_and(|session| session.follows.contains_key(&conversation))
        };
        (0..self.devices.len()).filter(follows).collect()
    }

    /// A device's session follows a conversation from its cursor on.
    pub(super) fn follow(&mut self, device: usize, conversation: usize) {
        let Some(member) = self.conversations[conversation].members.get(&device) else { return };
        let (sent, ended) = (member.cursor, member.ends_at);
        let Some(session) = &mut self.devices[device].session else { return };
        session.follows.insert(conversation, Follows { sent, closed: false });
        session.unjoined.remove(&conversation);
        let own = self.devices[device].account;
        for account in 0..self.accounts.len() {
            if account != own {
                self.tell_delivered(device, conversation, account);
            }
        }
        if ended.is_some() || self.conversations[conversation].is_closed() {
            self.tell_closed(device, conversation);
        }
    }

    /// The device's Joining, and what comes after it.
    pub(super) fn join(&mut self, device: usize, conversation: usize) {
        let member = self.conversations[conversation].members.get(&device);
        let Some(joining) = member.and_then(|member| member.joining.clone()) else { return };
        self.say(device, Said::Joining(joining));
        self.follow(device, conversation);
    }

    pub(super) fn tell_unjoined(&mut self, device: usize, conversation: usize) {
        let account = self.devices[device].account;
        let found = &self.conversations[conversation];
        let member = found.members.get(&device).is_some_and(|member| member.ends_at.is_none());
        if !found.group || found.abandoned || !found.roster.contains(&account) || member {
            return;
        }
        let id = found.id.to_wire();
        let Some(session) = &mut self.devices[device].session else { return };
        if session.unjoined.insert(conversation) {
            self.say(device, Said::Unjoined(v1::Unjoined { conversation: id }));
        }
    }

    pub(super) fn tell_closed(&mut self, device: usize, conversation: usize) {
        let found = &self.conversations[conversation];
        let by = found.closed_by.map(|by| self.conversations[by].id.to_wire()).unwrap_or_default();
        let id = found.id.to_wire();
        let session = self.devices[device].session.as_mut();
        let Some(follows) = session.and_then(|session| session.follows.get_mut(&conversation)) else { return };
        if !follows.closed || !by.is_empty() {
            follows.closed = true;
            self.say(device, Said::Closed(v1::Closed { conversation: id, by }));
        }
    }

    /// How far an account has come, with whichever of its devices is furthest.
    fn tell_delivered(&mut self, device: usize, conversation: usize, account: usize) {
        let found = &self.conversations[conversation];
        let of = found.members.iter().filter(|(device, _)| self.devices[**device].account == account);
        let seq = of.map(|(_, member)| member.cursor).max().unwrap_or_default();
        if seq > 0 {
            let (conversation, account) = (found.id.to_wire(), self.accounts[account].name.clone());
            self.say(device, Said::Delivered(v1::Delivered { conversation, account, seq }));
        }
    }

    pub(super) fn submit(&mut self, from: usize, submit: v1::Submit) -> Said {
        let Some(at) = self.find(&submit.conversation) else { return failure(v1::Code::NotAMember, "no member") };
        let found = &self.conversations[at];
        if found.members.get(&from).is_none_or(|member| member.ends_at.is_some()) {
            return match found.closed_by {
                Some(by) => self.closed_failure(Some(by)),
                None => failure(v1::Code::NotAMember, "no member"),
            };
        }
        let known: Vec<Option<&Record>> = submit.entries.iter().map(|new| found.known(&new.message_id)).collect();
        for (new, known) in submit.entries.iter().zip(&known) {
            if known.is_some_and(|known| known.by != from || known.entry.payload != new.payload) {
                return failure(v1::Code::Conflict, "the same id with other content");
            }
        }
        let fresh: Vec<bool> = known.iter().map(Option::is_none).collect();
        if fresh.contains(&true) {
            if found.is_closed() {
                return self.closed_failure(found.closed_by);
            }
            if self.refuses {
                return failure(v1::Code::Refused, "blocked");
            }
            if submit.entries.iter().zip(&fresh).any(|(new, fresh)| *fresh && new.epoch != found.epoch) {
                let epoch = found.epoch;
                return Said::Failure(v1::Failure { epoch, ..v1::Failure::new(v1::Code::StaleEpoch, "stale") });
            }
        }
        let mut seqs: Vec<u64> = Vec::new();
        for new in submit.entries {
            let known = self.conversations[at].known(&new.message_id).map(|known| known.entry.seq);
            seqs.push(known.unwrap_or_else(|| self.append(from, at, new)));
        }
        self.push(at);
        Said::Accepted(v1::Accepted { seqs, server_time_ms: self.now })
    }

    pub(super) fn closed_failure(&self, by: Option<usize>) -> Said {
        let conversation = by.map(|by| self.conversations[by].id.to_wire()).unwrap_or_default();
        let failure = v1::Failure::new(v1::Code::ClosedConversation, "takes no more entries");
        Said::Failure(v1::Failure { conversation, ..failure })
    }

    pub(super) fn append(&mut self, from: usize, at: usize, new: v1::NewEntry) -> u64 {
        let application = new.kind == i32::from(v1::EntryKind::Application);
        let seq = self.conversations[at].log.len() as u64 + 1;
        let device = &self.devices[from];
        let entry = v1::Entry {
            seq,
            message_id: new.message_id,
            sender: self.accounts[device.account].name.clone(),
            device: device.id.to_wire(),
            epoch: new.epoch,
            kind: new.kind,
            payload: new.payload,
            server_time_ms: self.now,
        };
        let planted = application && seq.is_multiple_of(3);
        if planted && self.bug == Some(Bug::Forgets) {
            return seq;
        }
        self.conversations[at].log.push(Record { entry: entry.clone(), by: from });
        if planted && self.bug == Some(Bug::Doubles) {
            let message_id = fastchat_wire::MessageId::generate().to_wire();
            let again = v1::Entry { seq: seq + 1, message_id, ..entry };
            self.conversations[at].log.push(Record { entry: again, by: from });
        }
        seq
    }

    /// What is new goes to those who follow.
    pub(super) fn push(&mut self, conversation: usize) {
        for device in self.followers(conversation) {
            self.pump(device, conversation);
        }
    }

    /// Sends a device what it has not got, as far as its window allows.
    fn pump(&mut self, device: usize, at: usize) {
        loop {
            let found = &self.conversations[at];
            let Some(member) = found.members.get(&device) else { return };
            let session = self.devices[device].session.as_mut();
            let Some(follows) = session.and_then(|session| session.follows.get_mut(&at)) else { return };
            let mut head = found.log.len() as u64;
            if self.bug != Some(Bug::KeepsTheRemoved) {
                head = member.ends_at.map_or(head, |end| head.min(end));
            }
            let through = head.min(member.cursor + self.window);
            let expired = found.expired_through.min(head);
            if follows.sent >= through && expired <= follows.sent {
                return;
            }
            let expired_through = if expired > follows.sent { expired } else { 0 };
            let start = follows.sent.max(expired_through);
            let through = through.max(start).min(start + self.random.random_range(1..5));
            follows.sent = through;
            let range = usize::try_from(start).unwrap()..usize::try_from(through).unwrap();
            let withholds = self.bug == Some(Bug::Withholds) && device == 1;
            let entries = found.log[range].iter().filter(|record| !(withholds && record.entry.seq.is_multiple_of(3)));
            let entries = entries.map(|record| {
                let mut entry = record.entry.clone();
                if record.by == device {
                    entry.payload.clear();
                }
                entry
            });
            let entries = entries.collect();
            let deliver = v1::Deliver { conversation: found.id.to_wire(), entries, expired_through };
            self.say(device, Said::Deliver(deliver));
        }
    }

    pub(super) fn acked(&mut self, from: usize, ack: &v1::Ack) {
        let Some(at) = self.find(&ack.conversation) else { return };
        let found = &mut self.conversations[at];
        let head = found.log.len() as u64;
        let Some(member) = found.members.get_mut(&from) else { return };
        let seq = ack.seq.min(member.ends_at.unwrap_or(head)).min(head);
        if member.joining.as_ref().is_some_and(|joining| seq >= joining.start_seq) {
            member.joining = None;
        }
        if seq > member.cursor {
            member.cursor = seq;
            let session = self.devices[from].session.as_mut();
            if let Some(follows) = session.and_then(|session| session.follows.get_mut(&at)) {
                follows.sent = follows.sent.max(seq);
            }
            let account = self.devices[from].account;
            for follower in self.followers(at) {
                if self.devices[follower].account != account {
                    self.tell_delivered(follower, at, account);
                }
            }
        }
        let member = self.conversations[at].members.get(&from);
        let is_over = member.is_some_and(|member| member.ends_at.is_some_and(|end| member.cursor >= end));
        if is_over && self.bug != Some(Bug::KeepsTheRemoved) {
            self.conversations[at].members.remove(&from);
            if let Some(session) = &mut self.devices[from].session {
                session.follows.remove(&at);
            }
        }
        self.pump(from, at);
    }

    /// What everybody has is removed.
    pub(in crate::core::simulation) fn trim(&mut self) {
        for conversation in &mut self.conversations {
            conversation.trimmed = conversation.members.values().map(|member| member.cursor).min().unwrap_or_default();
        }
    }

    /// Retention takes half of what is in a log, whoever has it or not.
    pub(in crate::core::simulation) fn expire(&mut self, at: usize) {
        let conversation = &mut self.conversations[at];
        let through = conversation.log.len() as u64 / 2;
        conversation.expired_through = conversation.expired_through.max(through);
        let late: Vec<usize> = conversation
            .members
            .iter()
            .filter(|(_, member)| member.cursor < through)
            .map(|(device, _)| *device)
            .collect();
        conversation.missed.extend(late);
        conversation.members.retain(|_, member| member.ends_at.is_none_or(|end| end > through));
    }
}

impl Conversation {
    pub(super) fn is_closed(&self) -> bool {
        self.abandoned || self.closed_by.is_some()
    }

    /// The entry that has an id, while that is remembered: its sender may come with it again.
    pub(super) fn known(&self, message_id: &bytes::Bytes) -> Option<&Record> {
        let found = self.log.iter().find(|record| record.entry.message_id == *message_id)?;
        (found.entry.seq > self.trimmed).then_some(found)
    }
}
