//! Commits of this device: what is to change, the commit that does it, and what becomes of it.
//!
//! A commit is pending until the server has put it into the log ([`merge`]) or another one is there first
//! (then processing that one clears it, or [`clear`] does).
//!
//! **Invariant**: no commit leaves this device that the rules would make anybody refuse.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_mls::{Actor, Effect, GroupProfile, Leaf, ProfileError, Refusal, Roster, rules, suite};
use openmls::{
    prelude::{
        CommitMessageBundle, LeafNodeIndex, LeafNodeParameters, MlsGroup, OpenMlsProvider as _, PreSharedKeyProposal,
        Proposal, Sender, tls_codec::Serialize as _,
    },
    schedule::PreSharedKeyId,
};
use openmls_traits::storage::StorageProvider as _;
use uuid::Uuid;

use crate::{
    Applied, Device, Identity, KeyPackageError, PeerPackages, SharedKeyError, StoreError, WelcomeFor, key_package,
    mls::{self, MlsError, Provider, SUITE},
    shared_key::SharedKey,
    storage::Record,
    welcome::{self, Joiner},
};

/// What a commit is to change. The default changes nothing but this device's own keys: a self-update.
#[derive(Debug, Default)]
pub struct Change<'a> {
    /// Accounts to add, with a key package of each of their devices; or further devices of our own account. At most 250
    /// devices.
    pub add: Vec<PeerPackages<'a>>,
    /// Accounts to remove.
    pub remove_accounts: Vec<String>,
    /// Devices of our own account to remove.
    pub remove_devices: Vec<(String, Uuid)>,
    /// The new profile. Admins who are removed or leave are taken out of it by the commit itself.
    pub profile: Option<GroupProfile>,
    /// This device under a new identity of its account ([`Device::recertify`]). Removes all other leaves of the account.
    pub new_device: Option<&'a Device>,
}

/// A commit that is pending, with what goes to the server beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The epoch that it is made at; the server accepts it at no other.
    pub epoch: u64,
    /// The MLSMessage with the commit.
    pub message: Vec<u8>,
    /// The `GroupInfo` of the epoch that it leads to, without the tree.
    pub group_info: Vec<u8>,
    /// One Welcome for each device that it adds.
    pub welcomes: Vec<WelcomeFor>,
    /// For an external commit: the leaf that has signed the `GroupInfo` that it was made from. Nothing else vouches for
    /// that state: the caller compares account and identity with those that it knew in the group.
    pub shown_by: Option<Leaf>,
}

