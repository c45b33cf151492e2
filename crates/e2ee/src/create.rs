//! Making conversations: direct ones with all devices of both accounts at once, groups with the creator alone.
//!
//! **Invariant**: a direct conversation has a friend key in its key schedule, and every leaf in it is certified by the
//! identity that the caller knows for its account.

use std::collections::BTreeSet;

use fastchat_mls::{GroupProfile, ProfileError, suite::MAX_DIRECT_DEVICES};
use openmls::{
    prelude::{
        Extensions, MlsGroup, NewGroupError, OpenMlsProvider as _, PreSharedKeyProposal, Proposal,
        tls_codec::Serialize as _,
    },
    schedule::PreSharedKeyId,
};
use openmls_traits::storage::StorageProvider as _;
use uuid::Uuid;

use crate::{
    CertificateError, Device, Identity, IdentityKey, KeyPackageError, SharedKeyError, StoreError, WelcomeFor,
    key_package,
    mls::{self, MlsError, Provider, SUITE},
    shared_key::SharedKey,
    state::StorageFailed,
    welcome::{self, Joiner},
};

/// An account, the identity known for it, and a key package of each of its devices.
#[derive(Debug, Clone, Copy)]
pub struct PeerPackages<'a> {
    /// The name on the server, `bob`: the same however the server is reached.
    pub account: &'a str,
    /// The identity key that is known for the account; what a server claims has been compared with it already.
    pub identity: &'a IdentityKey,
    /// Device ids and their key packages (serialized MLSMessages) as the server handed them out.
    pub packages: &'a [(Uuid, &'a [u8])],
}

/// A new conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The epoch at which its log begins.
    pub epoch: u64,
    /// A Welcome for each other device; none for a group.
    pub welcomes: Vec<WelcomeFor>,
    /// The `GroupInfo` of that epoch with the tree inside, for the server.
    pub group_info: Vec<u8>,
}

