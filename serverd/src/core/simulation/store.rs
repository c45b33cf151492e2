//! The simulation's store: in memory, with what a real one promises and nothing else.
//!
//! **Invariant**: writes take effect in the order in which they were asked for; answers come in any order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastchat_store::{
    Append, AppendHandshake, Appended, CursorMove, DeviceState, Entry, HandshakeAppended, Joining, Kind, Membership,
    NewEntry, NewHandshake, OtherDevice, Page, PageBounds,
};
use fastchat_wire::{AccountName, ConversationId, DeviceId};

use super::{PEOPLE, World, account, device};
use crate::core::{Action, Event};

/// A conversation in the model's store.
#[derive(Default)]
pub(super) struct Conversation {
    pub(super) group: bool,
    pub(super) creator: u64,
    pub(super) epoch: u64,
    pub(super) members: BTreeMap<u64, Member>,
    /// Accounts with a leaf.
    pub(super) roster: BTreeSet<u64>,
    pub(super) log: Vec<Entry>,
    /// From where to where each device was a member, over time: it may get these seqs and no others.
    pub(super) entitled: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
    /// Commits by which their device joined by itself.
    pub(super) external: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Member {
    pub(super) cursor: u64,
    pub(super) starts_after: u64,
    pub(super) ends_at: Option<u64>,
    /// A Joining that was not taken, and its start.
    pub(super) joining: Option<u64>,
}

impl Conversation {
    pub(super) fn enter(&mut self, number: u64, start: u64, joining: bool) {
        let member = Member { cursor: start, starts_after: start, ends_at: None, joining: joining.then_some(start) };
        let over = self.members.insert(number, member);
        self.leave(number, over.map_or(0, |_| start));
        self.roster.insert(number);
        self.entitled.entry(number).or_default().push((start, None));
    }

    /// The end of the interval that is open, if one is.
    pub(super) fn leave(&mut self, number: u64, end: u64) {
        if let Some((_, open @ None)) = self.entitled.entry(number).or_default().last_mut() {
            *open = Some(end);
        }
    }

    pub(super) fn may_get(&self, number: u64, seq: u64) -> bool {
        let within = |(start, end): &(u64, Option<u64>)| seq > *start && end.is_none_or(|end| seq <= end);
        self.entitled.get(&number).into_iter().flatten().any(within)
    }

    pub(super) fn is_live(&self, number: u64) -> bool {
        self.members.get(&number).is_some_and(|member| member.ends_at.is_none())
    }
}

impl World {
    pub(super) fn membership(&self, id: ConversationId, number: u64) -> Membership {
        let conversation = &self.conversations[&id];
        let other = |(number, member): (&u64, &Member)| OtherDevice {
            account: account(*number),
            device: device(*number),
            cursor: member.cursor,
        };
        let member = &conversation.members[&number];
        let others =
            conversation.members.iter().filter(|(other, member)| **other != number && member.ends_at.is_none());
        Membership {
            conversation: id,
            cursor: member.cursor,
            head: conversation.log.len() as u64,
            epoch: conversation.epoch,
            closed: member.ends_at.is_some(),
            closed_by: None,
            ends_at: member.ends_at,
            others: others.map(other).collect(),
            accounts: u32::try_from(conversation.roster.len()).unwrap(),
        }
    }

    pub(super) fn joining(&self, id: ConversationId, number: u64) -> Joining {
        let conversation = &self.conversations[&id];
        Joining {
            creator: account(conversation.creator),
            creator_identity_key: Bytes::new(),
            peer: None,
            welcome: Bytes::new(),
            join_key: Bytes::new(),
            ratchet_tree: Bytes::new(),
            group: conversation.group,
            start_seq: conversation.members[&number].joining.unwrap(),
            replaces: None,
            time_ms: 0,
            membership: self.membership(id, number),
        }
    }

    /// Carries out one of the store calls under way. Writes in order, reads whenever.
    pub(super) fn store(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let is_write = |action: &Action| {
            matches!(action, Action::Append { .. } | Action::AppendHandshake { .. } | Action::SaveCursors(_))
        };
        let mut at = self.random.below(self.calls.len());
        if is_write(&self.calls[at]) {
            at = self.calls.iter().position(is_write).unwrap();
        }
        let answer = match self.calls.remove(at) {
            Action::ReadState { session, device, joinings } => {
                Event::StateRead { session, state: Ok(Some(self.state(device, joinings as usize))) }
            }
            Action::Append { session, request, append } => {
                let conversation = append.conversation;
                Event::Appended { session, request, conversation, outcome: Ok(self.append(append)) }
            }
            Action::AppendHandshake { session, request, append } => {
                let conversation = append.conversation;
                let outcome = Ok(self.append_handshake(&append));
                Event::HandshakeAppended { session, request, conversation, kind: Kind::Commit, outcome }
            }
            Action::ReadPage { session, conversation, device, after, bounds } => {
                Event::PageRead { session, conversation, page: Ok(self.page(conversation, device, after, bounds)) }
            }
            Action::SaveCursors(moves) => {
                let saved = self.random.below(4) > 0;
                if saved {
                    moves.into_iter().for_each(|moved| self.save(moved));
                }
                Event::CursorsSaved { saved }
            }
            Action::Send(..) | Action::Close(..) => unreachable!("not a store call"),
        };
        self.answers.push(answer);
    }

