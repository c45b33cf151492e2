//! Sealing and opening messages: MLS application messages, bound to conversation and message id.
//!
//! **Invariant**: the sender that is shown comes from the MLS leaf alone and is certified by the identity known for the
//! account; a payload opens once, under its own message id, in its own conversation.

use fastchat_mls::{Certificate, GroupProfile, suite};
use openmls::{
    framing::errors::{MessageDecryptionError, SecretTreeError},
    prelude::{
        ContentType, CreateMessageError, MlsGroup, MlsGroupStateError, MlsMessageBodyIn, ProcessMessageError,
        ProcessedMessage, ProcessedMessageContent, ProtocolMessage, Sender, ValidationError, tls_codec::Serialize as _,
    },
};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    CertificateError, Content, ContentError, Device, IdentityKey, StoreError, commit,
    mls::{self, Provider, group_id},
    state::StorageFailed,
};

/// The most bytes of a payload: more than any text needs, so that newer kinds of content still open.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// A sealed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The epoch that it was sealed at; the server accepts it at no other.
    pub epoch: u64,
    /// The MLSMessage, padded.
    pub payload: Vec<u8>,
}

/// An opened message and who sent it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The sender's account, certified.
    pub account: String,
    /// The sender's device, certified.
    pub device: Uuid,
    /// The identity that certified the device: compare it with the one that is known for the account.
    pub identity: IdentityKey,
    /// What it says.
    pub content: Content,
}

/// Why a message was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This device does not have the conversation.
    #[error("this device does not have the conversation")]
    UnknownConversation,
    /// The content is out of bounds.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The device is not the one that is in the conversation.
    #[error("another device is in this conversation than the one that seals")]
    OtherDevice,
    /// A commit of this device, or somebody's leave, is on its way: merge or commit first.
    #[error("a change of the conversation is under way: it must take effect before a message is sealed")]
    Pending,
    /// The group was deleted.
    #[error("the group was deleted")]
    Deleted,
    /// MLS refused, for instance because this device was removed.
    #[error("the message could not be sealed: {0}")]
    Mls(String),
}

