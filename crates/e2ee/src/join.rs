//! Joining a conversation by a Welcome that somebody made.
//!
//! **Invariant**: who joins has verified every leaf's certificate, and that adder and own account are under the
//! identities that are known for them. What the other accounts' identities are is in the roster, for the caller to
//! compare.

use fastchat_mls::{Leaf, Refusal, Roster, rules, suite};
use openmls::{
    prelude::{
        MlsGroup, MlsMessageBodyIn, OpenMlsProvider as _, RatchetTreeIn, StagedWelcome, Welcome, WelcomeError,
        tls_codec::Deserialize as _,
    },
    schedule::PreSharedKeyId,
};
use openmls_traits::storage::StorageProvider as _;
use uuid::Uuid;

use crate::{
    CertificateError, Device, Identity, IdentityKey, SharedKeyError, StoreError, certificate, key_package,
    mls::{self, MlsError, Provider, SUITE, group_id},
    shared_key::{KeyId, SharedKey},
    state::StorageFailed,
};

/// One joiner's Welcome has some 6 KB; the `GroupInfo` inside it holds the group's profile.
const MAX_WELCOME_BYTES: usize = 256 * 1024;

/// What a device joins a conversation with.
#[derive(Debug, Clone, Copy)]
pub struct Join<'a> {
    /// The account that made the Welcome, and the identity known for it.
    pub adder: (&'a str, &'a IdentityKey),
    /// The MLSMessage with the Welcome for this device.
    pub welcome: &'a [u8],
    /// The wrapped friend key or join key.
    pub join_key: &'a [u8],
    /// The tree of the epoch that the Welcome is for.
    pub ratchet_tree: &'a [u8],
    /// A group, or else a direct conversation.
    pub group: bool,
}

