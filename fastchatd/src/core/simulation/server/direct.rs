//! Direct conversations on the model server.
//!
//! **Invariant**: a pair of accounts has at most one direct conversation that no other replaced.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_mls::PublicConversation;
use fastchat_wire::{ConversationId, v1};
use uuid::Uuid;
use v1::server_frame::Body as Said;

use super::{Conversation, Member, Server, Span, failure};

impl Server {
    pub(super) fn close_directs(&mut self, account: usize) -> Vec<usize> {
        let mut closed = Vec::new();
        for (number, conversation) in self.conversations.iter_mut().enumerate() {
            let (low, high) = conversation.pair;
            if !conversation.group && !conversation.is_closed() && (low == account || high == account) {
                conversation.abandoned = true;
                closed.push(number);
            }
        }
        closed
    }

    pub(super) fn create_direct(&mut self, from: usize, create: v1::CreateDirect) -> Said {
        let Some(peer) = self.account_named(&create.peer) else { return failure(v1::Code::NotFound, "no account") };
        if self.refuses {
            return failure(v1::Code::Refused, "blocked");
        }
        let own = self.devices[from].account;
        let pair = (own.min(peer), own.max(peer));
        let answer =
            |conversation: bytes::Bytes, created, member| Said::Direct(v1::Direct { conversation, created, member });
        if let Some(same) = self.find(&create.conversation) {
            let same = &self.conversations[same];
            return match same.creator == from && same.pair == pair && !same.is_closed() {
                true => answer(create.conversation, true, true),
                false => failure(v1::Code::Conflict, "the id is in use"),
            };
        }
        let last =
            self.conversations.iter().position(|found| !found.group && found.pair == pair && found.closed_by.is_none());
        if let Some(last) = last.map(|last| &self.conversations[last])
            && last.id.to_wire() != create.replaces
        {
            return answer(last.id.to_wire(), false, !last.abandoned && last.members.contains_key(&from));
        }
        match self.open_direct(from, (own, peer), &create) {
            Ok((public, id, devices)) => self.insert_direct(from, pair, &create, (&public, id, &devices), last),
            Err(refusal) => return Said::Failure(refusal),
        }
        answer(create.conversation, true, true)
    }

    /// Checks a new direct conversation; gives its devices.
    fn open_direct(
        &self,
        from: usize,
        (own, peer): (usize, usize),
        create: &v1::CreateDirect,
    ) -> Result<(PublicConversation, ConversationId, BTreeSet<usize>), v1::Failure> {
        let id = ConversationId::from_wire(&create.conversation).unwrap();
        let public = PublicConversation::open(id.0, &create.group_info)
            .map_err(|error| v1::Failure::new(v1::Code::GroupInfoMismatch, error.to_string()))?;
        let roster = public.roster().unwrap();
        if public.epoch() != create.epoch || roster.profile.is_some() {
            return Err(v1::Failure::new(v1::Code::GroupInfoMismatch, "another epoch, or a group"));
        }
        let all: BTreeSet<usize> = self.devices_of(own).into_iter().chain(self.devices_of(peer)).collect();
        let ids: BTreeSet<Uuid> = all.iter().map(|device| self.devices[*device].id.0).collect();
        let mut given: BTreeSet<Uuid> =
            create.welcomes.iter().filter_map(|welcome| Uuid::from_slice(&welcome.device).ok()).collect();
        if self.devices_of(peer).is_empty() || !given.insert(self.devices[from].id.0) || given != ids {
            return Err(v1::Failure::new(v1::Code::NoKeyPackages, "the devices are others: claim again"));
        }
        let leaves: BTreeSet<Uuid> = roster.leaves.iter().map(|leaf| leaf.device).collect();
        if leaves != ids || !roster.leaves.iter().all(|leaf| self.is_leaf(leaf)) {
            return Err(v1::Failure::new(v1::Code::RosterMismatch, "the leaves are not the devices"));
        }
        Ok((public, id, all))
    }

    fn insert_direct(
        &mut self,
        from: usize,
        pair: (usize, usize),
        create: &v1::CreateDirect,
        (public, id, devices): (&PublicConversation, ConversationId, &BTreeSet<usize>),
        replaced: Option<usize>,
    ) {
        let number = self.conversations.len();
        let creator = self.devices[from].account;
        let joining = |welcome: &v1::Welcome| v1::Joining {
            conversation: create.conversation.clone(),
            creator: self.accounts[creator].name.clone(),
            creator_identity_key: self.accounts[creator].identity.clone(),
            welcome: Some(welcome.clone()),
            start_seq: 0,
            replaces: replaced.map(|old| self.conversations[old].id.to_wire()).unwrap_or_default(),
            server_time_ms: self.now,
            ratchet_tree: public.ratchet_tree().unwrap().into(),
            group: false,
            peer: create.peer.clone(),
        };
        let mut members = BTreeMap::new();
        for device in devices {
            let id = self.devices[*device].id.to_wire();
            let joining = create.welcomes.iter().find(|welcome| welcome.device == id).map(joining);
            members.insert(*device, Member { cursor: 0, ends_at: None, joining });
        }
        let span =
            |device: &usize| Span { device: *device, after: 0, through: None, removed_at: None, rejoined: false };
        self.conversations.push(Conversation {
            id,
            group: false,
            pair,
            creator: from,
            state: public.to_bytes().unwrap(),
            epoch: create.epoch,
            group_info: create.group_info.clone(),
            log: Vec::new(),
            expired_through: 0,
            trimmed: 0,
            members,
            roster: BTreeSet::new(),
            abandoned: false,
            closed_by: None,
            spans: devices.iter().map(span).collect(),
            missed: BTreeSet::new(),
        });
        self.follow(from, number);
        for device in devices.iter().filter(|device| **device != from) {
            self.join(*device, number);
        }
        if let Some(replaced) = replaced {
            self.conversations[replaced].closed_by = Some(number);
            for follower in self.followers(replaced) {
                self.tell_closed(follower, replaced);
            }
        }
    }

    /// The direct conversations of two accounts, the first one first.
    pub(in crate::core::simulation) fn directs(&self, one: usize, other: usize) -> impl Iterator<Item = usize> + '_ {
        let pair = (one.min(other), one.max(other));
        (0..self.conversations.len())
            .filter(move |at| !self.conversations[*at].group && self.conversations[*at].pair == pair)
    }
}
