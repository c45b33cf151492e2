//! A device's side of MLS, with OpenMLS alone: it can also do what an honest device does not.
//!
//! **Invariant**: keys and randomness are fresh; nothing depends on another test.

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;
use fastchat_e2ee::Identity;
use fastchat_mls::{Certificate, GroupProfile, certificate::CONTEXT, suite};
use fastchat_wire::{ConversationId, DeviceId, MessageId, v1};
use openmls::{
    prelude::{
        tls_codec::{Deserialize as _, Serialize as _},
        *,
    },
    schedule::{ExternalPsk, PreSharedKeyId, Psk},
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::{
    signatures::{Signer, SignerError},
    types::SignatureScheme,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// An identity by its name. To make one takes long: there is one of each name, and accounts share one unless a test
/// is about that.
fn identity(name: &str) -> &'static Identity {
    static MADE: Mutex<BTreeMap<String, &'static Identity>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    made.entry(name.to_owned()).or_insert_with(|| Box::leak(Box::new(Identity::generate().unwrap())))
}

/// A device's key, its certificate, and the token it was given.
pub(crate) struct Device {
    pub(crate) account: String,
    pub(crate) id: DeviceId,
    pub(crate) key: Ed25519KeyPair,
    pkcs8: Vec<u8>,
    pub(crate) token: Bytes,
    /// What it is certified by.
    identity: &'static Identity,
    certificate: Certificate,
    mls: OpenMlsRustCrypto,
}

impl Signer for Device {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.key.sign(payload).as_ref().to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl Device {
    pub(crate) fn new(account: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        Self::certified(account, DeviceId::generate(), pkcs8.as_ref(), identity("everybody's"))
    }

    fn certified(account: &str, id: DeviceId, pkcs8: &[u8], identity: &'static Identity) -> Self {
        let key = Ed25519KeyPair::from_pkcs8(pkcs8).unwrap();
        let mut certificate = Certificate {
            account: account.into(),
            device: id.0,
            leaf_key: key.public_key().as_ref().to_vec(),
            identity_key: identity.public().to_der().to_vec(),
            signature: Vec::new(),
        };
        certificate.signature = identity.sign(CONTEXT, &certificate.signed_bytes().unwrap()).unwrap();
        let (account, pkcs8, mls) = (account.into(), pkcs8.to_vec(), OpenMlsRustCrypto::default());
        Self { account, id, key, pkcs8, token: Bytes::new(), identity, certificate, mls }
    }

    /// The same device and key, under another identity.
    pub(crate) fn certified_as(&self, name: &str) -> Self {
        Self::certified(&self.account, self.id, &self.pkcs8, identity(name))
    }

    /// The same, but the identity has not signed for it.
    pub(crate) fn forged(mut self) -> Self {
        self.certificate.signature = vec![7; self.certificate.signature.len()];
        self
    }

    pub(crate) fn identity(&self) -> Bytes {
        Bytes::copy_from_slice(self.identity.public().to_der())
    }

    pub(crate) fn certificate(&self) -> Bytes {
        self.certificate.to_bytes().unwrap().into()
    }

    pub(crate) fn wire(&self) -> v1::NewDevice {
        v1::NewDevice {
            device: self.id.to_wire(),
            signature_key: Bytes::copy_from_slice(self.key.public_key().as_ref()),
            certificate: self.certificate(),
            name: "test".into(),
        }
    }

    fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.certificate().to_vec()).into(),
            signature_key: self.key.public_key().as_ref().into(),
        }
    }

    fn key_package(&self) -> KeyPackage {
        let bundle = KeyPackage::builder().leaf_node_capabilities(suite::capabilities());
        bundle.build(suite::SUITE, &self.mls, self, self.credential()).unwrap().key_package().clone()
    }

    fn group(&self, conversation: ConversationId, extensions: Extensions<GroupContext>) -> MlsGroup {
        MlsGroup::builder()
            .with_group_id(suite::group_id(conversation.0))
            .ciphersuite(suite::SUITE)
            .with_capabilities(suite::capabilities())
            .with_group_context_extensions(extensions)
            .with_wire_format_policy(HANDSHAKES_OPEN)
            .build(&self.mls, self, self.credential())
            .unwrap()
    }
}

/// Handshakes in the open, messages encrypted; as e2ee has it.
const HANDSHAKES_OPEN: WireFormatPolicy = MIXED_PLAINTEXT_WIRE_FORMAT_POLICY;

fn wire(message: &MlsMessageOut) -> Bytes {
    message.tls_serialize_detached().unwrap().into()
}

fn exported(own: &Device, group: &MlsGroup, tree: bool) -> Bytes {
    wire(&group.export_group_info(own.mls.crypto(), own, tree).unwrap())
}

fn welcome_for(device: &Device, welcome: &Bytes, join_key: &[u8]) -> v1::Welcome {
    let (welcome, join_key) = (welcome.clone(), Bytes::copy_from_slice(join_key));
    v1::Welcome { device: device.id.to_wire(), welcome, join_key }
}

