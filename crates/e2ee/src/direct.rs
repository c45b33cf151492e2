//! Direct conversations: making one with another account's devices, and joining one that somebody made.
//!
//! **Invariant**: a direct conversation has a friend key in its key schedule, and every leaf in it is certified by one
//! of the two identities that the two people know.

use std::collections::BTreeSet;

use openmls::{
    prelude::{
        Credential, KeyPackage, Lifetime, MlsGroup, MlsMessageBodyIn, NewGroupError, OpenMlsProvider as _,
        PreSharedKeyProposal, Proposal, StagedWelcome, Welcome, WelcomeError, tls_codec::Serialize as _,
    },
    schedule::PreSharedKeyId,
};
use openmls_traits::storage::StorageProvider as _;
use uuid::Uuid;

use crate::{
    CertificateError, Device, FriendKeyError, Identity, IdentityKey, KeyPackageError, StoreError,
    certificate::{self, Certified},
    friend_key::FriendKey,
    key_package::{self, KEY_PACKAGE_LIFETIME},
    mls::{self, PADDING_BYTES, Provider, SUITE, WIRE_FORMAT, group_id},
    state::StorageFailed,
};

/// The most devices that one account brings into a direct conversation.
const MAX_DEVICES: usize = 64;
/// A Welcome for 128 devices has some 900 KB.
const MAX_WELCOME_BYTES: usize = 1024 * 1024;

/// An OpenMLS error; none of them holds a secret.
type MlsError = Box<dyn std::error::Error + Send + Sync>;

/// The other person: their account, the identity known for it, and a key package of each of their devices.
#[derive(Debug, Clone, Copy)]
pub struct PeerPackages<'a> {
    /// The name on the server, `bob`: the same however the server is reached.
    pub account: &'a str,
    /// The identity key that is known for the account; what a server claims has been compared with it already.
    pub identity: &'a IdentityKey,
    /// Device ids and their key packages (serialized MLSMessages) as the server handed them out.
    pub packages: &'a [(Uuid, &'a [u8])],
}

/// A new direct conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The epoch at which its log begins.
    pub epoch: u64,
    /// A Welcome for each of the peer's devices.
    pub welcomes: Vec<(Uuid, Vec<u8>)>,
    /// The wrapped and signed friend key, which goes beside each Welcome.
    pub friend_key: Vec<u8>,
}

/// A direct conversation that was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The epoch at which it was joined.
    pub epoch: u64,
}

