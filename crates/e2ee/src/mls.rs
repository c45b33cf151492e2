//! How this program uses MLS: group settings, and the provider that OpenMLS works through.
//!
//! Handshake messages are public, so that the server can follow the roster; application messages are always private.
//! The server accepts an entry only at the log's own epoch and devices process strictly in order, so neither secrets of
//! past epochs nor of skipped messages are kept (RFC 9420, section 15.3).
//!
//! **Invariant**: all members of a conversation run with the same settings, whoever created it.

use fastchat_mls::{Refusal, Roster, suite};
use openmls::prelude::{
    Extensions, GroupContext, MlsGroup, MlsGroupJoinConfig, NewGroupError, OpenMlsProvider,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, Proposal, Sender, SenderRatchetConfiguration, WireFormatPolicy,
};
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

use crate::{
    Device, key_package,
    shared_key::SharedKey,
    state::{StorageFailed, Trial},
};

pub(crate) use fastchat_mls::suite::{SUITE, group_id, parse};

/// Governs handshake messages only: they are public.
const WIRE_FORMAT: WireFormatPolicy = PURE_PLAINTEXT_WIRE_FORMAT_POLICY;
/// Plaintexts are padded to a multiple of this, so that a short message's length says little.
const PADDING_BYTES: usize = 128;
/// How many entries of one sender may be missing before the next one no longer opens.
const MAX_FORWARD_DISTANCE: u32 = 2000;

/// An OpenMLS error; none of them holds a secret.
pub(crate) type MlsError = Box<dyn std::error::Error + Send + Sync>;

/// Strict order: a message that was passed over never opens.
fn sender_ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(0, MAX_FORWARD_DISTANCE)
}

pub(crate) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(WIRE_FORMAT)
        .padding_size(PADDING_BYTES)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(sender_ratchet())
        .build()
}

/// A group with this device as its only member.
pub(crate) fn new_group(
    provider: &Provider<'_>,
    device: &Device,
    conversation: Uuid,
    extensions: Extensions<GroupContext>,
) -> Result<MlsGroup, NewGroupError<StorageFailed>> {
    MlsGroup::builder()
        .with_group_id(group_id(conversation))
        .ciphersuite(SUITE)
        .with_capabilities(suite::capabilities())
        .with_group_context_extensions(extensions)
        .lifetime(key_package::lifetime())
        .with_wire_format_policy(WIRE_FORMAT)
        .padding_size(PADDING_BYTES)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(sender_ratchet())
        .build(provider, device.signer(), device.credential())
}

/// The leaves with a pending proposal to leave.
pub(crate) fn leaving(group: &MlsGroup) -> Vec<u32> {
    let leaf = |queued: &openmls::prelude::QueuedProposal| match (queued.proposal(), queued.sender()) {
        (Proposal::SelfRemove, Sender::Member(index)) => Some(index.u32()),
        _ => None,
    };
    group.pending_proposals().filter_map(leaf).collect()
}

/// Who is in the group.
pub(crate) fn roster(group: &MlsGroup) -> Result<Roster, Refusal> {
    Roster::of(group.public_group(), &leaving(group))
}

/// The join key of commits that are made at the group's epoch.
pub(crate) fn join_key(
    provider: &Provider<'_>,
    group: &MlsGroup,
    conversation: Uuid,
) -> Result<SharedKey, openmls::prelude::ExportSecretError> {
    let epoch = group.epoch().as_u64();
    let context = suite::join_key_id(conversation, epoch);
    let secret = group.export_secret(provider.crypto, suite::JOIN_KEY_LABEL, &context, suite::JOIN_KEY_BYTES)?;
    Ok(SharedKey::join(conversation, epoch, secret.into()))
}

/// What OpenMLS works through during one call.
pub(crate) struct Provider<'a> {
    pub(crate) crypto: &'a RustCrypto,
    pub(crate) trial: Trial<'a>,
}

impl Provider<'_> {
    /// The conversation's group, if this device has it.
    pub(crate) fn load(&self, conversation: Uuid) -> Result<Option<MlsGroup>, StorageFailed> {
        MlsGroup::load(&self.trial, &group_id(conversation))
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = Trial<'a>;

    fn storage(&self) -> &Trial<'a> {
        &self.trial
    }

    fn crypto(&self) -> &RustCrypto {
        self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        self.crypto
    }
}
