//! The made-up server's groups: followed by their public state, as the real server does.
//!
//! **Invariant**: without a twist, members get every entry once and in order, and nobody else gets any.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastchat_mls::PublicConversation;
use fastchat_wire::v1::{self, ServerFrame, server_frame::Body};
use uuid::Uuid;

/// What one account is to get next.
pub(super) type ForAccount = (String, ServerFrame);

struct Member {
    /// The seq of the commit that added it.
    start: u64,
    /// Up to where it has been sent entries; `None`: the Welcome is not acknowledged yet.
    sent: Option<u64>,
    joining: Option<v1::Joining>,
}

pub(super) struct Group {
    public: PublicConversation,
    group_info: Bytes,
    entries: Vec<v1::Entry>,
    members: BTreeMap<String, Member>,
}

/// Who hands something in.
pub(super) struct By<'a> {
    pub(super) account: &'a str,
    pub(super) device: Bytes,
    pub(super) identity_key: Bytes,
}

impl Group {
    pub(super) fn open(creator: &str, ask: &v1::CreateGroup) -> Option<Self> {
        let id = Uuid::from_slice(&ask.conversation).ok()?;
        let public = PublicConversation::open(id, &ask.group_info).ok()?;
        let first = Member { start: 0, sent: Some(0), joining: None };
        Some(Self {
            public,
            group_info: ask.group_info.clone(),
            entries: Vec::new(),
            members: BTreeMap::from([(creator.to_owned(), first)]),
        })
    }

    pub(super) fn state(&self, id: &Bytes) -> v1::GroupState {
        v1::GroupState {
            conversation: id.clone(),
            epoch: self.public.epoch(),
            head: self.entries.len() as u64,
            group_info: self.group_info.clone(),
            ratchet_tree: self.public.ratchet_tree().unwrap_or_default().into(),
            proposals: self.public.proposals().into_iter().map(Into::into).collect(),
        }
    }

    /// Takes a handshake in; gives its answer.
    pub(super) fn handshake(&mut self, by: &By<'_>, ask: v1::Handshake) -> Body {
        if let Some(known) = self.entries.iter().find(|entry| entry.message_id == ask.message_id) {
            return accepted(vec![known.seq]);
        }
        if ask.epoch != self.public.epoch() {
            let failure = v1::Failure::new(v1::Code::StaleEpoch, "another epoch");
            return Body::Failure(v1::Failure { epoch: self.public.epoch(), ..failure });
        }
        let id = Uuid::from_slice(&ask.message_id).unwrap_or_default();
        let seq = self.entries.len() as u64 + 1;
        if ask.kind() == v1::EntryKind::Proposal {
            if let Err(error) = self.public.proposal(id, &ask.message) {
                return refused(&error);
            }
        } else {
            let effect = match self.public.commit(id, &ask.message, &ask.group_info) {
                Ok(effect) => effect,
                Err(error) => return refused(&error),
            };
            self.group_info = ask.group_info.clone();
            let tree: Bytes = self.public.ratchet_tree().unwrap_or_default().into();
            for leaf in &effect.added {
                if effect.external {
                    continue;
                }
                let device = leaf.device.as_bytes().as_slice();
                let joining = v1::Joining {
                    conversation: ask.conversation.clone(),
                    creator: by.account.to_owned(),
                    creator_identity_key: by.identity_key.clone(),
                    welcome: ask.welcomes.iter().find(|welcome| welcome.device == device).cloned(),
                    start_seq: seq,
                    server_time_ms: 1_700_000_000_000,
                    ratchet_tree: tree.clone(),
                    group: true,
                    ..v1::Joining::default()
                };
                let member = Member { start: seq, sent: None, joining: Some(joining) };
                self.members.insert(leaf.account.clone(), member);
            }
            if effect.external {
                let member = Member { start: seq, sent: Some(seq), joining: None };
                self.members.insert(by.account.to_owned(), member);
            }
        }
        self.entries.push(v1::Entry {
            seq,
            message_id: ask.message_id,
            sender: by.account.to_owned(),
            device: by.device.clone(),
            epoch: ask.epoch,
            kind: ask.kind,
            payload: ask.message,
            server_time_ms: 1_700_000_000_000,
        });
        accepted(vec![seq])
    }

    /// Takes messages in; gives their answer.
    pub(super) fn submit(&mut self, by: &By<'_>, ask: v1::Submit) -> Body {
        let mut seqs = Vec::new();
        for entry in ask.entries {
            if entry.epoch != self.public.epoch() {
                let failure = v1::Failure::new(v1::Code::StaleEpoch, "another epoch");
                return Body::Failure(v1::Failure { epoch: self.public.epoch(), ..failure });
            }
            let seq = self.entries.len() as u64 + 1;
            seqs.push(seq);
            self.entries.push(v1::Entry {
                seq,
                message_id: entry.message_id,
                sender: by.account.to_owned(),
                device: by.device.clone(),
                epoch: entry.epoch,
                kind: entry.kind,
                payload: entry.payload,
                server_time_ms: 1_700_000_000_000,
            });
        }
        accepted(seqs)
    }

    /// An account has something; tells the others how far it is.
    pub(super) fn acknowledge(&mut self, account: &str, ask: &v1::Ack) -> Vec<ForAccount> {
        let Some(member) = self.members.get_mut(account) else { return Vec::new() };
        if ask.seq == member.start {
            member.joining = None;
            member.sent.get_or_insert(member.start);
        }
        let delivered =
            v1::Delivered { conversation: ask.conversation.clone(), account: account.to_owned(), seq: ask.seq };
        let frame = ServerFrame { request: 0, body: Some(Body::Delivered(delivered)) };
        self.members.keys().filter(|name| *name != account).map(|name| (name.clone(), frame.clone())).collect()
    }

    /// Begins again with an account that has a new connection.
    pub(super) fn resume(&mut self, account: &str, cursor: u64) {
        if let Some(member) = self.members.get_mut(account)
            && member.sent.is_some()
        {
            member.sent = Some(cursor.max(member.start));
        }
    }

    /// What connected members have not been sent yet.
    pub(super) fn due(&mut self, id: &Bytes, is_connected: impl Fn(&str) -> Option<Bytes>) -> Vec<ForAccount> {
        let mut due = Vec::new();
        for (account, member) in &mut self.members {
            let Some(device) = is_connected(account) else { continue };
            match member.sent {
                None => {
                    if let Some(joining) = member.joining.take() {
                        due.push((account.clone(), ServerFrame { request: 0, body: Some(Body::Joining(joining)) }));
                    }
                }
                Some(sent) if sent < self.entries.len() as u64 => {
                    member.sent = Some(self.entries.len() as u64);
                    let entries = self.entries.iter().filter(|entry| entry.seq > sent).cloned().collect();
                    due.push((account.clone(), super::books::deliver(id, entries, &device)));
                }
                Some(_) => {}
            }
        }
        due
    }
}

fn accepted(seqs: Vec<u64>) -> Body {
    Body::Accepted(v1::Accepted { seqs, server_time_ms: 1_700_000_000_000 })
}

fn refused(error: &fastchat_mls::HandshakeError) -> Body {
    Body::Failure(v1::Failure::new(v1::Code::HandshakeInvalid, error.to_string()))
}
