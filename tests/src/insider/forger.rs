//! A member who ignores the rules: MLS itself, with the real keys of a device that is in the group.
//!
//! It comes in by an external commit, which every device of a member may make, and holds the bare MLS group from then on.
//!
//! **Invariant**: forging changes nothing in the forger's group, so it forges on from there.

use anyhow::{Context, Result, anyhow, bail};
use fastchat_e2ee::Device;
use fastchat_mls::{Certificate, GroupProfile, Roster, suite};
use fastchat_wire::{
    ConversationId, MessageId,
    v1::{self, client_frame::Body as Ask, server_frame::Body as Said},
};
use openmls::{
    group::{CommitBuilder, Initial},
    prelude::{
        BasicCredential, CredentialWithKey, KeyPackage, LeafNodeIndex, LeafNodeParameters, MlsGroup,
        MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageOut, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
        ProtocolVersion, RatchetTreeIn, SenderRatchetConfiguration, SignatureScheme,
        tls_codec::{Deserialize as _, Serialize as _},
    },
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};

use super::Insider;

/// A commit being made.
pub type Builder<'a> = CommitBuilder<'a, Initial, &'a mut MlsGroup>;

/// A handshake that honest software would not make.
pub struct Forged {
    /// The MLSMessage.
    pub message: Vec<u8>,
    /// The GroupInfo that goes with it.
    pub group_info: Vec<u8>,
    id: MessageId,
    epoch: u64,
    conversation: ConversationId,
}

impl Forged {
    /// As a frame for the server.
    #[must_use]
    pub fn frame(&self) -> v1::Handshake {
        v1::Handshake {
            conversation: self.conversation.to_wire(),
            message_id: self.id.to_wire(),
            epoch: self.epoch,
            kind: v1::EntryKind::Commit.into(),
            message: self.message.clone().into(),
            group_info: self.group_info.clone().into(),
            welcomes: Vec::new(),
        }
    }
}

/// An external commit of any device into a group as the server shows it, whether the rules allow it or not.
///
/// # Errors
/// MLS itself does not make it.
pub fn external(
    state: &v1::GroupState,
    device: &Device,
    conversation: ConversationId,
) -> Result<(MlsGroup, OpenMlsRustCrypto, Forged)> {
    let Some(MlsMessageBodyIn::GroupInfo(info)) = suite::parse(&state.group_info) else { bail!("no GroupInfo") };
    let tree = RatchetTreeIn::tls_deserialize_exact(&state.ratchet_tree)?;
    let provider = OpenMlsRustCrypto::default();
    let id = MessageId::generate();
    let config = MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .padding_size(256)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(SenderRatchetConfiguration::new(0, 2000))
        .build();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(device.certificate().to_vec()).into(),
        signature_key: device.signature_key().to_vec().into(),
    };
    let (group, bundle) = MlsGroup::external_commit_builder()
        .with_config(config)
        .with_ratchet_tree(tree)
        .with_aad(suite::entry_aad(conversation.0, id.0))
        .build_group(&provider, info, credential)
        .map_err(|error| anyhow!("{error}"))?
        .leaf_node_parameters(LeafNodeParameters::builder().with_capabilities(suite::capabilities()).build())
        .load_psks(provider.storage())?
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &Key(device), |_| true)?
        .finalize(&provider)
        .map_err(|error| anyhow!("{error}"))?;
    let (message, _, group_info) = bundle.into_messages();
    let group_info = bytes(&group_info.context("a GroupInfo")?)?;
    let forged = Forged { message: bytes(&message)?, group_info, id, epoch: state.epoch, conversation };
    Ok((group, provider, forged))
}

/// The device's key, for MLS.
struct Key<'a>(&'a Device);

impl Signer for Key<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        self.0.sign(&[], payload).map_err(|_| SignerError::SigningError)
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// The bare group of a member.
pub struct Forger {
    conversation: ConversationId,
    provider: OpenMlsRustCrypto,
    group: MlsGroup,
}

