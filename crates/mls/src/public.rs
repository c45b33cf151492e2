//! A conversation as the delivery service sees it: tree, context and pending leaves, without any secret.
//!
//! What it cannot see is whether a commit's secrets are right (membership tag, confirmation tag, path): a member who lies
//! there shuts the others out until they come back by external commits.
//!
//! **Invariant**: the state moves on only by a handshake that every check accepted.

use openmls::prelude::{
    ContentType, MlsMessageBodyIn, ProcessedMessageContent, Proposal, ProposalStore, ProtocolMessage, PublicGroup,
    PublicMessageIn, Sender, tls_codec::Serialize as _,
};
use openmls_rust_crypto::RustCrypto;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Effect, Leaving, Refusal, Roster, encoding, group_info,
    rules::{judge, judge_leave, judge_state},
    storage::{Damaged, PublicStorage, Records},
    suite,
};

const VERSION: u8 = 1;

/// Why a handshake does not enter the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not a commit or a proposal to leave of this conversation.
    #[error("the handshake is malformed: {0}")]
    Malformed(String),
    /// MLS refuses it: signature, tree or another check; or it was made for another message id.
    #[error("the handshake is not valid: {0}")]
    Invalid(String),
    /// It was made at another epoch.
    #[error("the handshake was made at another epoch than {current}: apply what is new and try again")]
    StaleEpoch {
        /// The conversation's epoch.
        current: u64,
    },
    /// The sender's role does not allow it.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// The GroupInfo is not the new epoch's.
    #[error("{0}")]
    GroupInfo(String),
    /// It leaves out that somebody leaves.
    #[error("somebody leaves the group, and the commit does not take that in: read the log and commit again")]
    ProposalsPending,
    /// Too many devices.
    #[error("the group is full")]
    Full,
    /// The stored state does not decode: the server's fault.
    #[error("the stored conversation is damaged")]
    Damaged,
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotAllowed(text) => Self::NotAllowed(text),
            Refusal::ProposalsPending => Self::ProposalsPending,
            Refusal::Full => Self::Full,
        }
    }
}

impl From<Damaged> for HandshakeError {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

fn malformed(text: &str) -> HandshakeError {
    HandshakeError::Malformed(text.to_owned())
}

/// A proposal to leave that no commit has taken in yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pending {
    leaf: u32,
    message: Vec<u8>,
}

/// A conversation's public state. Costs some 2 KB a leaf; a commit takes 30 ms at 1,000 leaves.
pub struct PublicConversation {
    conversation: Uuid,
    group: PublicGroup,
    storage: PublicStorage,
    pending: Vec<Pending>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u8,
    conversation: [u8; 16],
    records: Records,
    pending: Vec<Pending>,
}

impl PublicConversation {
    /// Begins to follow a new conversation from its `GroupInfo` with the tree inside: a direct one at any epoch, a group
    /// at epoch 0 with its creator as the only member and admin.
    ///
    /// # Errors
    /// Not such a `GroupInfo`.
    pub fn open(conversation: Uuid, group_info_with_tree: &[u8]) -> Result<Self, HandshakeError> {
        let found = group_info::parse(group_info_with_tree)?;
        if *found.group_id() != suite::group_id(conversation) || found.ciphersuite() != suite::SUITE {
            return Err(HandshakeError::GroupInfo("the GroupInfo is of another conversation or suite".to_owned()));
        }
        if found.extensions().external_pub().is_none() {
            return Err(HandshakeError::GroupInfo("the GroupInfo has no external public key".to_owned()));
        }
        let Some(tree) = found.extensions().ratchet_tree().map(|extension| extension.ratchet_tree().clone()) else {
            return Err(HandshakeError::GroupInfo("the GroupInfo has no ratchet tree".to_owned()));
        };
        let storage = PublicStorage::default();
        let (group, _) =
            PublicGroup::from_external(&RustCrypto::default(), &storage, tree, found, ProposalStore::new())
                .map_err(|error| HandshakeError::GroupInfo(format!("the GroupInfo is refused: {error}")))?;
        let opened = Self { conversation, group, storage, pending: Vec::new() };
        opened.check_beginning()?;
        Ok(opened)
    }

    fn check_beginning(&self) -> Result<(), HandshakeError> {
        let roster = Roster::of(&self.group, &[])?;
        judge_state(&roster)?;
        let Some(profile) = &roster.profile else { return Ok(()) };
        match roster.leaves.as_slice() {
            [creator] if roster.epoch == 0 && profile.admins == [creator.account.clone()] && !profile.deleted => Ok(()),
            _ => Err(HandshakeError::NotAllowed("a group begins with its creator as the only member and admin".into())),
        }
    }

    /// The state as bytes, to be stored with the conversation.
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn to_bytes(&self) -> Result<Vec<u8>, HandshakeError> {
        let stored = Stored {
            version: VERSION,
            conversation: self.conversation.into_bytes(),
            records: self.storage.0.borrow().clone(),
            pending: self.pending.clone(),
        };
        encoding::encode(&stored).map_err(|_| HandshakeError::Damaged)
    }