/// Why a payload was not opened. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The caller's store failed: not the fault of the payload.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This device does not have the conversation.
    #[error("this device does not have the conversation")]
    UnknownConversation,
    /// Not an MLS private application message.
    #[error("the entry is not an encrypted message")]
    Malformed,
    /// It was sealed for another conversation or under another message id.
    #[error("the entry was sealed for another conversation or message id")]
    OtherPlace,
    /// It was sealed at another epoch.
    #[error("the entry was sealed at epoch {found}, the conversation is at {current}")]
    WrongEpoch {
        /// The epoch that this device is at.
        current: u64,
        /// The epoch of the payload.
        found: u64,
    },
    /// It was opened before, or a later one of the same sender was.
    #[error("the entry was opened before or is out of order")]
    Replayed,
    /// Too many of the sender's messages before it are missing.
    #[error("too many entries before this one are missing")]
    TooFarAhead,
    /// Altered, or made by somebody without the keys.
    #[error("the entry does not decrypt")]
    Undecryptable,
    /// This device sealed it: a reflection.
    #[error("the entry is this device's own")]
    OwnMessage,
    /// The group was deleted before.
    #[error("the group was deleted")]
    Deleted,
    /// It decrypts, but its sender's leaf is not that of a certified device.
    #[error("the sender is not verified: {0}")]
    UnverifiedSender(#[from] CertificateError),
    /// It decrypts, but its content is out of bounds.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Takes one step of the sending ratchet.
pub(crate) fn seal(
    provider: &Provider<'_>,
    device: &Device,
    conversation: Uuid,
    message_id: Uuid,
    content: &Content,
) -> Result<Sealed, SealError> {
    let plaintext = content.to_plaintext()?;
    let group = provider.load(conversation).map_err(StoreError::from)?;
    let mut group = group.ok_or(SealError::UnknownConversation)?;
    let own = group.own_leaf_node().map(|leaf| leaf.signature_key().as_slice());
    if own != Some(device.signature_key()) {
        return Err(SealError::OtherDevice);
    }
    if deleted(&group) {
        return Err(SealError::Deleted);
    }
    if group.pending_commit().is_some() || commit::rejoining(provider, conversation)?.is_some() {
        return Err(SealError::Pending);
    }
    group.set_aad(suite::entry_aad(conversation, message_id));
    let message = group.create_message(provider, device.signer(), &plaintext).map_err(|error| match error {
        CreateMessageError::GroupStateError(
            MlsGroupStateError::PendingCommit | MlsGroupStateError::PendingProposal,
        ) => SealError::Pending,
        other => SealError::Mls(other.to_string()),
    })?;
    let payload = message.tls_serialize_detached().map_err(|error| SealError::Mls(error.to_string()))?;
    Ok(Sealed { epoch: group.epoch().as_u64(), payload })
}

/// Takes the sender's receiving ratchet to this message and past it.
pub(crate) fn open(
    provider: &Provider<'_>,
    conversation: Uuid,
    message_id: Uuid,
    payload: &[u8],
) -> Result<Opened, OpenError> {
    let message = application_message(payload)?;
    if *message.group_id() != group_id(conversation) {
        return Err(OpenError::OtherPlace);
    }
    let group = provider.load(conversation).map_err(StoreError::from)?;
    let mut group = group.ok_or(OpenError::UnknownConversation)?;
    let (current, found) = (group.epoch().as_u64(), message.epoch().as_u64());
    if current != found {
        return Err(OpenError::WrongEpoch { current, found });
    }
    if deleted(&group) {
        return Err(OpenError::Deleted);
    }
    let processed = group.process_message(provider, message).map_err(|error| refusal(&error))?;
    if processed.aad() != suite::entry_aad(conversation, message_id) {
        return Err(OpenError::OtherPlace);
    }
    if matches!(processed.content(), ProcessedMessageContent::OwnPrivateMessage) {
        return Err(OpenError::OwnMessage);
    }
    let (sender, identity) = sender(&group, &processed)?;
    let ProcessedMessageContent::ApplicationMessage(message) = processed.into_content() else {
        return Err(OpenError::Malformed);
    };
    let plaintext = Zeroizing::new(message.into_bytes());
    let content = Content::from_plaintext(&plaintext)?;
    Ok(Opened { account: sender.account, device: sender.device, identity, content })
}

fn application_message(payload: &[u8]) -> Result<ProtocolMessage, OpenError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(OpenError::Malformed);
    }
    let Some(MlsMessageBodyIn::PrivateMessage(message)) = mls::parse(payload) else {
        return Err(OpenError::Malformed);
    };
    let message = ProtocolMessage::from(message);
    if message.content_type() == ContentType::Application { Ok(message) } else { Err(OpenError::Malformed) }
}

/// Whose leaf made the message. Its certificate was verified when it came into the conversation.
fn sender(group: &MlsGroup, processed: &ProcessedMessage) -> Result<(Certificate, IdentityKey), CertificateError> {
    let Sender::Member(index) = processed.sender() else {
        return Err(CertificateError::Malformed);
    };
    let leaf = group.public_group().leaf(*index).ok_or(CertificateError::Malformed)?;
    let certificate = Certificate::from_leaf(leaf)?;
    let identity = IdentityKey::from_der(&certificate.identity_key).map_err(|_| CertificateError::Malformed)?;
    Ok((certificate, identity))
}

fn deleted(group: &MlsGroup) -> bool {
    matches!(GroupProfile::from_extensions(group.extensions()), Ok(Some(profile)) if profile.deleted)
}

fn refusal(error: &ProcessMessageError<StorageFailed>) -> OpenError {
    let ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(error)) = error else {
        return OpenError::Undecryptable;
    };
    match error {
        MessageDecryptionError::SecretTreeError(
            SecretTreeError::TooDistantInThePast | SecretTreeError::SecretReuseError,
        ) => OpenError::Replayed,
        MessageDecryptionError::SecretTreeError(SecretTreeError::TooDistantInTheFuture) => OpenError::TooFarAhead,
        _ => OpenError::Undecryptable,
    }
}