/// Why a commit or a proposal to leave was not made. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This device does not have the conversation.
    #[error("this device does not have the conversation")]
    UnknownConversation,
    /// The device is not the one that is in the conversation.
    #[error("another device is in this conversation than the one that commits")]
    OtherDevice,
    /// Another commit of this device is on its way.
    #[error("a commit of this device is on its way already: merge or clear it first")]
    Pending,
    /// Who is to be removed is not there: somebody else was faster.
    #[error("{0} is not in the conversation")]
    NotAMember(String),
    /// A key package is not one of that account's device: the server may be handing out its own.
    #[error("the key package of device {device} is refused: {cause}")]
    KeyPackage {
        /// The device it was said to be for.
        device: Uuid,
        /// What is wrong with it.
        #[source]
        cause: KeyPackageError,
    },
    /// The new profile is out of its bounds.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The rules do not allow it.
    #[error(transparent)]
    NotAllowed(#[from] Refusal),
    /// The join key could not be wrapped.
    #[error(transparent)]
    SharedKey(#[from] SharedKeyError),
    /// MLS refused.
    #[error("the commit could not be made: {0}")]
    Mls(#[source] MlsError),
}

/// Why a pending commit was not merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This device does not have the conversation.
    #[error("this device does not have the conversation")]
    UnknownConversation,
    /// There is none: it was merged or cleared before.
    #[error("no commit of this device is pending in the conversation")]
    NothingPending,
    /// It does not merge (a damaged store).
    #[error("the pending commit does not merge: {0}")]
    Mls(String),
}

fn refused(error: impl Into<MlsError>) -> CommitError {
    CommitError::Mls(error.into())
}

/// Makes a commit, which stays pending.
pub(crate) fn commit(
    provider: &Provider<'_>,
    identity: &Identity,
    device: &Device,
    conversation: Uuid,
    message_id: Uuid,
    change: &Change<'_>,
) -> Result<Prepared, CommitError> {
    let mut group = load(provider, device, conversation)?;
    let (epoch, leaving) = (group.epoch().as_u64(), mls::leaving(&group));
    let joiners = verify_packages(provider, change)?;
    let plan = Plan::of(&mls::roster(&group)?, &leaving, device, change)?;
    let key = mls::join_key(provider, &group, conversation).map_err(refused)?;
    group.set_aad(suite::entry_aad(conversation, message_id));
    let (message, welcome, group_info) = plan.stage(provider, device, &mut group, &joiners, &key)?.into_messages();
    effect_of_pending(&group, conversation, &leaving).ok_or_else(|| refused("no commit is pending"))??;
    let parts = match &welcome {
        Some(welcome) => welcome::split(provider.crypto(), welcome, &joiners).map_err(refused)?,
        None => Vec::new(),
    };
    let wrapped = change.add.iter().map(|of| Ok((of.account, key.wrap(identity, of.identity)?)));
    let wrapped: BTreeMap<&str, Vec<u8>> = wrapped.collect::<Result<_, CommitError>>()?;
    let welcome_for = |(joiner, welcome): (Joiner, Vec<u8>)| WelcomeFor {
        join_key: wrapped.get(joiner.account.as_str()).cloned().unwrap_or_default(),
        account: joiner.account,
        device: joiner.device,
        welcome,
    };
    let group_info = group_info.ok_or_else(|| refused("no group info was made"))?;
    Ok(Prepared {
        epoch,
        message: message.tls_serialize_detached().map_err(refused)?,
        group_info: group_info.tls_serialize_detached().map_err(refused)?,
        welcomes: joiners.into_iter().zip(parts).map(welcome_for).collect(),
        shown_by: None,
    })
}

/// The group, if it is this device's and no commit of ours is on its way.
fn load(provider: &Provider<'_>, device: &Device, conversation: Uuid) -> Result<MlsGroup, CommitError> {
    let group = provider.load(conversation).map_err(StoreError::from)?.ok_or(CommitError::UnknownConversation)?;
    if group.own_leaf_node().map(|leaf| leaf.signature_key().as_slice()) != Some(device.signature_key()) {
        return Err(CommitError::OtherDevice);
    }
    if group.pending_commit().is_some() || rejoining(provider, conversation)?.is_some() {
        return Err(CommitError::Pending);
    }
    Ok(group)
}

fn verify_packages(provider: &Provider<'_>, change: &Change<'_>) -> Result<Vec<Joiner>, CommitError> {
    let adds: usize = change.add.iter().map(|of| of.packages.len()).sum();
    if adds > suite::MAX_ADDS {
        return Err(Refusal::NotAllowed(format!("one commit adds at most {} devices", suite::MAX_ADDS)).into());
    }
    let mut joiners = Vec::with_capacity(adds);
    for of in &change.add {
        let verified = key_package::verify_all(provider, of);
        joiners.extend(verified.map_err(|(device, cause)| CommitError::KeyPackage { device, cause })?);
    }
    Ok(joiners)
}

/// What the change means for the tree as it is, and what comes with it by the rules.
struct Plan<'a> {
    removed: BTreeSet<u32>,
    profile: Option<GroupProfile>,
    new_device: Option<&'a Device>,
}

impl<'a> Plan<'a> {
    fn of(roster: &Roster, leaving: &[u32], device: &Device, change: &Change<'a>) -> Result<Self, CommitError> {
        let mut removed = BTreeSet::new();
        for account in &change.remove_accounts {
            let indices: Vec<u32> = roster.leaves_of(account).map(|leaf| leaf.index).collect();
            if indices.is_empty() {
                return Err(CommitError::NotAMember(account.clone()));
            }
            removed.extend(indices);
        }
        for (account, device) in &change.remove_devices {
            let leaf = roster.device(account, *device);
            removed.insert(leaf.ok_or_else(|| CommitError::NotAMember(format!("device {device} of {account}")))?.index);
        }
        let own_others = roster.leaves_of(device.account()).filter(|leaf| leaf.device != device.id());
        if change.new_device.is_some() {
            removed.extend(own_others.map(|leaf| leaf.index));
        }
        let leavers = roster.leaves.iter().filter(|leaf| roster.leaving.contains(&leaf.account));
        removed.extend(leavers.map(|leaf| leaf.index));
        removed.retain(|index| !leaving.contains(index));
        Ok(Self { removed, profile: pruned(roster, change), new_device: change.new_device })
    }

    /// The commit in MLS. New keys come with it unless it only adds (RFC 9420, section 12.4).
    fn stage(
        &self,
        provider: &Provider<'_>,
        device: &Device,
        group: &mut MlsGroup,
        joiners: &[Joiner],
        key: &SharedKey,
    ) -> Result<CommitMessageBundle, CommitError> {
        let only_adds = self.removed.is_empty() && self.profile.is_none() && self.new_device.is_none();
        let mut join_key = None;
        if !joiners.is_empty() {
            let psk = PreSharedKeyId::new(SUITE, provider.rand(), key.psk()).map_err(refused)?;
            psk.store(provider, &key.secret).map_err(refused)?;
            join_key = Some(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))));
        }
        let leaf = self.new_device.map(Device::credential);
        let leaf = leaf.map(|credential| LeafNodeParameters::builder().with_credential_with_key(credential).build());
        let mut builder = group
            .commit_builder()
            .force_self_update(joiners.is_empty() || !only_adds)
            .leaf_node_parameters(leaf.unwrap_or_default())
            .propose_adds(joiners.iter().map(|joiner| joiner.key_package.clone()))
            .propose_removals(self.removed.iter().map(|index| LeafNodeIndex::new(*index)))
            .add_proposals(join_key);
        if let Some(profile) = &self.profile {
            builder = builder.propose_group_context_extensions(profile.to_extensions()?).map_err(refused)?;
        }
        let bundle = builder
            .load_psks(provider.storage())
            .map_err(refused)?
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), device.signer(), |_| true)
            .map_err(refused)?
            .stage_commit(provider)
            .map_err(refused)?;
        provider.storage().delete_psk(&key.psk()).map_err(StoreError::from)?;
        Ok(bundle)
    }
}