    /// Reads what [`PublicConversation::to_bytes`] wrote.
    ///
    /// # Errors
    /// It is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let stored: Stored = encoding::decode(bytes).map_err(|_| HandshakeError::Damaged)?;
        if stored.version != VERSION {
            return Err(HandshakeError::Damaged);
        }
        let conversation = Uuid::from_bytes(stored.conversation);
        let storage = PublicStorage(stored.records.into());
        let group = PublicGroup::load(&storage, &suite::group_id(conversation))?.ok_or(HandshakeError::Damaged)?;
        Ok(Self { conversation, group, storage, pending: stored.pending })
    }

    /// The conversation's id.
    #[must_use]
    pub fn conversation(&self) -> Uuid {
        self.conversation
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.group.group_context().epoch().as_u64()
    }

    /// Who is in it.
    ///
    /// # Errors
    /// None that a state which was let in has.
    pub fn roster(&self) -> Result<Roster, HandshakeError> {
        Ok(Roster::of(&self.group, &self.leaving())?)
    }

    /// The tree, as joiners need it (RFC 9420, section 12.4.3.3).
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn ratchet_tree(&self) -> Result<Vec<u8>, HandshakeError> {
        self.group.export_ratchet_tree().tls_serialize_detached().map_err(|_| HandshakeError::Damaged)
    }

    /// The pending proposals to leave, as they came.
    #[must_use]
    pub fn proposals(&self) -> Vec<Vec<u8>> {
        self.pending.iter().map(|pending| pending.message.clone()).collect()
    }

    /// Takes a proposal to leave in.
    ///
    /// # Errors
    /// Not a valid one of this epoch, made for this message id, by somebody who may leave.
    pub fn proposal(&mut self, message_id: Uuid, message: &[u8]) -> Result<Leaving, HandshakeError> {
        let (sender, content) = self.process(message_id, self.parse(message, ContentType::Proposal)?)?;
        let (Sender::Member(leaf), ProcessedMessageContent::ProposalMessage(proposal)) = (sender, content) else {
            return Err(malformed("not a member's proposal"));
        };
        if !matches!(proposal.proposal(), Proposal::SelfRemove) {
            return Err(HandshakeError::NotAllowed("the only proposal that stands alone is to leave".to_owned()));
        }
        let leaving = judge_leave(&self.group, &self.leaving(), leaf)?;
        self.group.add_proposal(&self.storage, *proposal)?;
        self.pending.push(Pending { leaf: leaf.u32(), message: message.to_vec() });
        Ok(leaving)
    }

    /// Takes a commit in. `group_info`: the new epoch's, without the tree.
    ///
    /// # Errors
    /// Not a valid commit of this epoch, made for this message id, that the rules allow; or another epoch's `GroupInfo`.
    pub fn commit(&mut self, message_id: Uuid, message: &[u8], group_info: &[u8]) -> Result<Effect, HandshakeError> {
        let parsed = self.parse(message, ContentType::Commit)?;
        let tag = parsed.confirmation_tag().cloned().ok_or_else(|| malformed("a commit without confirmation tag"))?;
        let (sender, content) = self.process(message_id, parsed)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = content else {
            return Err(malformed("not a commit"));
        };
        let mut effect = judge(self.conversation, &self.group, &self.leaving(), &sender, &staged)?;
        let crypto = RustCrypto::default();
        group_info::check(&crypto, group_info, staged.group_context(), &tag, &effect.committer)?;
        self.group
            .merge_commit(&self.storage, *staged)
            .map_err(|error| HandshakeError::Invalid(format!("the commit does not merge: {error}")))?;
        self.pending.clear();
        effect.settle(&self.roster()?);
        Ok(effect)
    }

    fn leaving(&self) -> Vec<u32> {
        self.pending.iter().map(|pending| pending.leaf).collect()
    }

    /// A public message of this conversation and epoch.
    fn parse(&self, message: &[u8], kind: ContentType) -> Result<PublicMessageIn, HandshakeError> {
        if message.len() > suite::MAX_HANDSHAKE_BYTES {
            return Err(malformed("too large"));
        }
        let Some(MlsMessageBodyIn::PublicMessage(message)) = suite::parse(message) else {
            return Err(malformed("not an MLSMessage with a PublicMessage"));
        };
        if *message.group_id() != suite::group_id(self.conversation) {
            return Err(malformed("of another conversation"));
        }
        if message.content_type() != kind {
            return Err(malformed("of another kind than the entry"));
        }
        if message.epoch() != self.group.group_context().epoch() {
            return Err(HandshakeError::StaleEpoch { current: self.epoch() });
        }
        Ok(message)
    }

    fn process(
        &self,
        message_id: Uuid,
        message: PublicMessageIn,
    ) -> Result<(Sender, ProcessedMessageContent), HandshakeError> {
        let processed = self
            .group
            .process_message(&RustCrypto::default(), ProtocolMessage::from(message))
            .map_err(|error| HandshakeError::Invalid(error.to_string()))?;
        if processed.aad() != suite::entry_aad(self.conversation, message_id) {
            return Err(HandshakeError::Invalid("made for another conversation or message id".to_owned()));
        }
        let sender = processed.sender().clone();
        Ok((sender, processed.into_content()))
    }
}
