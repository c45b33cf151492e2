//! Making conversations and changing who is in them: what a device asks for, and how it is checked on the way.
//!
//! **Invariant**: what reaches the core or the store as made was checked against the conversation's public state; the
//! store takes it only if that state is still the one.

use bytes::Bytes;
use fastchat_mls::GroupProfile;
use fastchat_store::{
    AppendHandshake, ConversationKind, CreateDirect, CreateGroup, HandshakeState, KnownEntry, NewDirect, NewGroup,
    NewLeaf, Store,
};
use fastchat_wire::{
    Code, ConversationId,
    v1::{self, server_frame::Body},
};

use super::{
    Established, Trouble, fields, refuse,
    requests::{Requests, logged_out, no_account},
};
use crate::{
    clock,
    core::Event,
    handshakes::{self, Opened, Proposed},
    rates::{Counted, Rate},
};

impl<S: Store> Requests<'_, S> {
    pub(super) async fn create_direct(&self, ask: &v1::CreateDirect) -> Result<Body, Trouble> {
        let Established { account, device, .. } = &*self.connection;
        let (conversation, peer) = (ConversationId::from_wire(&ask.conversation)?, fields::account(&ask.peer)?);
        let (epoch, group_info) = (fields::epoch(ask.epoch)?, fields::group_info(&ask.group_info)?);
        let (welcomes, replaces) =
            (fields::welcomes(&ask.welcomes)?, ConversationId::from_wire_optional(&ask.replaces)?);
        self.rate_creation().await?;
        let Opened { leaves, state, ratchet_tree, .. } = self.open(conversation, &group_info, epoch, false).await?;
        let direct = NewDirect {
            conversation,
            creator: account.clone(),
            device: *device,
            peer: peer.clone(),
            epoch,
            leaves,
            welcomes,
            state,
            group_info,
            ratchet_tree,
            replaces,
            now_ms: clock::now_ms(),
        };
        let answer = |conversation: ConversationId, created, member| {
            Ok(Body::Direct(v1::Direct { conversation: conversation.to_wire(), created, member }))
        };
        match self.services.store.create_direct(direct).await? {
            CreateDirect::Created { joinings, membership, closed } => {
                let (account, device) = (account.clone(), *device);
                self.tell(Event::Created { account, device, membership, joinings, closed, group: false }).await?;
                answer(conversation, true, true)
            }
            CreateDirect::Repeated => answer(conversation, true, true),
            CreateDirect::Exists { conversation, member } => answer(conversation, false, member),
            CreateDirect::NoPeer => Err(no_account(peer.as_str())),
            CreateDirect::NoDevice => Err(logged_out()),
            CreateDirect::Refused => {
                Err(refuse(Code::Refused, format!("{peer} does not want messages from {account}")))
            }
            CreateDirect::OtherDevices => {
                let text = format!("the devices of {account} and {peer} are others: claim key packages again");
                Err(refuse(Code::NoKeyPackages, text))
            }
            CreateDirect::OtherLeaf(device) => {
                let text =
                    format!("the leaves are not the devices that this server knows (see {device}): make it anew");
                Err(refuse(Code::RosterMismatch, text))
            }
            CreateDirect::Conflict => Err(refuse(Code::Conflict, "this conversation id is in use: take a new one")),
        }
    }

    pub(super) async fn create_group(&self, ask: &v1::CreateGroup) -> Result<Body, Trouble> {
        let (conversation, group_info) =
            (ConversationId::from_wire(&ask.conversation)?, fields::group_info(&ask.group_info)?);
        self.rate_creation().await?;
        let Opened { leaves, state, .. } = self.open(conversation, &group_info, 0, true).await?;
        let creator = self.only_leaf(leaves)?;
        let (account, device) = (creator.account.clone(), creator.device);
        let group = NewGroup { conversation, creator, state, group_info, now_ms: clock::now_ms() };
        match self.services.store.create_group(group).await? {
            CreateGroup::Created(membership) => {
                let (joinings, closed) = (Vec::new(), None);
                self.tell(Event::Created { account, device, membership, joinings, closed, group: true }).await?;
                Ok(Body::Done(v1::Done {}))
            }
            CreateGroup::Repeated => Ok(Body::Done(v1::Done {})),
            CreateGroup::OtherLeaf => Err(refuse(
                Code::RosterMismatch,
                "the leaf's certificate is not the one that this device logged in with",
            )),
            CreateGroup::Conflict => Err(refuse(Code::Conflict, "this conversation id is in use: take a new one")),
        }
    }

    /// The one leaf of a new group, which must be this session's device.
    fn only_leaf(&self, leaves: Vec<NewLeaf>) -> Result<NewLeaf, Trouble> {
        let is_own = |leaf: &NewLeaf| leaf.account == self.connection.account && leaf.device == self.connection.device;
        match <[NewLeaf; 1]>::try_from(leaves) {
            Ok([leaf]) if is_own(&leaf) => Ok(leaf),
            _ => Err(refuse(Code::RosterMismatch, "a group begins with this session's device as its only leaf")),
        }
    }

    async fn rate_creation(&self) -> Result<(), Trouble> {
        let rate = Rate::per_hour(self.limits.claims_per_hour.get());
        self.rated(Counted::ConversationBy(self.connection.account.clone()), rate).await
    }

    /// Checks a new conversation's GroupInfo.
    async fn open(
        &self,
        conversation: ConversationId,
        group_info: &Bytes,
        epoch: u64,
        group: bool,
    ) -> Result<Opened, Trouble> {
        let group_info = group_info.clone();
        let opened = self.services.checks.run(move || handshakes::open(conversation, &group_info)).await?;
        if opened.epoch != epoch {
            let text = format!("the GroupInfo is of epoch {}, not {epoch}", opened.epoch);
            return Err(refuse(Code::GroupInfoMismatch, text));
        }
        let fits = match &opened.profile {
            Some(GroupProfile { admins, .. }) => group && *admins == [self.connection.account.as_str()],
            None => !group,
        };
        if fits {
            Ok(opened)
        } else {
            let text = "a group has a profile with its creator as the only admin, a direct conversation has none";
            Err(refuse(Code::NotAllowed, text))
        }
    }

    /// `Ok(None)`: the core answers, after the commit.
    pub(super) async fn handshake(&mut self, request: u64, ask: &v1::Handshake) -> Result<Option<Body>, Trouble> {
        let (conversation, entry, welcomes) = fields::handshake(ask, self.limits)?;
        self.connection.submitted(1, self.limits.entries_per_second.get());
        let Established { account, device, session, .. } = &*self.connection;
        let (account, device, session) = (account.clone(), *device, *session);
        // Cheap checks first: who is merely late, or sends again, pays nothing for it.
        let head = self.services.store.handshake_head(conversation, account.clone(), device, entry.clone());
        let head = head.await?.ok_or_else(|| not_a_member(conversation))?;
        if let Some(answer) = early_answer(conversation, &entry, &head)? {
            return Ok(Some(answer));
        }
        let counted = Counted::HandshakeBy(account.clone(), conversation);
        self.rated(counted, self.limits.handshake_rate()).await?;
        // The public state is large: it is read only for what is within the rate.
        let state = self.services.store.handshake_state(conversation, account.clone(), device, Some(entry.clone()));
        let state = state.await?.ok_or_else(|| not_a_member(conversation))?;
        if let Some(answer) = early_answer(conversation, &entry, &state)? {
            return Ok(Some(answer));
        }
        let (pending, public) = (state.pending, state.state);
        let group_info = Bytes::copy_from_slice(&ask.group_info);
        let member = state.member;
        let proposed = Proposed { conversation, account, device, entry, group_info, welcomes };
        let check = move || {
            let checked = handshakes::check(&proposed, &public)?;
            Ok((proposed, checked))
        };
        let (proposed, checked) = self.services.checks.run(check).await?;
        let external = checked.commit.as_ref().is_some_and(|commit| commit.external);
        if !(member || external) {
            return Err(not_a_member(conversation));
        }
        let append = Box::new(AppendHandshake {
            conversation,
            account: proposed.account,
            device,
            entry: proposed.entry,
            pending,
            state: checked.state,
            commit: checked.commit,
            now_ms: clock::now_ms(),
        });
        self.tell(Event::Handshake { session, request, append }).await?;
        Ok(None)
    }

    pub(super) async fn fetch_group(&self, ask: &v1::FetchGroup) -> Result<Body, Trouble> {
        let conversation = ConversationId::from_wire(&ask.conversation)?;
        let Established { account, device, .. } = &*self.connection;
        let rate = Rate::per_hour(self.limits.group_fetches_per_hour.get());
        self.rated(Counted::FetchBy(account.clone()), rate).await?;
        let state = self.services.store.handshake_state(conversation, account.clone(), *device, None).await?;
        let state = state.ok_or_else(|| not_a_member(conversation))?;
        if !state.account_member || state.kind != ConversationKind::Group {
            return Err(not_a_member(conversation));
        }
        if state.closed {
            return Err(closed(state.closed_by));
        }
        let HandshakeState { epoch, head, group_info, state, .. } = state;
        let joinable = self.services.checks.run(move || handshakes::joinable(conversation, &state)).await?;
        Ok(Body::GroupState(v1::GroupState {
            conversation: conversation.to_wire(),
            epoch,
            head,
            group_info,
            ratchet_tree: joinable.ratchet_tree,
            proposals: joinable.proposals,
        }))
    }
}

