//! Which handshake is allowed: the roles of a group, asked in the same way by the server and by every member.
//!
//! [`judge`] looks at a commit that MLS has accepted, before it is merged; [`judge_leave`] at a proposal to leave;
//! [`judge_state`] at a conversation that one comes to from outside. See docs/security.md for the rules in words.
//!
//! **Invariant**: the answer depends on the public state, the pending leaves and the commit alone.

use std::collections::{BTreeMap, BTreeSet};

use openmls::prelude::{LeafNodeIndex, PublicGroup, Sender, StagedCommit};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{GroupProfile, Leaf, ProfileError, Roster, suite};

mod parts;

use parts::Parts;

/// Why a handshake is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The sender's role, or the shape of the conversation, does not allow it.
    #[error("{0}")]
    NotAllowed(String),
    /// It leaves out that somebody leaves.
    #[error("somebody leaves the group, and the commit does not take that in: read the log and commit again")]
    ProposalsPending,
    /// The conversation, or an account in it, would have too many devices.
    #[error("the group is full: at most {} devices, {} of one account", suite::MAX_LEAVES, suite::MAX_ACCOUNT_LEAVES)]
    Full,
}

impl Refusal {
    pub(crate) fn not_allowed(text: &str) -> Self {
        Self::NotAllowed(text.to_owned())
    }
}

impl From<ProfileError> for Refusal {
    fn from(error: ProfileError) -> Self {
        Self::NotAllowed(error.to_string())
    }
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The account.
    pub account: String,
    /// Its device.
    pub device: Uuid,
}

/// An account's old and new identity (SubjectPublicKeyInfo in DER).
pub type Reidentified = (Vec<u8>, Vec<u8>);

/// Who proposed to leave.
pub type Leaving = Actor;

/// What a commit does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Who committed.
    pub by: Actor,
    /// The committing device's leaf as it is afterwards.
    pub committer: Leaf,
    /// New leaves. Their places in the tree are known once [`Effect::settle`] was called with the roster afterwards.
    pub added: Vec<Leaf>,
    /// Leaves that are there no more.
    pub removed: Vec<Leaf>,
    /// The new profile, if it changes.
    pub profile: Option<GroupProfile>,
    /// The committer's account's old and new identity (DER), if it changes.
    pub reidentified: Option<Reidentified>,
    /// Whether the committer came in by this very commit.
    pub external: bool,
}

impl Effect {
    /// Fills in where in the tree the new leaves are.
    pub fn settle(&mut self, after: &Roster) {
        for leaf in self.added.iter_mut().chain([&mut self.committer]) {
            if let Some(placed) = after.device(&leaf.account, leaf.device) {
                leaf.index = placed.index;
            }
        }
    }
}

/// Whether a commit that MLS accepts is allowed, and what it does. `leaving`: the leaves with a pending proposal.
///
/// # Errors
/// The first rule that it breaks.
pub fn judge(
    conversation: Uuid,
    group: &PublicGroup,
    leaving: &[u32],
    sender: &Sender,
    staged: &StagedCommit,
) -> Result<Effect, Refusal> {
    let before = Roster::of(group, leaving)?;
    let parts = Parts::of(group, sender, staged)?;
    if !parts.removed.is_disjoint(&parts.left) {
        return Err(Refusal::not_allowed("the commit removes a device that leaves by its own proposal"));
    }
    match &before.profile {
        None => direct(&before, parts),
        Some(profile) if profile.deleted => Err(Refusal::not_allowed("the group was deleted")),
        Some(profile) => Case { conversation, before: &before, profile, leaving, parts: &parts }.decide(),
    }
}

/// A direct conversation keeps its members: every commit is a self-update.
fn direct(before: &Roster, parts: Parts) -> Result<Effect, Refusal> {
    let bare = parts.added.is_empty() && parts.removed.is_empty() && parts.left.is_empty() && parts.psks.is_empty();
    let same = before.leaf(parts.committer.index).is_some_and(|old| *old == parts.committer);
    if !bare || parts.external || parts.profile.is_some() || !same {
        return Err(Refusal::not_allowed("in a direct conversation a device updates its own keys and nothing else"));
    }
    Ok(parts.into_effect(Vec::new(), None))
}

/// Whether a leaf may propose to leave.
///
/// # Errors
/// A direct or deleted group, a second proposal of the same leaf, the last account, or the last admin who stays.
pub fn judge_leave(group: &PublicGroup, leaving: &[u32], leaf: LeafNodeIndex) -> Result<Leaving, Refusal> {
    let roster = Roster::of(group, leaving)?;
    let Some(profile) = roster.profile.as_ref().filter(|profile| !profile.deleted) else {
        return Err(Refusal::not_allowed("one leaves groups only, and not deleted ones"));
    };
    let leaf = roster.leaf(leaf.u32()).ok_or_else(|| Refusal::not_allowed("no such member"))?;
    if leaving.contains(&leaf.index) {
        return Err(Refusal::not_allowed("this device has proposed to leave already"));
    }
    let stays = |admin: &&String| **admin != leaf.account && !roster.leaving.contains(admin);
    if profile.is_admin(&leaf.account) && profile.admins.iter().find(stays).is_none() {
        return Err(Refusal::not_allowed("the last admin cannot leave: promote somebody first, or delete the group"));
    }
    Ok(Actor { account: leaf.account.clone(), device: leaf.device })
}