/// Why a direct conversation was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This device has a conversation with that id.
    #[error("this device already has a conversation with that id")]
    AlreadyExists,
    /// No key packages, too many, or two for one device.
    #[error("there must be one key package for each of 1 to {MAX_DEVICES} devices")]
    Devices,
    /// A key package is not one of the peer's device: the server may be handing out its own.
    #[error("the key package of device {device} is refused: {cause}")]
    KeyPackage {
        /// The device it was said to be for.
        device: Uuid,
        /// What is wrong with it.
        #[source]
        cause: KeyPackageError,
    },
    /// The friend key could not be made.
    #[error(transparent)]
    FriendKey(#[from] FriendKeyError),
    /// MLS refused.
    #[error("the conversation could not be made: {0}")]
    Mls(#[source] MlsError),
}

/// Why a Welcome was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not a Welcome.
    #[error("the welcome is malformed")]
    Malformed,
    /// This device has the conversation: the Welcome came again, or the creator made two.
    #[error("this device already has this conversation")]
    AlreadyJoined,
    /// The Welcome is for a key package that this device does not have (any more).
    #[error("the welcome is for a key package that this device does not have")]
    NoKeyPackage,
    /// The friend key is not the creator's, not for us, or not for this conversation.
    #[error(transparent)]
    FriendKey(#[from] FriendKeyError),
    /// The friend key is not what the conversation was made with.
    #[error("the welcome was not made with the friend key")]
    WithoutFriendKey,
    /// Another conversation, cipher suite or extensions than a direct conversation has.
    #[error("the welcome is for another conversation or of another kind")]
    OtherConversation,
    /// Somebody is in it who is neither the creator nor us, or a leaf is not certified.
    #[error("a member of the conversation is refused: {0}")]
    Member(#[from] CertificateError),
    /// The creator did not make the Welcome.
    #[error("the welcome was not made by a device of the creator")]
    NotFromCreator,
    /// MLS refused: altered bytes, or a friend key that does not fit.
    #[error("the welcome is refused: {0}")]
    Mls(#[source] MlsError),
}

fn create_refused(error: impl Into<MlsError>) -> CreateError {
    CreateError::Mls(error.into())
}

/// Makes the group, adds the peer's devices and the friend key in one commit, and merges it.
pub(crate) fn create(
    provider: &Provider<'_>,
    identity: &Identity,
    device: &Device,
    conversation: Uuid,
    peer: &PeerPackages<'_>,
) -> Result<Created, CreateError> {
    let key_packages = verify_packages(provider, peer)?;
    let (friend_key, wrapped) = FriendKey::make(identity, peer.identity, conversation)?;
    let mut group = new_group(provider, device, conversation)?;
    let welcome = add_with_friend_key(provider, device, &mut group, key_packages, &friend_key)?;
    provider.storage().delete_psk(&friend_key.psk()).map_err(StoreError::from)?;
    let welcomes = peer.packages.iter().map(|(device, _)| (*device, welcome.clone())).collect();
    Ok(Created { epoch: group.epoch().as_u64(), welcomes, friend_key: wrapped })
}

fn verify_packages(provider: &Provider<'_>, peer: &PeerPackages<'_>) -> Result<Vec<KeyPackage>, CreateError> {
    let devices: BTreeSet<Uuid> = peer.packages.iter().map(|(device, _)| *device).collect();
    if devices.len() != peer.packages.len() || !(1..=MAX_DEVICES).contains(&devices.len()) {
        return Err(CreateError::Devices);
    }
    let verify = |(device, bytes): &(Uuid, &[u8])| {
        key_package::verify(provider, bytes, peer.account, *device, peer.identity)
            .map_err(|cause| CreateError::KeyPackage { device: *device, cause })
    };
    peer.packages.iter().map(verify).collect()
}

fn new_group(provider: &Provider<'_>, device: &Device, conversation: Uuid) -> Result<MlsGroup, CreateError> {
    let built = MlsGroup::builder()
        .with_group_id(group_id(conversation))
        .ciphersuite(SUITE)
        .with_capabilities(Device::capabilities())
        .lifetime(Lifetime::new(KEY_PACKAGE_LIFETIME.as_secs()))
        .with_wire_format_policy(WIRE_FORMAT)
        .padding_size(PADDING_BYTES)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .use_ratchet_tree_extension(true)
        .sender_ratchet_configuration(mls::sender_ratchet())
        .build(provider, device.signer(), device.credential());
    built.map_err(|error| match error {
        NewGroupError::GroupAlreadyExists => CreateError::AlreadyExists,
        other => create_refused(other),
    })
}

/// The one commit of a new direct conversation; returns the Welcome.
fn add_with_friend_key(
    provider: &Provider<'_>,
    device: &Device,
    group: &mut MlsGroup,
    key_packages: Vec<KeyPackage>,
    friend_key: &FriendKey,
) -> Result<Vec<u8>, CreateError> {
    let psk = PreSharedKeyId::new(SUITE, provider.rand(), friend_key.psk()).map_err(create_refused)?;
    psk.store(provider, &friend_key.secret).map_err(create_refused)?;
    let bundle = group
        .commit_builder()
        .propose_adds(key_packages)
        .add_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))))
        .load_psks(provider.storage())
        .map_err(create_refused)?
        .build(provider.rand(), provider.crypto(), device.signer(), |_| true)
        .map_err(create_refused)?
        .stage_commit(provider)
        .map_err(create_refused)?;
    let welcome = bundle.into_welcome_msg().ok_or_else(|| create_refused("no welcome was made"))?;
    group.merge_pending_commit(provider).map_err(create_refused)?;
    welcome.tls_serialize_detached().map_err(create_refused)
}

