//! A commit taken apart into what the rules speak of.
//!
//! **Invariant**: a proposal that the rules do not know never gets past here.

use std::collections::BTreeSet;

use openmls::{
    prelude::{
        Proposal, ProposalOrRefType, PublicGroup, QueuedProposal, Sender, StagedCommit,
        tls_codec::{Deserialize as _, Serialize as _},
    },
    schedule::{PreSharedKeyId, Psk},
};

use super::{Actor, Effect, Refusal, Reidentified};
use crate::{GroupProfile, Leaf};

/// What a commit consists of.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    /// The committing leaf as it is afterwards.
    pub(super) committer: Leaf,
    pub(super) external: bool,
    pub(super) added: Vec<Leaf>,
    /// Leaves removed by value.
    pub(super) removed: BTreeSet<u32>,
    /// Leaves whose own proposal to leave is taken in.
    pub(super) left: BTreeSet<u32>,
    /// Ids of external pre-shared keys.
    pub(super) psks: Vec<Vec<u8>>,
    pub(super) profile: Option<GroupProfile>,
}

fn other_proposals() -> Refusal {
    Refusal::not_allowed("the commit contains a proposal of a kind that conversations do not use")
}

impl Parts {
    pub(super) fn of(group: &PublicGroup, sender: &Sender, staged: &StagedCommit) -> Result<Self, Refusal> {
        let (committer, external) = committer(group, sender, staged)?;
        let mut parts = Self {
            committer,
            external,
            added: Vec::new(),
            removed: BTreeSet::new(),
            left: BTreeSet::new(),
            psks: Vec::new(),
            profile: None,
        };
        for queued in staged.queued_proposals() {
            parts.take(queued)?;
        }
        Ok(parts)
    }

    fn take(&mut self, queued: &QueuedProposal) -> Result<(), Refusal> {
        let by_value = queued.proposal_or_ref_type() == ProposalOrRefType::Proposal;
        match (queued.proposal(), queued.sender()) {
            (Proposal::SelfRemove, Sender::Member(leaf)) if !by_value => {
                self.left.insert(leaf.u32());
            }
            (Proposal::Add(add), _) if by_value => {
                // The place in the tree is not known before the merge.
                self.added.push(Leaf::from_node(u32::MAX, add.key_package().leaf_node())?);
            }
            (Proposal::Remove(remove), _) if by_value => {
                self.removed.insert(remove.removed().u32());
            }
            (Proposal::PreSharedKey(proposal), _) if by_value => {
                let bytes = proposal.tls_serialize_detached().map_err(|_| other_proposals())?;
                let id = PreSharedKeyId::tls_deserialize_exact(bytes).map_err(|_| other_proposals())?;
                let Psk::External(external) = id.psk() else { return Err(other_proposals()) };
                self.psks.push(external.psk_id().to_vec());
            }
            (Proposal::GroupContextExtensions(change), _) if by_value => {
                let profile = GroupProfile::from_extensions(change.extensions())?;
                self.profile = Some(profile.ok_or_else(|| Refusal::not_allowed("a group keeps its profile"))?);
            }
            (Proposal::ExternalInit(_), _) if by_value && self.external => {}
            _ => return Err(other_proposals()),
        }
        Ok(())
    }

    pub(super) fn into_effect(self, removed: Vec<Leaf>, reidentified: Option<Reidentified>) -> Effect {
        let mut added = self.added;
        if self.external {
            added.push(self.committer.clone());
        }
        Effect {
            by: Actor { account: self.committer.account.clone(), device: self.committer.device },
            committer: self.committer,
            added,
            removed,
            profile: self.profile,
            reidentified,
            external: self.external,
        }
    }
}

fn committer(group: &PublicGroup, sender: &Sender, staged: &StagedCommit) -> Result<(Leaf, bool), Refusal> {
    let path = staged.update_path_leaf_node();
    match sender {
        Sender::Member(index) => {
            let node = path.or_else(|| group.leaf(*index)).ok_or_else(|| Refusal::not_allowed("no such member"))?;
            Ok((Leaf::from_node(index.u32(), node)?, false))
        }
        Sender::NewMemberCommit => {
            let index = group
                .ext_commit_sender_index(staged)
                .map_err(|_| Refusal::not_allowed("there is no place for another leaf"))?;
            let node = path.ok_or_else(|| Refusal::not_allowed("who joins by itself brings its leaf"))?;
            Ok((Leaf::from_node(index.u32(), node)?, true))
        }
        _ => Err(Refusal::not_allowed("only members commit")),
    }
}