/// What can be said without looking at the message.
fn early_answer(
    conversation: ConversationId,
    entry: &fastchat_store::NewEntry,
    state: &HandshakeState,
) -> Result<Option<Body>, Trouble> {
    match state.known {
        Some(KnownEntry::Same { seq, time_ms }) => {
            return Ok(Some(Body::Accepted(v1::Accepted { seqs: vec![seq], server_time_ms: time_ms })));
        }
        Some(KnownEntry::Other) => {
            return Err(refuse(Code::Conflict, "this message id is there with other content: take a new one"));
        }
        None => {}
    }
    if !state.account_member {
        return Err(not_a_member(conversation));
    }
    if state.closed {
        return Err(closed(state.closed_by));
    }
    if state.epoch != entry.epoch {
        let text = "the conversation is at another epoch: apply what is new, then make the handshake anew";
        let failure = v1::Failure { epoch: state.epoch, ..v1::Failure::new(Code::StaleEpoch, text) };
        return Err(Trouble::Refuse(v1::Failure { conversation: conversation.to_wire(), ..failure }));
    }
    Ok(None)
}

fn not_a_member(conversation: ConversationId) -> Trouble {
    let failure = v1::Failure::new(Code::NotAMember, "this device is not a member of the conversation");
    Trouble::Refuse(v1::Failure { conversation: conversation.to_wire(), ..failure })
}

fn closed(by: Option<ConversationId>) -> Trouble {
    let text = "this conversation takes no more entries: make a direct one anew; a deleted group is over";
    let conversation = by.map(ConversationId::to_wire).unwrap_or_default();
    Trouble::Refuse(v1::Failure { conversation, ..v1::Failure::new(Code::ClosedConversation, text) })
}