/// Why a conversation was not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not a Welcome, tree or `GroupInfo`.
    #[error("the welcome, ratchet tree or group info is malformed")]
    Malformed,
    /// This device has the conversation: the Welcome came again, or the adder made two.
    #[error("this device already has this conversation")]
    AlreadyJoined,
    /// The Welcome is for a key package that this device does not have (any more).
    #[error("the welcome is for a key package that this device does not have")]
    NoKeyPackage,
    /// The friend key or join key is not the adder's, not for us, or not for this conversation.
    #[error(transparent)]
    SharedKey(#[from] SharedKeyError),
    /// That key is not what the conversation was made, or the commit committed, with.
    #[error("the welcome was not made with the friend key or join key")]
    WithoutSharedKey,
    /// Another conversation, cipher suite, or kind of conversation.
    #[error("the welcome or group info is for another conversation or of another kind")]
    OtherConversation,
    /// A leaf is not certified, or somebody is in a direct conversation who has no business there.
    #[error("a member of the conversation is refused: {0}")]
    Member(#[from] CertificateError),
    /// The adder did not make the Welcome.
    #[error("the welcome was not made by a device of the adder")]
    NotFromAdder,
    /// The rules could not have led to this conversation, or do not let us in.
    #[error("the conversation is refused: {0}")]
    NotAllowed(#[from] Refusal),
    /// The group that is offered to rejoin is older than what this device has of it.
    #[error(
        "the server offers the group as it was at epoch {offered}, and this device has been at epoch {had}: if the \
         server was restored from a backup, forget the group first"
    )]
    Older {
        /// The epoch that this device is at.
        had: u64,
        /// The epoch of the group info.
        offered: u64,
    },
    /// MLS refused: altered bytes, or a key that does not fit.
    #[error("the conversation is refused: {0}")]
    Mls(#[source] MlsError),
}

/// Verifies key, Welcome and members, and keeps the group.
pub(crate) fn join(
    provider: &Provider<'_>,
    identity: &Identity,
    device: &Device,
    conversation: Uuid,
    join: &Join<'_>,
) -> Result<Roster, JoinError> {
    if join.welcome.len() > MAX_WELCOME_BYTES {
        return Err(JoinError::Malformed);
    }
    let Some(MlsMessageBodyIn::Welcome(welcome)) = mls::parse(join.welcome) else {
        return Err(JoinError::Malformed);
    };
    let tree = parse_tree(join.ratchet_tree)?;
    if provider.load(conversation).map_err(StoreError::from)?.is_some() {
        return Err(JoinError::AlreadyJoined);
    }
    let key = SharedKey::accept(identity, join.adder.1, conversation, join.join_key)?;
    let staged = stage(provider, welcome, tree, &key)?;
    let sender = staged.welcome_sender_index().u32();
    let group = staged.into_group(provider).map_err(refused)?;
    provider.storage().delete_psk(&key.psk()).map_err(StoreError::from)?;
    verify_kind(&group, conversation, key.id, join.group)?;
    let roster = verify_members(&group, device, identity.public())?;
    verify_adder(&roster, sender, device, join.adder)?;
    Ok(roster)
}

pub(crate) fn parse_tree(bytes: &[u8]) -> Result<RatchetTreeIn, JoinError> {
    if bytes.len() > suite::MAX_TREE_BYTES {
        return Err(JoinError::Malformed);
    }
    RatchetTreeIn::tls_deserialize_exact(bytes).map_err(|_| JoinError::Malformed)
}

/// Decrypts the Welcome with the key in the key schedule, and makes sure that it is there, alone.
///
/// Lifetimes are not judged again: the adder did when the key package was fresh, and we may have been away since.
fn stage(
    provider: &Provider<'_>,
    welcome: Welcome,
    tree: RatchetTreeIn,
    key: &SharedKey,
) -> Result<StagedWelcome, JoinError> {
    let psk = PreSharedKeyId::new(SUITE, provider.rand(), key.psk()).map_err(|error| JoinError::Mls(error.into()))?;
    psk.store(provider, &key.secret).map_err(|error| JoinError::Mls(error.into()))?;
    let joining = StagedWelcome::build_from_welcome(provider, &mls::join_config(), welcome).map_err(refused)?;
    match joining.processed_welcome().psks() {
        [used] if *used.psk() == key.psk() => {}
        _ => return Err(JoinError::WithoutSharedKey),
    }
    if let Some(own) = joining.processed_welcome().own_key_package() {
        key_package::used(provider, own)?;
    }
    joining.with_ratchet_tree(tree).skip_lifetime_validation().build().map_err(refused)
}

fn refused(error: WelcomeError<StorageFailed>) -> JoinError {
    match error {
        WelcomeError::NoMatchingKeyPackage => JoinError::NoKeyPackage,
        WelcomeError::GroupAlreadyExists => JoinError::AlreadyJoined,
        other => JoinError::Mls(other.into()),
    }
}

fn verify_kind(group: &MlsGroup, conversation: Uuid, key: KeyId, is_group: bool) -> Result<(), JoinError> {
    let extensions = group.extensions().iter().next().is_some();
    let key_fits = match key {
        KeyId::Friend(_) => !is_group,
        KeyId::Join(epoch) => is_group && epoch.checked_add(1) == Some(group.epoch().as_u64()),
    };
    if *group.group_id() == group_id(conversation) && group.ciphersuite() == SUITE && extensions == is_group && key_fits
    {
        Ok(())
    } else {
        Err(JoinError::OtherConversation)
    }
}

/// The rules allow the conversation, every leaf is certified, and ours is among them under our identity.
pub(crate) fn verify_members(group: &MlsGroup, device: &Device, identity: &IdentityKey) -> Result<Roster, JoinError> {
    let roster = mls::roster(group)?;
    rules::judge_state(&roster)?;
    if roster.profile.as_ref().is_some_and(|profile| profile.deleted) {
        return Err(Refusal::NotAllowed("the group was deleted".to_owned()).into());
    }
    let own = roster.leaf(group.own_leaf_index().u32()).ok_or(CertificateError::OtherDevice)?;
    if (own.account.as_str(), own.device) != (device.account(), device.id()) {
        return Err(CertificateError::OtherDevice.into());
    }
    if own.signature_key != device.signature_key() {
        return Err(CertificateError::OtherKey.into());
    }
    if own.identity != identity.to_der() {
        return Err(CertificateError::OtherIdentity.into());
    }
    certificate::verify_embedded(&roster.leaves)?;
    Ok(roster)
}

fn verify_adder(roster: &Roster, sender: u32, device: &Device, adder: (&str, &IdentityKey)) -> Result<(), JoinError> {
    let under = |leaf: &Leaf| leaf.identity == adder.1.to_der();
    let sender = roster.leaf(sender).ok_or(JoinError::NotFromAdder)?;
    if sender.account != adder.0 {
        return Err(JoinError::NotFromAdder);
    }
    if !under(sender) {
        return Err(CertificateError::OtherIdentity.into());
    }
    let own = adder.0 == device.account();
    match &roster.profile {
        Some(profile) if !own && !profile.is_admin(adder.0) => Err(JoinError::NotFromAdder),
        _ => Ok(()),
    }
}
