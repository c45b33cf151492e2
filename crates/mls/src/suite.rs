//! The one way in which FastChat uses MLS: suite, capabilities, ids, authenticated data and bounds.
//!
//! **Invariant**: every leaf of every conversation declares exactly [`capabilities`], so whatever the rules allow is
//! something that every member supports.

use openmls::prelude::{
    Capabilities, Ciphersuite, CredentialType, ExtensionType, GroupId, MlsMessageBodyIn, MlsMessageIn, ProposalType,
    ProtocolVersion, RequiredCapabilitiesExtension, tls_codec::Deserialize as _,
};
use uuid::Uuid;

/// `0x004E`: X-Wing, AES-256-GCM, SHA-384, Ed25519.
pub const SUITE: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519;
/// The group context extension that holds a [`crate::GroupProfile`] (a private-use number, RFC 9420, section 17.3).
pub const PROFILE_EXTENSION: u16 = 0xF0FC;
/// The most leaves of a conversation.
pub const MAX_LEAVES: usize = 5000;
/// The most leaves that one commit adds: what a joiner costs grows faster than their number.
pub const MAX_ADDS: usize = 250;
/// The most leaves of one account in a group: more than devices, because a revoked one's leaf goes a little later.
pub const MAX_ACCOUNT_LEAVES: usize = 32;
/// The most devices that one account brings into a direct conversation.
pub const MAX_DIRECT_DEVICES: usize = 16;
/// The most bytes of a handshake message: a commit that re-keys [`MAX_LEAVES`] and adds [`MAX_ADDS`] has some 7 MB.
pub const MAX_HANDSHAKE_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes of a ratchet tree, or of a `GroupInfo` with one: [`MAX_LEAVES`] come to some 9 MB.
pub const MAX_TREE_BYTES: usize = 16 * 1024 * 1024;
/// The exporter label of join keys (RFC 9420, section 8.5).
pub const JOIN_KEY_LABEL: &str = "fastchat join key";
/// Bytes of a join key.
pub const JOIN_KEY_BYTES: usize = 32;

const JOIN_KEY_ID: &[u8] = b"FastChat join key v1\0";
const AAD_VERSION: u8 = 1;

/// What every leaf says that it supports.
#[must_use]
pub fn capabilities() -> Capabilities {
    Capabilities::builder()
        .versions(vec![ProtocolVersion::Mls10])
        .ciphersuites(vec![SUITE])
        .credentials(vec![CredentialType::Basic])
        .extensions(vec![ExtensionType::LastResort, ExtensionType::Unknown(PROFILE_EXTENSION)])
        .proposals(vec![ProposalType::SelfRemove])
        .build()
}

/// What the group context of every group requires of its leaves.
#[must_use]
pub fn required_capabilities() -> RequiredCapabilitiesExtension {
    RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(PROFILE_EXTENSION)],
        &[ProposalType::SelfRemove],
        &[CredentialType::Basic],
    )
}

/// A conversation's id is its MLS group id.
#[must_use]
pub fn group_id(conversation: Uuid) -> GroupId {
    GroupId::from_slice(conversation.as_bytes())
}

/// What is authenticated beside every entry: version, conversation, message id. MLS adds group, epoch and sender.
#[must_use]
pub fn entry_aad(conversation: Uuid, message_id: Uuid) -> Vec<u8> {
    [&[AAD_VERSION], conversation.as_bytes().as_slice(), message_id.as_bytes()].concat()
}

/// The id of the external pre-shared key of a commit that is made at `epoch` and adds leaves; also the exporter's
/// context for its secret.
#[must_use]
pub fn join_key_id(conversation: Uuid, epoch: u64) -> Vec<u8> {
    [JOIN_KEY_ID, conversation.as_bytes().as_slice(), &epoch.to_be_bytes()].concat()
}

/// The body of an MLSMessage that fills `bytes` completely.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<MlsMessageBodyIn> {
    MlsMessageIn::tls_deserialize_exact(bytes).ok().map(MlsMessageIn::extract)
}