    pub(super) fn state(&self, of: DeviceId, limit: usize) -> DeviceState {
        let mut state = DeviceState::default();
        let number = (0..PEOPLE).find(|number| device(*number) == of).unwrap();
        for (id, conversation) in &self.conversations {
            match conversation.members.get(&number) {
                Some(member) if member.joining.is_none() => state.memberships.push(self.membership(*id, number)),
                Some(_) if state.joinings.len() < limit => state.joinings.push(self.joining(*id, number)),
                Some(_) => state.more_joinings = true,
                None => {}
            }
            if conversation.group && conversation.roster.contains(&number) && !conversation.is_live(number) {
                state.unjoined.push(*id);
            }
        }
        state
    }

    pub(super) fn append_handshake(&mut self, append: &AppendHandshake) -> HandshakeAppended {
        let number = (0..PEOPLE).find(|number| device(*number) == append.device).unwrap();
        let of = |device_id: &DeviceId| (0..PEOPLE).find(|number| device(*number) == *device_id).unwrap();
        let (id, commit) = (append.conversation, append.commit.as_ref().unwrap());
        let conversation = self.conversations.get_mut(&id).unwrap();
        let may = if commit.external { conversation.roster.contains(&number) } else { conversation.is_live(number) };
        if !may {
            return HandshakeAppended::NotAMember;
        }
        if conversation.epoch != append.entry.epoch {
            return HandshakeAppended::StaleEpoch { current: conversation.epoch };
        }
        self.handshakes += 1;
        let entry = log_entry(&mut conversation.log, &append.account, append.device, &append.entry, append.now_ms);
        let seq = entry.seq;
        conversation.epoch += 1;
        let mut removed = Vec::new();
        for device in &commit.removed {
            let other = of(device);
            if let Some(member) = conversation.members.get_mut(&other).filter(|member| member.ends_at.is_none()) {
                member.ends_at = Some(seq);
                conversation.leave(other, seq);
                removed.push(*device);
            }
        }
        for name in &commit.left {
            conversation.roster.retain(|number| account(*number) != *name);
        }
        let (mut own, mut joinings) = (None, Vec::new());
        if commit.external {
            conversation.external.insert(seq);
            conversation.enter(number, seq - 1, false);
            own = Some(self.membership(id, number));
        } else if let Some(leaf) = commit.added.first() {
            let other = of(&leaf.device);
            conversation.enter(other, seq, true);
            joinings.push((leaf.device, self.joining(id, other)));
        }
        let (joined, deleted) = (commit.joined.clone(), false);
        let accounts = u32::try_from(self.conversations[&id].roster.len()).unwrap();
        let new = NewHandshake { entry, own, joinings, removed, joined, accounts, deleted };
        HandshakeAppended::Accepted { seq, time_ms: append.now_ms, new: Some(Box::new(new)) }
    }

    pub(super) fn append(&mut self, append: Append) -> Appended {
        let number = (0..PEOPLE).find(|number| device(*number) == append.device).unwrap();
        let conversation = self.conversations.get_mut(&append.conversation).unwrap();
        if !conversation.is_live(number) {
            return Appended::NotAMember;
        }
        if append.entries.iter().any(|entry| entry.epoch != conversation.epoch) {
            return Appended::StaleEpoch { current: conversation.epoch };
        }
        let (mut seqs, mut new) = (Vec::new(), Vec::new());
        for entry in &append.entries {
            let entry = log_entry(&mut conversation.log, &append.account, append.device, entry, append.now_ms);
            seqs.push(entry.seq);
            new.push(entry);
        }
        Appended::Accepted { seqs, time_ms: append.now_ms, new }
    }

    pub(super) fn page(&self, conversation: ConversationId, of: DeviceId, after: u64, bounds: PageBounds) -> Page {
        let conversation = &self.conversations[&conversation];
        let number = (0..PEOPLE).find(|number| device(*number) == of).unwrap();
        let Some(member) = conversation.members.get(&number) else { return Page::default() };
        let head = member.ends_at.unwrap_or(conversation.log.len() as u64);
        let (mut page, mut bytes) = (Page { head, ..Page::default() }, 0);
        let log = conversation.log.iter().take_while(|entry| entry.seq <= head);
        for entry in log.skip(usize::try_from(after.max(member.starts_after)).unwrap()).take(bounds.entries as usize) {
            bytes += entry.payload.len();
            if !page.entries.is_empty() && bytes > bounds.bytes {
                break;
            }
            page.entries.push(entry.clone());
        }
        // The model keeps payloads: the core has to leave out a device's own.
        page
    }

    pub(super) fn save(&mut self, moved: CursorMove) {
        let (number, has) = self.devices.iter().find(|(number, _)| device(**number) == moved.device).unwrap();
        let durable = has.has.get(&moved.conversation).copied().unwrap_or(0);
        assert!(moved.seq <= durable, "a cursor ahead of what its device has");
        let conversation = self.conversations.get_mut(&moved.conversation).unwrap();
        let Some(member) = conversation.members.get_mut(number) else { return };
        if moved.seq <= member.ends_at.unwrap_or(u64::MAX) {
            member.cursor = moved.seq.max(member.cursor);
        }
        if moved.joined && member.joining.is_some_and(|start| start <= moved.seq) {
            member.joining = None;
        }
        if member.ends_at.is_some_and(|end| member.cursor >= end) {
            conversation.members.remove(number);
        }
    }
}

fn log_entry(log: &mut Vec<Entry>, account: &AccountName, device: DeviceId, new: &NewEntry, time_ms: u64) -> Entry {
    let entry = Entry {
        seq: log.len() as u64 + 1,
        message_id: new.message_id,
        account: account.clone(),
        device,
        epoch: new.epoch,
        kind: new.kind,
        payload: new.payload.clone(),
        time_ms,
    };
    log.push(entry.clone());
    entry
}
