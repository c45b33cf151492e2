//! How this program uses MLS: suite, group settings, and the provider that OpenMLS works through.
//!
//! Handshake messages are public, so that the server can follow the roster; application messages are always private.
//! The server accepts an entry only at the log's own epoch and devices process strictly in order, so neither secrets of
//! past epochs nor of skipped messages are kept (RFC 9420, section 15.3).
//!
//! **Invariant**: both sides of a conversation run with the same settings, whoever created it.

use openmls::prelude::{
    Ciphersuite, GroupId, MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, SenderRatchetConfiguration, WireFormatPolicy, tls_codec::Deserialize as _,
};
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

use crate::state::Trial;

/// `0x004E`: X-Wing, AES-256-GCM, SHA-384, Ed25519.
pub(crate) const SUITE: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519;
/// Governs handshake messages only: they are public.
pub(crate) const WIRE_FORMAT: WireFormatPolicy = PURE_PLAINTEXT_WIRE_FORMAT_POLICY;
/// Plaintexts are padded to a multiple of this, so that a short message's length says little.
pub(crate) const PADDING_BYTES: usize = 256;
/// How many entries of one sender may be missing before the next one no longer opens.
const MAX_FORWARD_DISTANCE: u32 = 2000;

/// Strict order: a message that was passed over never opens.
pub(crate) fn sender_ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(0, MAX_FORWARD_DISTANCE)
}

pub(crate) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(WIRE_FORMAT)
        .padding_size(PADDING_BYTES)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .use_ratchet_tree_extension(true)
        .sender_ratchet_configuration(sender_ratchet())
        .build()
}

/// A conversation's id is its MLS group id.
pub(crate) fn group_id(conversation: Uuid) -> GroupId {
    GroupId::from_slice(conversation.as_bytes())
}

/// The body of an MLSMessage that fills `bytes` completely.
pub(crate) fn parse(bytes: &[u8]) -> Option<MlsMessageBodyIn> {
    MlsMessageIn::tls_deserialize_exact(bytes).ok().map(MlsMessageIn::extract)
}

/// What OpenMLS works through during one call.
pub(crate) struct Provider<'a> {
    pub(crate) crypto: &'a RustCrypto,
    pub(crate) trial: Trial<'a>,
}

impl Provider<'_> {
    /// The conversation's group, if this device has it.
    pub(crate) fn load(&self, conversation: Uuid) -> Result<Option<MlsGroup>, crate::state::StorageFailed> {
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