/// A direct conversation of `own` and the devices of `others`, the first of whom is the peer.
pub(crate) fn direct(own: &Device, others: &[&Device], replaces: Bytes) -> v1::CreateDirect {
    let conversation = ConversationId::generate();
    let mut group = own.group(conversation, Extensions::empty());
    let bundle = group
        .commit_builder()
        .propose_adds(others.iter().map(|other| other.key_package()))
        .load_psks(own.mls.storage())
        .unwrap()
        .build(own.mls.rand(), own.mls.crypto(), own, |_| true)
        .unwrap()
        .stage_commit(&own.mls)
        .unwrap();
    let welcome = wire(&bundle.to_welcome_msg().unwrap());
    group.merge_pending_commit(&own.mls).unwrap();
    v1::CreateDirect {
        conversation: conversation.to_wire(),
        peer: others[0].account.clone(),
        epoch: group.epoch().as_u64(),
        welcomes: others.iter().map(|other| welcome_for(other, &welcome, b"key")).collect(),
        replaces,
        group_info: exported(own, &group, true),
    }
}

/// What a commit is to change. `Default`: the committer's own keys.
#[derive(Default)]
pub(crate) struct Change<'a> {
    pub(crate) add: Vec<&'a Device>,
    /// Devices whose leaves go.
    pub(crate) remove: Vec<&'a Device>,
    pub(crate) profile: Option<GroupProfile>,
    /// The device under another identity.
    pub(crate) certified_as: Option<&'a Device>,
    /// Leaves out the join key that goes with additions.
    pub(crate) no_join_key: bool,
    /// Leaves out what others have proposed.
    pub(crate) ignore_proposals: bool,
}

/// A conversation as one of its devices has it.
pub(crate) struct Group {
    pub(crate) conversation: ConversationId,
    pub(crate) mls: MlsGroup,
}

impl Group {
    pub(crate) fn create(own: &Device, name: &str) -> (Self, v1::CreateGroup) {
        Self::create_with(own, &GroupProfile::new(name, "", own.account.clone()))
    }

