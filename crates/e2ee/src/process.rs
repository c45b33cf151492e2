//! Handshakes from the log: proposals to leave and commits of others (or our own, come back).
//!
//! **Invariant**: a handshake is applied only if MLS, the rules and every new leaf's certificate allow it, and only as
//! the entry that it was made for. A server that let another one through is contradicted.

use fastchat_mls::{Effect, Leaving, Refusal, Roster, rules, suite};
use openmls::{
    prelude::{
        ContentType, MlsGroup, MlsMessageBodyIn, OpenMlsProvider as _, ProcessedMessageContent, Proposal,
        ProtocolMessage, QueuedProposal, Sender, StagedCommit,
    },
    schedule::PreSharedKeyId,
};
use openmls_traits::storage::StorageProvider as _;
use uuid::Uuid;

use crate::{
    CertificateError, StoreError, certificate, commit,
    mls::{self, Provider, SUITE, group_id},
};

/// What a handshake did.
#[expect(clippy::large_enum_variant, reason = "one is made for each commit, and taken apart at once")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processed {
    /// An account has proposed to leave; the next commit takes that in.
    Leaving(Leaving),
    /// A commit took effect.
    Applied(Applied),
}

/// A commit that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The epoch that it led to.
    pub epoch: u64,
    /// What it did.
    pub effect: Effect,
    /// This device is no member any more; its state of the conversation is deleted.
    pub self_removed: bool,
    /// Who is in the conversation now.
    pub roster: Roster,
}

impl Applied {
    pub(crate) fn after(group: &MlsGroup, mut effect: Effect, self_removed: bool) -> Result<Self, Refusal> {
        let roster = mls::roster(group)?;
        effect.settle(&roster);
        Ok(Self { epoch: roster.epoch, effect, self_removed, roster })
    }
}

/// Why a handshake was not applied. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The caller's store failed: not the fault of the handshake.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This device does not have the conversation.
    #[error("this device does not have the conversation")]
    UnknownConversation,
    /// Not a commit or a proposal to leave.
    #[error("the entry is not a commit or a proposal to leave")]
    Malformed,
    /// It was made for another conversation or under another message id.
    #[error("the entry was made for another conversation or message id")]
    OtherPlace,
    /// It was made at another epoch: it was applied before, or something before it is missing.
    #[error("the entry was made at epoch {found}, the conversation is at {current}")]
    WrongEpoch {
        /// The epoch that this device is at.
        current: u64,
        /// The epoch of the entry.
        found: u64,
    },
    /// Signature, tags, tree or path are not right.
    #[error("the handshake is not valid: {0}")]
    Invalid(String),
    /// The rules do not allow it, whatever the server says.
    #[error("the handshake is not allowed: {0}")]
    NotAllowed(#[from] Refusal),
    /// A device that it brings in is not certified.
    #[error("a new device is refused: {0}")]
    Certificate(#[from] CertificateError),
}

fn invalid(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::Invalid(error.to_string())
}

/// Applies a handshake.
pub(crate) fn process(
    provider: &Provider<'_>,
    conversation: Uuid,
    message_id: Uuid,
    payload: &[u8],
) -> Result<Processed, ProcessError> {
    let message = handshake(payload)?;
    if *message.group_id() != group_id(conversation) {
        return Err(ProcessError::OtherPlace);
    }
    let group = provider.load(conversation).map_err(StoreError::from)?;
    let mut group = group.ok_or(ProcessError::UnknownConversation)?;
    let (current, found) = (group.epoch().as_u64(), message.epoch().as_u64());
    if current != found {
        return Err(ProcessError::WrongEpoch { current, found });
    }
    let join_key = mls::join_key(provider, &group, conversation).map_err(invalid)?;
    let psk = PreSharedKeyId::new(SUITE, provider.rand(), join_key.psk()).map_err(invalid)?;
    psk.store(provider, &join_key.secret).map_err(invalid)?;
    let processed = group.process_message(provider, message).map_err(invalid)?;
    provider.storage().delete_psk(&join_key.psk()).map_err(StoreError::from)?;
    if processed.aad() != suite::entry_aad(conversation, message_id) {
        return Err(ProcessError::OtherPlace);
    }
    let sender = processed.sender().clone();
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(proposal) => leave(provider, &mut group, &sender, *proposal),
        ProcessedMessageContent::StagedCommitMessage(staged) => {
            apply(provider, group, conversation, &sender, *staged).map(Processed::Applied)
        }
        ProcessedMessageContent::OwnPendingCommit => {
            commit::merge(provider, conversation).map(Processed::Applied).map_err(|error| match error {
                commit::MergeError::Store(failure) => ProcessError::Store(failure),
                other => invalid(other),
            })
        }
        _ => Err(ProcessError::Malformed),
    }
}

fn handshake(payload: &[u8]) -> Result<ProtocolMessage, ProcessError> {
    if payload.len() > suite::MAX_HANDSHAKE_BYTES {
        return Err(ProcessError::Malformed);
    }
    match mls::parse(payload) {
        Some(MlsMessageBodyIn::PublicMessage(message)) if message.content_type() != ContentType::Application => {
            Ok(ProtocolMessage::from(message))
        }
        _ => Err(ProcessError::Malformed),
    }
}

fn leave(
    provider: &Provider<'_>,
    group: &mut MlsGroup,
    sender: &Sender,
    proposal: QueuedProposal,
) -> Result<Processed, ProcessError> {
    let (Sender::Member(leaf), Proposal::SelfRemove) = (sender, proposal.proposal()) else {
        return Err(Refusal::NotAllowed("the only proposal that stands alone is to leave".to_owned()).into());
    };
    let leaving = rules::judge_leave(group.public_group(), &mls::leaving(group), *leaf)?;
    group.store_pending_proposal(&provider.trial, proposal).map_err(StoreError::from)?;
    Ok(Processed::Leaving(leaving))
}

fn apply(
    provider: &Provider<'_>,
    mut group: MlsGroup,
    conversation: Uuid,
    sender: &Sender,
    staged: StagedCommit,
) -> Result<Applied, ProcessError> {
    let effect = rules::judge(conversation, group.public_group(), &mls::leaving(&group), sender, &staged)?;
    let reidentified = effect.reidentified.as_ref().map(|_| &effect.committer);
    certificate::verify_embedded(effect.added.iter().chain(reidentified))?;
    let self_removed = staged.self_removed();
    let left = if self_removed { provider.load(conversation).map_err(StoreError::from)? } else { None };
    group.merge_staged_commit(provider, staged).map_err(invalid)?;
    let applied = Applied::after(&group, effect, self_removed)?;
    if let Some(mut left) = left {
        // OpenMLS deletes the private keys of the epoch that a group is at: of ours that is the one before.
        group.delete(&provider.trial).map_err(StoreError::from)?;
        left.delete(&provider.trial).map_err(StoreError::from)?;
    }
    Ok(applied)
}