/// The profile that the commit sets, without admins who go; `None` if it stays as it is.
fn pruned(roster: &Roster, change: &Change<'_>) -> Option<GroupProfile> {
    let current = roster.profile.as_ref()?;
    let mut profile = change.profile.as_ref().unwrap_or(current).clone();
    let goes = |admin: &String| change.remove_accounts.contains(admin) || roster.leaving.contains(admin);
    profile.admins.retain(|admin| !goes(admin));
    (profile != *current).then_some(profile)
}

fn effect_of_pending(group: &MlsGroup, conversation: Uuid, leaving: &[u32]) -> Option<Result<Effect, Refusal>> {
    let sender = Sender::Member(group.own_leaf_index());
    let staged = group.pending_commit()?;
    Some(rules::judge(conversation, group.public_group(), leaving, &sender, staged))
}

/// An own commit stands in the log: it takes effect.
pub(crate) fn merge(provider: &Provider<'_>, conversation: Uuid) -> Result<Applied, MergeError> {
    let mut group = provider.load(conversation).map_err(StoreError::from)?.ok_or(MergeError::UnknownConversation)?;
    if let Some(mut effect) = rejoining(provider, conversation)? {
        provider.trial.delete(Record::Rejoining, &conversation.into_bytes()).map_err(StoreError::from)?;
        let roster = mls::roster(&group).map_err(|refusal| MergeError::Mls(refusal.to_string()))?;
        effect.settle(&roster);
        return Ok(Applied { epoch: group.epoch().as_u64(), effect, self_removed: false, roster });
    }
    let effect = effect_of_pending(&group, conversation, &mls::leaving(&group)).ok_or(MergeError::NothingPending)?;
    let effect = effect.map_err(|refusal| MergeError::Mls(refusal.to_string()))?;
    group.merge_pending_commit(provider).map_err(|error| MergeError::Mls(error.to_string()))?;
    Applied::after(&group, effect, false).map_err(|refusal| MergeError::Mls(refusal.to_string()))
}

/// Forgets a pending commit that will never stand in the log.
pub(crate) fn clear(provider: &Provider<'_>, conversation: Uuid) -> Result<(), StoreError> {
    let Some(mut group) = provider.load(conversation)? else { return Ok(()) };
    Ok(group.clear_pending_commit(&provider.trial)?)
}

/// Whether a commit of ours is on its way.
pub(crate) fn is_pending(provider: &Provider<'_>, conversation: Uuid) -> Result<bool, StoreError> {
    let group = provider.load(conversation)?;
    Ok(group.is_some_and(|group| group.pending_commit().is_some()) || rejoining(provider, conversation)?.is_some())
}

/// What an external commit of ours that is on its way will have done.
pub(crate) fn rejoining(provider: &Provider<'_>, conversation: Uuid) -> Result<Option<Effect>, StoreError> {
    Ok(provider.trial.get(Record::Rejoining, &conversation.into_bytes())?)
}

/// Makes the proposal to leave. It changes nothing here: once it stands in the log it is processed like everybody's.
pub(crate) fn propose_leave(
    provider: &Provider<'_>,
    device: &Device,
    conversation: Uuid,
    message_id: Uuid,
) -> Result<(u64, Vec<u8>), CommitError> {
    let mut group = load(provider, device, conversation)?;
    rules::judge_leave(group.public_group(), &mls::leaving(&group), group.own_leaf_index())?;
    group.set_aad(suite::entry_aad(conversation, message_id));
    let message = group.leave_group_via_self_remove(provider, device.signer()).map_err(refused)?;
    Ok((group.epoch().as_u64(), message.tls_serialize_detached().map_err(refused)?))
}

/// The effect of an external commit: the device's new leaf, in place of its old one, and who left with it.
pub(crate) fn external_effect(own: &Leaf, removed: Vec<Leaf>) -> Effect {
    Effect {
        by: Actor { account: own.account.clone(), device: own.device },
        committer: own.clone(),
        added: vec![own.clone()],
        removed,
        profile: None,
        reidentified: None,
        external: true,
    }
}