/// Whether a conversation that one comes to from outside is one that the rules could have led to.
///
/// # Errors
/// Says what is wrong with it.
pub fn judge_state(roster: &Roster) -> Result<(), Refusal> {
    match &roster.profile {
        None => judge_direct(roster),
        Some(profile) => judge_members(profile, roster.leaves.iter()),
    }
}

fn judge_direct(roster: &Roster) -> Result<(), Refusal> {
    judge_leaves(roster.leaves.iter())?;
    let accounts = roster.accounts();
    if !(1..=2).contains(&accounts.len()) {
        return Err(Refusal::not_allowed("a direct conversation has one or two accounts"));
    }
    if accounts.iter().any(|account| roster.leaves_of(account).count() > suite::MAX_DIRECT_DEVICES) {
        return Err(Refusal::Full);
    }
    Ok(())
}

fn judge_members<'a>(profile: &GroupProfile, leaves: impl Iterator<Item = &'a Leaf>) -> Result<(), Refusal> {
    let accounts = judge_leaves(leaves)?;
    if profile.admins.iter().all(|admin| accounts.contains_key(admin.as_str())) {
        Ok(())
    } else {
        Err(Refusal::not_allowed("every admin must be a member: change the admins with the same commit"))
    }
}

/// Devices and keys are unique, an account has one identity, nothing is over its bound. Gives the accounts.
fn judge_leaves<'a>(leaves: impl Iterator<Item = &'a Leaf>) -> Result<BTreeMap<&'a str, &'a [u8]>, Refusal> {
    let mut accounts: BTreeMap<&str, (&[u8], usize)> = BTreeMap::new();
    let (mut devices, mut keys, mut total) = (BTreeSet::new(), BTreeSet::new(), 0);
    for leaf in leaves {
        total += 1;
        if !devices.insert((leaf.account.as_str(), leaf.device)) || !keys.insert(leaf.signature_key.as_slice()) {
            return Err(Refusal::not_allowed("a device or its key would be in the conversation twice"));
        }
        let (identity, count) = accounts.entry(&leaf.account).or_insert((&leaf.identity, 0));
        if **identity != leaf.identity {
            return Err(Refusal::not_allowed("an account's devices would be under different identities"));
        }
        *count += 1;
        if *count > suite::MAX_ACCOUNT_LEAVES || total > suite::MAX_LEAVES {
            return Err(Refusal::Full);
        }
    }
    Ok(accounts.into_iter().map(|(account, (identity, _))| (account, identity)).collect())
}

/// A commit in a group, with all that it is judged by.
struct Case<'a> {
    conversation: Uuid,
    before: &'a Roster,
    profile: &'a GroupProfile,
    leaving: &'a [u32],
    parts: &'a Parts,
}

