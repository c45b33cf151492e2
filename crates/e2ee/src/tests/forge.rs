//! What a member who ignores the rules can make: any commit that MLS itself permits, signed with its real keys.
//!
//! **Invariant**: forging changes nothing in the forger's store, so honest work goes on from there.

use fastchat_mls::{HandshakeError, suite};
use openmls::{
    group::{CommitBuilder, Initial},
    prelude::{
        KeyPackage, LeafNodeIndex, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageOut, OpenMlsProvider as _,
        PreSharedKeyProposal, Proposal, PublicMessageIn, RatchetTreeIn,
        tls_codec::{Deserialize as _, Serialize as _},
    },
    schedule::PreSharedKeyId,
};
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

use super::{
    people::{CONVERSATION, Person, identity_of},
    world::Group,
};
use crate::{
    Device, ProcessError, Refusal,
    mls::{self, Provider, SUITE},
    shared_key::SharedKey,
    state::{Layer, Trial},
};

/// A message and the GroupInfo that goes with it.
pub(super) struct Forged {
    pub(super) message_id: Uuid,
    pub(super) message: Vec<u8>,
    pub(super) group_info: Vec<u8>,
}

pub(super) type Builder<'a> = CommitBuilder<'a, Initial, &'a mut MlsGroup>;

fn with_group<T>(person: &Person, call: impl FnOnce(&Provider<'_>, MlsGroup) -> T) -> T {
    let (layer, crypto) = (Layer::new(), RustCrypto::default());
    let provider = Provider { crypto: &crypto, trial: Trial::new(&person.store, &layer) };
    let group = provider.load(CONVERSATION).unwrap().unwrap();
    call(&provider, group)
}

/// A commit with whatever `what` puts into it; by-reference proposals only if `pending`.
pub(super) fn commit(
    person: &Person,
    message_id: Uuid,
    pending: bool,
    what: impl FnOnce(Builder<'_>) -> Builder<'_>,
) -> Forged {
    with_group(person, |provider, mut group| {
        group.set_aad(suite::entry_aad(CONVERSATION, message_id));
        let builder = group.commit_builder().consume_proposal_store(pending).force_self_update(true);
        let bundle = what(builder)
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), person.device.signer(), |_| true)
            .unwrap()
            .stage_commit(provider)
            .unwrap();
        let (message, _, group_info) = bundle.into_messages();
        forged(message_id, &message, group_info.as_ref())
    })
}

/// A commit that adds devices with pre-shared keys of one's own choice.
pub(super) fn add(person: &Person, message_id: Uuid, added: Vec<KeyPackage>, keys: &[SharedKey]) -> Forged {
    with_group(person, |provider, mut group| {
        group.set_aad(suite::entry_aad(CONVERSATION, message_id));
        let mut proposals = Vec::new();
        for key in keys {
            let psk = PreSharedKeyId::new(SUITE, provider.rand(), key.psk()).unwrap();
            psk.store(provider, &key.secret).unwrap();
            proposals.push(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))));
        }
        let builder = group.commit_builder().force_self_update(true).propose_adds(added).add_proposals(proposals);
        let bundle = builder
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), person.device.signer(), |_| true)
            .unwrap()
            .stage_commit(provider)
            .unwrap();
        let (message, _, group_info) = bundle.into_messages();
        forged(message_id, &message, group_info.as_ref())
    })
}

/// The join key of the epoch that a person is at.
pub(super) fn join_key(person: &Person) -> SharedKey {
    with_group(person, |provider, group| mls::join_key(provider, &group, CONVERSATION).unwrap())
}