/// Why a conversation was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This device has a conversation with that id.
    #[error("this device already has a conversation with that id")]
    AlreadyExists,
    /// No key packages, too many, or two for one device.
    #[error("there must be one key package for each of 1 to {MAX_DIRECT_DEVICES} devices of an account")]
    Devices,
    /// A key package is not one of that account's device: the server may be handing out its own.
    #[error("the key package of device {device} is refused: {cause}")]
    KeyPackage {
        /// The device it was said to be for.
        device: Uuid,
        /// What is wrong with it.
        #[source]
        cause: KeyPackageError,
    },
    /// The group's profile is out of its bounds.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A group begins with its creator as the only admin.
    #[error("a new group's only admin must be its creator")]
    Admins,
    /// The friend key could not be made.
    #[error(transparent)]
    SharedKey(#[from] SharedKeyError),
    /// MLS refused.
    #[error("the conversation could not be made: {0}")]
    Mls(#[source] MlsError),
}

fn refused(error: impl Into<MlsError>) -> CreateError {
    CreateError::Mls(error.into())
}

fn not_made(error: NewGroupError<StorageFailed>) -> CreateError {
    match error {
        NewGroupError::GroupAlreadyExists => CreateError::AlreadyExists,
        other => refused(other),
    }
}

/// Makes a group with this device alone, at epoch 0.
pub(crate) fn group(
    provider: &Provider<'_>,
    device: &Device,
    conversation: Uuid,
    profile: &GroupProfile,
) -> Result<Created, CreateError> {
    let extensions = profile.to_extensions()?;
    if profile.admins != [device.account().to_owned()] || profile.deleted {
        return Err(CreateError::Admins);
    }
    let group = mls::new_group(provider, device, conversation, extensions).map_err(not_made)?;
    created(provider, device, &group, Vec::new())
}

/// Makes the group, adds all other devices of both accounts and the friend key in one commit, and merges it.
pub(crate) fn direct(
    provider: &Provider<'_>,
    identity: &Identity,
    device: &Device,
    conversation: Uuid,
    peer: &PeerPackages<'_>,
    own: &[(Uuid, &[u8])],
) -> Result<Created, CreateError> {
    let own = PeerPackages { account: device.account(), identity: identity.public(), packages: own };
    let joiners = verify_packages(provider, device, peer, &own)?;
    let key = SharedKey::friend(conversation);
    let to_peer = key.wrap(identity, peer.identity)?;
    let to_own = if own.packages.is_empty() { Vec::new() } else { key.wrap(identity, own.identity)? };
    let mut group = mls::new_group(provider, device, conversation, Extensions::default()).map_err(not_made)?;
    let parts = add_with_friend_key(provider, device, &mut group, &joiners, &key)?;
    let welcome_for = |(joiner, welcome): (&Joiner, Vec<u8>)| WelcomeFor {
        account: joiner.account.clone(),
        device: joiner.device,
        welcome,
        join_key: if joiner.account == peer.account { to_peer.clone() } else { to_own.clone() },
    };
    let welcomes = joiners.iter().zip(parts).map(welcome_for).collect();
    created(provider, device, &group, welcomes)
}

fn verify_packages(
    provider: &Provider<'_>,
    device: &Device,
    peer: &PeerPackages<'_>,
    own: &PeerPackages<'_>,
) -> Result<Vec<Joiner>, CreateError> {
    let with_self = peer.account == own.account;
    let others: BTreeSet<Uuid> = peer.packages.iter().map(|(device, _)| *device).collect();
    let mine: BTreeSet<Uuid> = own.packages.iter().map(|(device, _)| *device).chain([device.id()]).collect();
    let listed = others.len() == peer.packages.len() && mine.len() == own.packages.len() + 1;
    let bounded = (1..=MAX_DIRECT_DEVICES).contains(&others.len()) && mine.len() <= MAX_DIRECT_DEVICES;
    let of_one = with_self && (!own.packages.is_empty() || others.contains(&device.id()));
    if !listed || !bounded || of_one {
        return Err(CreateError::Devices);
    }
    // Whatever identity a server names for our own account: ours is ours.
    if with_self && peer.identity != own.identity {
        let device = peer.packages.first().map_or_else(Uuid::nil, |(device, _)| *device);
        return Err(key_package_refused((device, CertificateError::OtherIdentity.into())));
    }
    let mut joiners = key_package::verify_all(provider, peer).map_err(key_package_refused)?;
    joiners.extend(key_package::verify_all(provider, own).map_err(key_package_refused)?);
    Ok(joiners)
}

fn key_package_refused((device, cause): (Uuid, KeyPackageError)) -> CreateError {
    CreateError::KeyPackage { device, cause }
}

/// The one commit of a new direct conversation; returns the Welcomes.
fn add_with_friend_key(
    provider: &Provider<'_>,
    device: &Device,
    group: &mut MlsGroup,
    joiners: &[Joiner],
    key: &SharedKey,
) -> Result<Vec<Vec<u8>>, CreateError> {
    let psk = PreSharedKeyId::new(SUITE, provider.rand(), key.psk()).map_err(refused)?;
    psk.store(provider, &key.secret).map_err(refused)?;
    let bundle = group
        .commit_builder()
        .propose_adds(joiners.iter().map(|joiner| joiner.key_package.clone()))
        .add_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))))
        .load_psks(provider.storage())
        .map_err(refused)?
        .build(provider.rand(), provider.crypto(), device.signer(), |_| true)
        .map_err(refused)?
        .stage_commit(provider)
        .map_err(refused)?;
    let welcome = bundle.into_welcome_msg().ok_or_else(|| refused("no welcome was made"))?;
    group.merge_pending_commit(provider).map_err(refused)?;
    provider.storage().delete_psk(&key.psk()).map_err(StoreError::from)?;
    welcome::split(provider.crypto(), &welcome, joiners).map_err(refused)
}

fn created(
    provider: &Provider<'_>,
    device: &Device,
    group: &MlsGroup,
    welcomes: Vec<WelcomeFor>,
) -> Result<Created, CreateError> {
    let group_info = group.export_group_info(provider.crypto(), device.signer(), true).map_err(refused)?;
    let group_info = group_info.tls_serialize_detached().map_err(refused)?;
    Ok(Created { epoch: group.epoch().as_u64(), welcomes, group_info })
}