/// Verifies friend key, Welcome and members, and keeps the group.
pub(crate) fn join(
    provider: &Provider<'_>,
    identity: &Identity,
    device: &Device,
    conversation: Uuid,
    creator: (&str, &IdentityKey),
    welcome: &[u8],
    friend_key: &[u8],
) -> Result<Joined, JoinError> {
    if welcome.len() > MAX_WELCOME_BYTES {
        return Err(JoinError::Malformed);
    }
    let Some(MlsMessageBodyIn::Welcome(welcome)) = mls::parse(welcome) else {
        return Err(JoinError::Malformed);
    };
    if provider.load(conversation).map_err(StoreError::from)?.is_some() {
        return Err(JoinError::AlreadyJoined);
    }
    let friend_key = FriendKey::accept(identity, creator.1, conversation, friend_key)?;
    let staged = stage(provider, welcome, &friend_key)?;
    verify_kind(&staged, conversation)?;
    verify_members(&staged, identity, device, creator)?;
    let group = staged.into_group(provider).map_err(join_refused)?;
    provider.storage().delete_psk(&friend_key.psk()).map_err(StoreError::from)?;
    Ok(Joined { epoch: group.epoch().as_u64() })
}

/// Decrypts the Welcome with the friend key in the key schedule, and makes sure that it is there, alone.
///
/// Lifetimes are not judged again: the creator did when the key package was fresh, and we may have been away since.
fn stage(provider: &Provider<'_>, welcome: Welcome, friend_key: &FriendKey) -> Result<StagedWelcome, JoinError> {
    let psk =
        PreSharedKeyId::new(SUITE, provider.rand(), friend_key.psk()).map_err(|error| JoinError::Mls(error.into()))?;
    psk.store(provider, &friend_key.secret).map_err(|error| JoinError::Mls(error.into()))?;
    let joining = StagedWelcome::build_from_welcome(provider, &mls::join_config(), welcome).map_err(join_refused)?;
    match joining.processed_welcome().psks() {
        [used] if *used.psk() == friend_key.psk() => {}
        _ => return Err(JoinError::WithoutFriendKey),
    }
    if let Some(own) = joining.processed_welcome().own_key_package() {
        key_package::used(provider, own)?;
    }
    joining.skip_lifetime_validation().build().map_err(join_refused)
}

fn join_refused(error: WelcomeError<StorageFailed>) -> JoinError {
    match error {
        WelcomeError::NoMatchingKeyPackage => JoinError::NoKeyPackage,
        WelcomeError::GroupAlreadyExists => JoinError::AlreadyJoined,
        other => JoinError::Mls(other.into()),
    }
}

fn verify_kind(staged: &StagedWelcome, conversation: Uuid) -> Result<(), JoinError> {
    let context = staged.group_context();
    let bare = context.extensions().iter().next().is_none();
    if *context.group_id() == group_id(conversation) && context.ciphersuite() == SUITE && bare {
        Ok(())
    } else {
        Err(JoinError::OtherConversation)
    }
}

/// Every member is a device of the creator or of ours, certified by the identity known for it; we are among them, and a
/// device of the creator made the Welcome.
fn verify_members(
    staged: &StagedWelcome,
    identity: &Identity,
    device: &Device,
    creator: (&str, &IdentityKey),
) -> Result<(), JoinError> {
    let mut devices = BTreeSet::new();
    for member in staged.members() {
        let certified = verify_member(&member.credential, &member.signature_key, identity, device, creator)?;
        if !devices.insert((certified.account, certified.device)) || devices.len() > 2 * MAX_DEVICES {
            return Err(CertificateError::OtherDevice.into());
        }
    }
    let own = staged.own_leaf_node().ok_or(CertificateError::OtherDevice)?;
    if own.signature_key().as_slice() != device.signature_key() {
        return Err(CertificateError::OtherKey.into());
    }
    let sender = staged.welcome_sender().map_err(|error| JoinError::Mls(error.into()))?;
    let by = verify_member(sender.credential(), sender.signature_key().as_slice(), identity, device, creator)?;
    if by.account == creator.0 { Ok(()) } else { Err(JoinError::NotFromCreator) }
}

fn verify_member(
    credential: &Credential,
    leaf_key: &[u8],
    identity: &Identity,
    device: &Device,
    creator: (&str, &IdentityKey),
) -> Result<Certified, CertificateError> {
    let account = certificate::claimed_account(credential)?;
    let known = match account.as_str() {
        name if name == creator.0 => creator.1,
        name if name == device.account() => identity.public(),
        _ => return Err(CertificateError::OtherDevice),
    };
    certificate::verify_leaf(credential, leaf_key, known)
}
