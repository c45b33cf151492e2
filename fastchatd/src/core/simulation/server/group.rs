//! Groups and handshakes on the model server, checked with the conversation's public state as a real one does.
//!
//! **Invariant**: an epoch has one commit, and the roster is that of the public state.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_mls::{HandshakeError, PublicConversation, Roster};
use fastchat_wire::{ConversationId, MessageId, v1};
use uuid::Uuid;
use v1::{Code, server_frame::Body as Said};

use super::{Conversation, Follows, Member, Server, Span, failure};

/// What a commit changes.
struct Change {
    state: Vec<u8>,
    ratchet_tree: Vec<u8>,
    added: Vec<usize>,
    removed: Vec<usize>,
    roster: BTreeSet<usize>,
    external: bool,
    deleted: bool,
}

fn not_a_member() -> Said {
    Said::Failure(no_member())
}

fn no_member() -> v1::Failure {
    v1::Failure::new(Code::NotAMember, "this device is no member")
}

fn refused(error: &HandshakeError) -> v1::Failure {
    let (code, epoch) = match error {
        HandshakeError::Malformed(_) => (Code::HandshakeMalformed, 0),
        HandshakeError::Invalid(_) => (Code::HandshakeInvalid, 0),
        HandshakeError::StaleEpoch { current } => (Code::StaleEpoch, *current),
        HandshakeError::NotAllowed(_) => (Code::NotAllowed, 0),
        HandshakeError::GroupInfo(_) => (Code::GroupInfoMismatch, 0),
        HandshakeError::ProposalsPending => (Code::ProposalsPending, 0),
        HandshakeError::Full => (Code::GroupFull, 0),
        HandshakeError::Damaged => (Code::Internal, 0),
    };
    v1::Failure { epoch, ..v1::Failure::new(code, error.to_string()) }
}

impl Server {
    pub(super) fn create_group(&mut self, from: usize, create: &v1::CreateGroup) -> Said {
        if let Some(same) = self.find(&create.conversation) {
            let same = &self.conversations[same];
            return match same.group && same.creator == from {
                true => Said::Done(v1::Done {}),
                false => failure(Code::Conflict, "the id is in use"),
            };
        }
        let id = ConversationId::from_wire(&create.conversation).unwrap();
        let public = match PublicConversation::open(id.0, &create.group_info) {
            Ok(public) => public,
            Err(error) => return Said::Failure(refused(&error)),
        };
        let roster = public.roster().unwrap();
        if roster.profile.is_none() || roster.leaves.len() != 1 || !self.is_leaf(&roster.leaves[0]) {
            return failure(Code::RosterMismatch, "not the creator's group");
        }
        let account = self.devices[from].account;
        let number = self.conversations.len();
        self.conversations.push(Conversation {
            id,
            group: true,
            pair: (0, 0),
            creator: from,
            state: public.to_bytes().unwrap(),
            epoch: 0,
            group_info: create.group_info.clone(),
            log: Vec::new(),
            expired_through: 0,
            trimmed: 0,
            members: BTreeMap::from([(from, Member { cursor: 0, ends_at: None, joining: None })]),
            roster: BTreeSet::from([account]),
            abandoned: false,
            closed_by: None,
            spans: vec![Span { device: from, after: 0, through: None, removed_at: None, rejoined: false }],
            missed: BTreeSet::new(),
        });
        self.follow(from, number);
        for device in self.devices_of(account) {
            self.tell_unjoined(device, number);
        }
        Said::Done(v1::Done {})
    }

    pub(super) fn fetch_group(&mut self, from: usize, fetch: &v1::FetchGroup) -> Said {
        let Some(at) = self.find(&fetch.conversation) else { return not_a_member() };
        let found = &self.conversations[at];
        if !found.group || !found.roster.contains(&self.devices[from].account) {
            return not_a_member();
        }
        if found.abandoned {
            return self.closed_failure(None);
        }
        let public = PublicConversation::from_bytes(&found.state).unwrap();
        Said::GroupState(v1::GroupState {
            conversation: fetch.conversation.clone(),
            epoch: found.epoch,
            head: found.log.len() as u64,
            group_info: found.group_info.clone(),
            ratchet_tree: public.ratchet_tree().unwrap().into(),
            proposals: public.proposals().into_iter().map(Into::into).collect(),
        })
    }