impl Forger {
    /// Comes into a group that the insider's account is in. What the insider itself had of it is stale from then on.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn come_in(insider: &mut Insider, conversation: ConversationId) -> Result<Self> {
        let fetch = v1::FetchGroup { conversation: conversation.to_wire() };
        let state = match insider.wire.ask(Ask::FetchGroup(fetch)).await? {
            Said::GroupState(state) => state,
            other => bail!("no state of the group: {other:?}"),
        };
        let (mut group, provider, forged) = external(&state, &insider.device, conversation)?;
        match insider.hand_in(forged.frame()).await? {
            Said::Accepted(_) => {}
            other => bail!("the external commit is refused: {other:?}"),
        }
        group.merge_pending_commit(&provider)?;
        Ok(Self { conversation, provider, group })
    }

    /// The epoch that it is at.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    /// A commit with whatever `what` puts into it, authenticated for `aad`'s conversation and a fresh id.
    ///
    /// # Errors
    /// MLS itself does not make it.
    pub fn commit(
        &self,
        insider: &Insider,
        aad: ConversationId,
        what: impl FnOnce(Builder<'_>) -> Builder<'_>,
    ) -> Result<Forged> {
        let id = MessageId::generate();
        let storage = self.provider.storage();
        let mut group = MlsGroup::load(storage, &suite::group_id(self.conversation.0))?.context("the group")?;
        group.set_aad(suite::entry_aad(aad.0, id.0));
        let epoch = group.epoch().as_u64();
        // On a copy: what a commit stages would stand in the way of the next one.
        let scratch = OpenMlsRustCrypto::default();
        copy(&self.provider, &scratch)?;
        let bundle = what(group.commit_builder().force_self_update(true))
            .load_psks(scratch.storage())?
            .create_group_info(true)
            .build(scratch.rand(), scratch.crypto(), &Key(&insider.device), |_| true)
            .map_err(|error| anyhow!("{error}"))?
            .stage_commit(&scratch)
            .map_err(|error| anyhow!("{error}"))?;
        let (message, _, group_info) = bundle.into_messages();
        let group_info = bytes(&group_info.context("a GroupInfo")?)?;
        Ok(Forged { message: bytes(&message)?, group_info, id, epoch, conversation: self.conversation })
    }

    /// The places of an account's devices in the tree.
    ///
    /// # Errors
    /// The tree is damaged.
    pub fn leaves_of(&self, account: &str) -> Result<Vec<LeafNodeIndex>> {
        let roster = Roster::of(self.group.public_group(), &[]).map_err(|error| anyhow!("{error}"))?;
        Ok(roster.leaves_of(account).map(|leaf| LeafNodeIndex::new(leaf.index)).collect())
    }

    /// The group's profile.
    ///
    /// # Errors
    /// It has none.
    pub fn profile(&self) -> Result<GroupProfile> {
        GroupProfile::from_extensions(self.group.extensions()).map_err(|e| anyhow!("{e}"))?.context("a profile")
    }

    /// A key package, as the server gave it.
    ///
    /// # Errors
    /// It is none.
    pub fn key_package(&self, package: &[u8]) -> Result<KeyPackage> {
        let Some(MlsMessageBodyIn::KeyPackage(package)) = suite::parse(package) else { bail!("no key package") };
        package.validate(self.provider.crypto(), ProtocolVersion::Mls10).map_err(|error| anyhow!("{error}"))
    }

    /// The certificate that a leaf shows.
    ///
    /// # Errors
    /// It shows none.
    pub fn certificate(&self, package: &KeyPackage) -> Result<Certificate> {
        Certificate::from_leaf(package.leaf_node()).map_err(|error| anyhow!("{error}"))
    }
}

fn copy(from: &OpenMlsRustCrypto, to: &OpenMlsRustCrypto) -> Result<()> {
    let lock = |_| anyhow!("a poisoned lock");
    let rows = from.storage().values.read().map_err(|_| lock(()))?.clone();
    *to.storage().values.write().map_err(|_| lock(()))? = rows;
    Ok(())
}

fn bytes(message: &MlsMessageOut) -> Result<Vec<u8>> {
    Ok(message.tls_serialize_detached()?)
}