impl Case<'_> {
    fn decide(&self) -> Result<Effect, Refusal> {
        if self.parts.external {
            self.external()?;
        } else {
            self.leaves_are_taken_in()?;
            self.removals()?;
        }
        self.additions()?;
        self.profile_change()?;
        let reidentified = self.own_leaf()?;
        let gone = |leaf: &&Leaf| self.parts.removed.contains(&leaf.index) || self.parts.left.contains(&leaf.index);
        let removed: Vec<Leaf> = self.before.leaves.iter().filter(gone).cloned().collect();
        let stay = self.before.leaves.iter().filter(|leaf| !gone(leaf));
        let stay = stay.filter(|leaf| self.parts.external || leaf.index != self.parts.committer.index);
        let after = stay.chain(&self.parts.added).chain([&self.parts.committer]);
        judge_members(self.parts.profile.as_ref().unwrap_or(self.profile), after)?;
        Ok(self.parts.clone().into_effect(removed, reidentified))
    }

    fn is_admin(&self) -> bool {
        !self.parts.external && self.profile.is_admin(&self.parts.committer.account)
    }

    fn require_admin(&self, what: &str) -> Result<(), Refusal> {
        if self.is_admin() { Ok(()) } else { Err(Refusal::NotAllowed(format!("only an admin {what}"))) }
    }

    /// The commit has all pending leaves, and removes whatever else the leavers have in the tree.
    fn leaves_are_taken_in(&self) -> Result<(), Refusal> {
        if self.before.leaving.contains(&self.parts.committer.account) {
            return Err(Refusal::not_allowed("an account that leaves commits no more: another member takes it out"));
        }
        if self.leaving.iter().any(|index| !self.parts.left.contains(index)) {
            return Err(Refusal::ProposalsPending);
        }
        let rest = self.before.leaves.iter().filter(|leaf| self.before.leaving.contains(&leaf.account));
        for leaf in rest {
            if !self.parts.left.contains(&leaf.index) && !self.parts.removed.contains(&leaf.index) {
                return Err(Refusal::ProposalsPending);
            }
        }
        Ok(())
    }

    /// Beside leavers: one removes devices of one's own, and an admin removes whole accounts.
    fn removals(&self) -> Result<(), Refusal> {
        for leaf in self.parts.removed.iter().filter_map(|index| self.before.leaf(*index)) {
            if self.before.leaving.contains(&leaf.account) || leaf.account == self.parts.committer.account {
                continue;
            }
            self.require_admin("removes others")?;
            if self.before.leaves_of(&leaf.account).any(|other| !self.parts.removed.contains(&other.index)) {
                return Err(Refusal::not_allowed("an admin removes an account with all its devices"));
            }
        }
        Ok(())
    }

    /// One adds devices of one's own, and an admin adds accounts that are not in yet. Who is added gets a join key.
    fn additions(&self) -> Result<(), Refusal> {
        if self.parts.added.len() > suite::MAX_ADDS {
            return Err(Refusal::NotAllowed(format!("one commit adds at most {} devices", suite::MAX_ADDS)));
        }
        let members: BTreeSet<&str> = self.before.leaves.iter().map(|leaf| leaf.account.as_str()).collect();
        for leaf in &self.parts.added {
            if leaf.account == self.parts.committer.account {
                continue;
            }
            self.require_admin("adds others")?;
            // A joiner sees the profile of afterwards alone, and believes an admin's Welcome.
            if self.parts.profile.as_ref().is_some_and(|profile| !profile.is_admin(&self.parts.committer.account)) {
                return Err(Refusal::not_allowed("who adds others does not step down in the same commit"));
            }
            if members.contains(leaf.account.as_str()) {
                return Err(Refusal::not_allowed("only a device of the same account adds further devices to it"));
            }
        }
        let join_key = suite::join_key_id(self.conversation, self.before.epoch);
        let expected: &[Vec<u8>] = if self.parts.added.is_empty() { &[] } else { &[join_key] };
        if self.parts.psks != expected {
            return Err(Refusal::not_allowed("a commit that adds devices carries this epoch's join key, others none"));
        }
        Ok(())
    }

    /// An admin changes the profile; others only take admins who leave out of it.
    fn profile_change(&self) -> Result<(), Refusal> {
        let Some(new) = &self.parts.profile else { return Ok(()) };
        if new == self.profile {
            return Err(Refusal::not_allowed("a change of the profile that changes nothing"));
        }
        let mut without_leavers = self.profile.clone();
        without_leavers.admins.retain(|admin| !self.before.leaving.contains(admin));
        if *new == without_leavers { Ok(()) } else { self.require_admin("changes the group's profile") }
    }

    /// The committer's leaf keeps account, device and key; its identity changes only if it is the account's last leaf.
    fn own_leaf(&self) -> Result<Option<Reidentified>, Refusal> {
        let new = &self.parts.committer;
        if self.parts.external {
            return Ok(None);
        }
        let old = self.before.leaf(new.index).ok_or_else(|| Refusal::not_allowed("no such member"))?;
        if (&old.account, old.device, &old.signature_key) != (&new.account, new.device, &new.signature_key) {
            return Err(Refusal::not_allowed("a device's leaf stays that of the device"));
        }
        if old.identity == new.identity {
            let same = old.certificate == new.certificate;
            return if same { Ok(None) } else { Err(Refusal::not_allowed("the certificate changed for no reason")) };
        }
        Ok(Some((old.identity.clone(), new.identity.clone())))
    }

    /// A device of a member account comes in by itself, under the account's identity; it replaces its own old leaf.
    ///
    /// Such a commit removes one leaf at most, so it takes in those who leave with their only device and are no admins;
    /// the others' proposals lapse with the epoch, and they propose again.
    fn external(&self) -> Result<(), Refusal> {
        let new = &self.parts.committer;
        match self.before.identity_of(&new.account) {
            Some(identity) if identity == new.identity => {}
            Some(_) => return Err(Refusal::not_allowed("the account is in the group under another identity")),
            None => return Err(Refusal::not_allowed("only a device of a member joins by itself")),
        }
        if self.before.leaving.contains(&new.account) {
            return Err(Refusal::not_allowed("the account leaves the group"));
        }
        for leaf in self.parts.removed.iter().filter_map(|index| self.before.leaf(*index)) {
            let own =
                (&leaf.account, leaf.device, &leaf.signature_key) == (&new.account, new.device, &new.signature_key);
            if !own {
                return Err(Refusal::not_allowed("a device that joins by itself replaces its own old leaf alone"));
            }
        }
        if taken_by_external(self.before, self.leaving) != self.parts.left {
            return Err(Refusal::ProposalsPending);
        }
        Ok(())
    }
}

/// Which of the pending leaves an external commit takes in: see [`judge`].
#[must_use]
pub fn taken_by_external(roster: &Roster, leaving: &[u32]) -> BTreeSet<u32> {
    let alone = |index: &&u32| {
        let leaf = roster.leaf(**index);
        leaf.is_some_and(|leaf| !roster.is_admin(&leaf.account) && roster.leaves_of(&leaf.account).count() == 1)
    };
    leaving.iter().filter(alone).copied().collect()
}