    pub(crate) fn create_with(own: &Device, profile: &GroupProfile) -> (Self, v1::CreateGroup) {
        let conversation = ConversationId::generate();
        let mls = own.group(conversation, profile.to_extensions().unwrap());
        let group_info = exported(own, &mls, true);
        (Self { conversation, mls }, v1::CreateGroup { conversation: conversation.to_wire(), group_info })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    pub(crate) fn profile(&self) -> GroupProfile {
        GroupProfile::from_extensions(self.mls.extensions()).unwrap().unwrap()
    }

    fn leaf_of(&self, device: &Device) -> LeafNodeIndex {
        let is_its = |member: &Member| member.signature_key == device.key.public_key().as_ref();
        self.mls.members().find(is_its).unwrap().index
    }

    /// The join key of this epoch, kept where a commit finds it.
    fn join_key(&self, own: &Device) -> (PreSharedKeyId, Vec<u8>) {
        let id = suite::join_key_id(self.conversation.0, self.epoch());
        let secret =
            self.mls.export_secret(own.mls.crypto(), suite::JOIN_KEY_LABEL, &id, suite::JOIN_KEY_BYTES).unwrap();
        (store_psk(own, id, &secret), secret)
    }

    /// A commit; it is pending afterwards.
    pub(crate) fn commit(&mut self, own: &Device, change: &Change<'_>) -> v1::Handshake {
        let message_id = MessageId::generate();
        let (epoch, (psk, secret)) = (self.epoch(), self.join_key(own));
        let removals: Vec<LeafNodeIndex> = change.remove.iter().map(|device| self.leaf_of(device)).collect();
        let leaf = change
            .certified_as
            .map(|device| LeafNodeParameters::builder().with_credential_with_key(device.credential()).build());
        let with_key = !change.add.is_empty() && !change.no_join_key;
        let keys = with_key.then(|| Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))));
        self.mls.set_aad(suite::entry_aad(self.conversation.0, message_id.0));
        let mut builder = self
            .mls
            .commit_builder()
            .consume_proposal_store(!change.ignore_proposals)
            .force_self_update(true)
            .leaf_node_parameters(leaf.unwrap_or_default())
            .propose_adds(change.add.iter().map(|device| device.key_package()))
            .propose_removals(removals)
            .add_proposals(keys);
        if let Some(profile) = &change.profile {
            builder = builder.propose_group_context_extensions(profile.to_extensions().unwrap()).unwrap();
        }
        let bundle = builder
            .load_psks(own.mls.storage())
            .unwrap()
            .create_group_info(true)
            .build(own.mls.rand(), own.mls.crypto(), own, |_| true)
            .unwrap()
            .stage_commit(&own.mls)
            .unwrap();
        let (message, welcome, group_info) = bundle.into_messages();
        let welcome = welcome.as_ref().map(wire).unwrap_or_default();
        v1::Handshake {
            conversation: self.conversation.to_wire(),
            message_id: message_id.to_wire(),
            epoch,
            kind: v1::EntryKind::Commit.into(),
            message: wire(&message),
            group_info: wire(&group_info.unwrap()),
            welcomes: change.add.iter().map(|device| welcome_for(device, &welcome, &secret)).collect(),
        }
    }

    /// The proposal to leave.
    pub(crate) fn leave(&mut self, own: &Device) -> v1::Handshake {
        let message_id = MessageId::generate();
        self.mls.set_aad(suite::entry_aad(self.conversation.0, message_id.0));
        let message = self.mls.leave_group_via_self_remove(&own.mls, own).unwrap();
        v1::Handshake {
            conversation: self.conversation.to_wire(),
            message_id: message_id.to_wire(),
            epoch: self.epoch(),
            kind: v1::EntryKind::Proposal.into(),
            message: wire(&message),
            ..v1::Handshake::default()
        }
    }

    /// The pending commit stands in the log.
    pub(crate) fn merge(&mut self, own: &Device) {
        self.mls.merge_pending_commit(&own.mls).unwrap();
    }

    /// The pending commit was refused.
    pub(crate) fn clear(&mut self, own: &Device) {
        self.mls.clear_pending_commit(own.mls.storage()).unwrap();
    }

    /// Takes another's handshake from the log.
    pub(crate) fn apply(&mut self, own: &Device, entry: &v1::Entry) {
        self.join_key(own);
        let message = MlsMessageIn::tls_deserialize_exact(&entry.payload[..]).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        match self.mls.process_message(&own.mls, message).unwrap().into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                self.mls.merge_staged_commit(&own.mls, *staged).unwrap();
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.mls.store_pending_proposal(own.mls.storage(), *proposal).unwrap();
            }
            _ => panic!("not a handshake"),
        }
    }

    /// Comes in by a Welcome, as it was delivered.
    pub(crate) fn join(own: &Device, joining: &v1::Joining) -> Self {
        let conversation = ConversationId::from_wire(&joining.conversation).unwrap();
        let welcome = joining.welcome.as_ref().unwrap();
        assert_eq!(welcome.device, own.id.to_wire());
        let MlsMessageBodyIn::Welcome(parsed) = suite::parse(&welcome.welcome).unwrap() else { panic!("no Welcome") };
        let tree = RatchetTreeIn::tls_deserialize_exact(&joining.ratchet_tree[..]).unwrap();
        if joining.group {
            // The epoch of the key is not in the Joining's clear; every one that there may be is tried.
            for epoch in 0..20 {
                store_psk(own, suite::join_key_id(conversation.0, epoch), &welcome.join_key);
            }
        }
        let config = MlsGroupJoinConfig::builder().wire_format_policy(HANDSHAKES_OPEN).build();
        let staged = StagedWelcome::build_from_welcome(&own.mls, &config, parsed).unwrap();
        let mls = staged.with_ratchet_tree(tree).build().unwrap().into_group(&own.mls).unwrap();
        Self { conversation, mls }
    }

    /// Comes in by an external commit, which is applied at once.
    pub(crate) fn rejoin(own: &Device, state: &v1::GroupState) -> (Self, v1::Handshake) {
        let conversation = ConversationId::from_wire(&state.conversation).unwrap();
        let message_id = MessageId::generate();
        let MlsMessageBodyIn::GroupInfo(info) = suite::parse(&state.group_info).unwrap() else {
            panic!("no GroupInfo")
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&state.ratchet_tree[..]).unwrap();
        let proposal = |bytes: &Bytes| match suite::parse(bytes).unwrap() {
            MlsMessageBodyIn::PublicMessage(message) => message,
            _ => panic!("no proposal"),
        };
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_config(MlsGroupJoinConfig::builder().wire_format_policy(HANDSHAKES_OPEN).build())
            .with_ratchet_tree(tree)
            .with_proposals(state.proposals.iter().map(proposal).collect())
            .with_aad(suite::entry_aad(conversation.0, message_id.0))
            .build_group(&own.mls, info, own.credential())
            .unwrap()
            .leaf_node_parameters(LeafNodeParameters::builder().with_capabilities(suite::capabilities()).build())
            .load_psks(own.mls.storage())
            .unwrap()
            .create_group_info(true)
            .build(own.mls.rand(), own.mls.crypto(), own, |_| true)
            .unwrap()
            .finalize(&own.mls)
            .unwrap();
        let (message, _, group_info) = bundle.into_messages();
        let handshake = v1::Handshake {
            conversation: conversation.to_wire(),
            message_id: message_id.to_wire(),
            epoch: state.epoch,
            kind: v1::EntryKind::Commit.into(),
            message: wire(&message),
            group_info: wire(&group_info.unwrap()),
            welcomes: Vec::new(),
        };
        (Self { conversation, mls }, handshake)
    }

    /// Equal on all devices of an epoch.
    pub(crate) fn authenticator(&self) -> Vec<u8> {
        self.mls.epoch_authenticator().as_slice().to_vec()
    }
}

fn store_psk(own: &Device, id: Vec<u8>, secret: &[u8]) -> PreSharedKeyId {
    let psk = Psk::External(ExternalPsk::new(id));
    let psk = PreSharedKeyId::new(suite::SUITE, own.mls.rand(), psk).unwrap();
    psk.store(&own.mls, secret).unwrap();
    psk
}