/// A standalone proposal of one's own choice.
pub(super) fn proposal(
    person: &Person,
    message_id: Uuid,
    make: impl FnOnce(&Provider<'_>, &mut MlsGroup) -> MlsMessageOut,
) -> Forged {
    with_group(person, |provider, mut group| {
        group.set_aad(suite::entry_aad(CONVERSATION, message_id));
        let message = make(provider, &mut group);
        forged(message_id, &message, None)
    })
}

/// An external commit of any device, with chosen proposals and the leaf capabilities of all.
pub(super) fn external(group: &Group, device: &Device, message_id: Uuid, proposals: &[Vec<u8>]) -> Forged {
    let (store, layer, crypto) = (super::people::Map::default(), Layer::new(), RustCrypto::default());
    let provider = Provider { crypto: &crypto, trial: Trial::new(&store, &layer) };
    let Some(MlsMessageBodyIn::GroupInfo(group_info)) = mls::parse(&group.group_info) else { panic!() };
    let tree = RatchetTreeIn::tls_deserialize_exact(group.public.ratchet_tree().unwrap()).unwrap();
    let public = |bytes: &Vec<u8>| -> PublicMessageIn {
        let Some(MlsMessageBodyIn::PublicMessage(message)) = mls::parse(bytes) else { panic!() };
        message
    };
    let (_, bundle) = MlsGroup::external_commit_builder()
        .with_config(mls::join_config())
        .with_ratchet_tree(tree)
        .with_proposals(proposals.iter().map(public).collect())
        .with_aad(suite::entry_aad(CONVERSATION, message_id))
        .build_group(&provider, group_info, device.credential())
        .unwrap()
        .leaf_node_parameters(LeafNodeParameters::builder().with_capabilities(suite::capabilities()).build())
        .load_psks(provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), device.signer(), |_| true)
        .unwrap()
        .finalize(&provider)
        .unwrap();
    let (message, _, group_info) = bundle.into_messages();
    forged(message_id, &message, group_info.as_ref())
}

fn forged(message_id: Uuid, message: &MlsMessageOut, group_info: Option<&MlsMessageOut>) -> Forged {
    let bytes = |message: &MlsMessageOut| message.tls_serialize_detached().unwrap();
    Forged { message_id, message: bytes(message), group_info: group_info.map(bytes).unwrap_or_default() }
}

/// The key package of a device, read without a look at its certificate.
pub(super) fn package(person: &mut Person) -> KeyPackage {
    parse_package(&person.key_package())
}

pub(super) fn parse_package(bytes: &[u8]) -> KeyPackage {
    let Some(MlsMessageBodyIn::KeyPackage(package)) = mls::parse(bytes) else { panic!() };
    package.validate(&RustCrypto::default(), openmls::prelude::ProtocolVersion::Mls10).unwrap()
}

/// The place of a device in the tree.
pub(super) fn leaf(group: &Group, account: &str, device: Uuid) -> LeafNodeIndex {
    LeafNodeIndex::new(group.public.roster().unwrap().device(account, device).unwrap().index)
}

/// A device whose certificate names the account's identity, but was signed by somebody else's.
pub(super) fn forged_device(account: &'static str, device: Uuid, signer: &str) -> Device {
    let honest = Device::issue(identity_of(account), account, device).unwrap();
    let mut certificate = fastchat_mls::Certificate::from_bytes(honest.certificate()).unwrap();
    let signed = certificate.signed_bytes().unwrap();
    certificate.signature = identity_of(signer).sign(fastchat_mls::certificate::CONTEXT, &signed).unwrap();
    honest.with_certificate(certificate.to_bytes().unwrap())
}

impl Group {
    /// Server and member refuse the commit by the same rule, and nothing changes for either.
    pub(super) fn refuses(&mut self, member: &mut Person, forged: &Forged, expected: &str) {
        let before = self.public.to_bytes().unwrap();
        let server = self.public.commit(forged.message_id, &forged.message, &forged.group_info);
        assert!(self.public.to_bytes().unwrap() == before, "the server took it in");
        let server = match server.unwrap_err() {
            HandshakeError::NotAllowed(text) => Refusal::NotAllowed(text),
            HandshakeError::ProposalsPending => Refusal::ProposalsPending,
            HandshakeError::Full => Refusal::Full,
            other => panic!("the server refuses by another rule: {other:?}"),
        };
        let member = match member.process(forged.message_id, &forged.message).unwrap_err() {
            ProcessError::NotAllowed(refusal) => refusal,
            other => panic!("the member refuses by another rule: {other:?}"),
        };
        assert_eq!(server, member);
        assert!(server.to_string().contains(expected), "{server}");
    }
}