    pub(super) fn handshake(&mut self, from: usize, ask: v1::Handshake) -> Said {
        let Some(at) = self.find(&ask.conversation) else { return not_a_member() };
        let found = &self.conversations[at];
        if let Some(known) = found.known(&ask.message_id) {
            return match known.by == from && known.entry.payload == ask.message {
                true => Said::Accepted(v1::Accepted { seqs: vec![known.entry.seq], server_time_ms: self.now }),
                false => failure(Code::Conflict, "the same id with other content"),
            };
        }
        let account = self.devices[from].account;
        let (low, high) = found.pair;
        let account_member = if found.group { found.roster.contains(&account) } else { [low, high].contains(&account) };
        if !account_member {
            return not_a_member();
        }
        if found.is_closed() {
            return self.closed_failure(found.closed_by);
        }
        if found.epoch != ask.epoch {
            let epoch = found.epoch;
            return Said::Failure(v1::Failure { epoch, ..v1::Failure::new(Code::StaleEpoch, "stale") });
        }
        let member = found.members.get(&from).is_some_and(|member| member.ends_at.is_none());
        let done = match ask.kind() {
            v1::EntryKind::Proposal => self.proposal(from, at, member, &ask).map(|state| (state, None)),
            _ => self.commit(from, at, member, &ask).map(|change| (change.state.clone(), Some(change))),
        };
        let (state, change) = match done {
            Ok(done) => done,
            Err(refusal) => return Said::Failure(refusal),
        };
        let new = v1::NewEntry {
            message_id: ask.message_id.clone(),
            epoch: ask.epoch,
            kind: ask.kind,
            payload: ask.message.clone(),
        };
        let seq = self.append(from, at, new);
        self.conversations[at].state = state;
        match change {
            Some(change) => self.apply(from, at, seq, &ask, &change),
            None => self.push(at),
        }
        Said::Accepted(v1::Accepted { seqs: vec![seq], server_time_ms: self.now })
    }

    fn proposal(&self, from: usize, at: usize, member: bool, ask: &v1::Handshake) -> Result<Vec<u8>, v1::Failure> {
        let mut public = PublicConversation::from_bytes(&self.conversations[at].state).unwrap();
        let id = MessageId::from_wire(&ask.message_id).unwrap();
        let leaving = public.proposal(id.0, &ask.message).map_err(|error| refused(&error))?;
        if !member || leaving.device != self.devices[from].id.0 {
            return Err(no_member());
        }
        Ok(public.to_bytes().unwrap())
    }

    fn commit(&self, from: usize, at: usize, member: bool, ask: &v1::Handshake) -> Result<Change, v1::Failure> {
        let mut public = PublicConversation::from_bytes(&self.conversations[at].state).unwrap();
        let id = MessageId::from_wire(&ask.message_id).unwrap();
        let before = public.roster().unwrap();
        let effect = public.commit(id.0, &ask.message, &ask.group_info).map_err(|error| refused(&error))?;
        let after = public.roster().unwrap();
        if effect.by.device != self.devices[from].id.0 || !(member || effect.external) {
            return Err(no_member());
        }
        let devices = |roster: &Roster| roster.leaves.iter().map(|leaf| leaf.device).collect::<BTreeSet<Uuid>>();
        let (old, new) = (devices(&before), devices(&after));
        let mut added: Vec<Uuid> = new.difference(&old).copied().collect();
        let mut expected: BTreeSet<Uuid> = added.iter().copied().collect();
        if effect.external {
            expected.remove(&effect.by.device);
            if !added.contains(&effect.by.device) {
                added.push(effect.by.device);
            }
        }
        let mismatch = |text: &str| Err(v1::Failure::new(Code::RosterMismatch, text));
        let joins = |leaf: &&fastchat_mls::Leaf| added.contains(&leaf.device);
        if !after.leaves.iter().filter(joins).all(|leaf| self.is_leaf(leaf)) {
            return mismatch("a leaf is not what this server knows of its device");
        }
        let given: BTreeSet<Uuid> = ask.welcomes.iter().filter_map(|one| Uuid::from_slice(&one.device).ok()).collect();
        if given != expected || ask.welcomes.len() != expected.len() {
            return mismatch("the Welcomes are not one for each added device");
        }
        let numbers = |ids: Vec<Uuid>| ids.into_iter().filter_map(|id| self.number_of(id)).collect::<Vec<usize>>();
        Ok(Change {
            state: public.to_bytes().unwrap(),
            ratchet_tree: public.ratchet_tree().unwrap(),
            added: numbers(added),
            removed: numbers(old.difference(&new).copied().collect()),
            roster: after.accounts().into_iter().filter_map(|name| self.account_named(name)).collect(),
            external: effect.external,
            deleted: after.profile.is_some_and(|profile| profile.deleted),
        })
    }

    fn apply(&mut self, from: usize, at: usize, seq: u64, ask: &v1::Handshake, change: &Change) {
        let adder = self.devices[from].account;
        let (creator, identity) = (self.accounts[adder].name.clone(), self.accounts[adder].identity.clone());
        let ids: BTreeMap<usize, bytes::Bytes> =
            change.added.iter().map(|device| (*device, self.devices[*device].id.to_wire())).collect();
        let now = self.now;
        let found = &mut self.conversations[at];
        found.epoch += 1;
        found.group_info = ask.group_info.clone();
        for device in &change.removed {
            if let Some(member) = found.members.get_mut(device) {
                member.ends_at.get_or_insert(seq);
            }
            for span in found.spans.iter_mut().filter(|span| span.device == *device) {
                span.through.get_or_insert(seq);
                span.removed_at.get_or_insert(seq);
            }
        }
        for device in &change.added {
            let itself = *device == from;
            for span in found.spans.iter_mut().filter(|span| span.device == *device && span.through.is_none()) {
                (span.through, span.rejoined) = (Some(seq), true);
            }
            found.spans.push(Span { device: *device, after: seq, through: None, removed_at: None, rejoined: false });
            let welcome = ask.welcomes.iter().find(|welcome| Some(&welcome.device) == ids.get(device)).cloned();
            let joining = (!itself).then(|| v1::Joining {
                conversation: ask.conversation.clone(),
                creator: creator.clone(),
                creator_identity_key: identity.clone(),
                welcome,
                start_seq: seq,
                replaces: bytes::Bytes::new(),
                server_time_ms: now,
                ratchet_tree: change.ratchet_tree.clone().into(),
                group: found.group,
                peer: String::new(),
            });
            let cursor = if itself { seq - 1 } else { seq };
            found.members.insert(*device, Member { cursor, ends_at: None, joining });
        }
        let joined: BTreeSet<usize> = if found.group { &change.roster - &found.roster } else { BTreeSet::new() };
        if found.group {
            found.roster.clone_from(&change.roster);
        }
        found.abandoned |= change.deleted;
        if change.external
            && let Some(session) = &mut self.devices[from].session
        {
            session.follows.insert(at, Follows { sent: seq - 1, closed: false });
            session.unjoined.remove(&at);
        }
        self.push(at);
        for device in &change.removed {
            self.tell_closed(*device, at);
        }
        for device in change.added.iter().filter(|device| **device != from) {
            if let Some(session) = &mut self.devices[*device].session {
                session.follows.remove(&at);
            }
            self.join(*device, at);
        }
        for account in joined {
            for device in self.devices_of(account) {
                self.tell_unjoined(device, at);
            }
        }
        if change.deleted {
            for follower in self.followers(at) {
                self.tell_closed(follower, at);
            }
        }
    }

    /// The group's public state as it is now.
    pub(in crate::core::simulation) fn public(&self, at: usize) -> PublicConversation {
        PublicConversation::from_bytes(&self.conversations[at].state).unwrap()
    }
}
