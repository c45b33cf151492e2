//! What a member who ignores the rules can make: any commit that MLS itself permits, signed with its real keys.
//!
//! **Invariant**: forging changes nothing in the forger's store, so honest work goes on from there.

use fastchat_mls::{HandshakeError, suite};
use openmls::{
    group::{CommitBuilder, Initial},
    prelude::{
        KeyPackage, LeafNodeIndex, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageOut, OpenMlsProvider as _,
        PreSharedKeyProposal, Proposal, PublicMessageIn, RatchetTreeIn, Sender,
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
    Device, GroupProfile, ProcessError, Refusal, WelcomeFor,
    mls::{self, Provider, SUITE},
    shared_key::SharedKey,
    state::{Layer, Trial},
    welcome::{self, Joiner},
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

/// What a random commit contains.
pub(super) struct Plan {
    /// Whether pending leaves are taken in.
    pub(super) pending: bool,
    pub(super) added: Vec<KeyPackage>,
    pub(super) removed: Vec<LeafNodeIndex>,
    pub(super) profile: Option<GroupProfile>,
    pub(super) with_key: bool,
}

/// A commit with the state that makes it pending, and Welcomes for whom it adds.
pub(super) struct Staged {
    pub(super) forged: Forged,
    pub(super) changes: crate::Changes,
    pub(super) welcomes: Vec<WelcomeFor>,
}

/// A commit that keeps to no rule; `None` if MLS itself does not make it.
pub(super) fn staged(person: &Person, message_id: Uuid, plan: &Plan) -> Option<Staged> {
    let (layer, crypto) = (Layer::new(), RustCrypto::default());
    let provider = Provider { crypto: &crypto, trial: Trial::new(&person.store, &layer) };
    let mut group = provider.load(CONVERSATION).unwrap().unwrap();
    group.set_aad(suite::entry_aad(CONVERSATION, message_id));
    let key = mls::join_key(&provider, &group, CONVERSATION).unwrap();
    let mut proposals = Vec::new();
    if plan.with_key {
        let psk = PreSharedKeyId::new(SUITE, provider.rand(), key.psk()).unwrap();
        psk.store(&provider, &key.secret).unwrap();
        proposals.push(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))));
    }
    // OpenMLS stops a debug build when one leaf is removed and leaves in one commit.
    let leaving = if plan.pending { mls::leaving(&group) } else { Vec::new() };
    let removed = plan.removed.iter().filter(|index| !leaving.contains(&index.u32())).copied();
    let mut builder = group
        .commit_builder()
        .consume_proposal_store(plan.pending)
        .force_self_update(true)
        .propose_adds(plan.added.clone())
        .propose_removals(removed)
        .add_proposals(proposals);
    if let Some(profile) = &plan.profile {
        builder = builder.propose_group_context_extensions(profile.to_extensions().unwrap()).unwrap();
    }
    let built = builder.load_psks(provider.storage()).unwrap().create_group_info(true);
    let built = built.build(provider.rand(), provider.crypto(), person.device.signer(), |_| true).ok()?;
    let (message, welcome, group_info) = built.stage_commit(&provider).unwrap().into_messages();
    let joiners: Vec<Joiner> = plan.added.iter().map(joiner).collect();
    let parts = welcome.map(|welcome| welcome::split(&crypto, &welcome, &joiners).unwrap()).unwrap_or_default();
    let welcome_for = |(joiner, welcome): (Joiner, Vec<u8>)| {
        let join_key = key.wrap(person.identity, identity_of(&joiner.account).public()).unwrap();
        WelcomeFor { account: joiner.account, device: joiner.device, welcome, join_key }
    };
    let welcomes = joiners.into_iter().zip(parts).map(welcome_for).collect();
    let forged = forged(message_id, &message, group_info.as_ref());
    let changes = provider.trial.finish().unwrap().into_iter().collect();
    Some(Staged { forged, changes, welcomes })
}

fn joiner(key_package: &KeyPackage) -> Joiner {
    let certificate = fastchat_mls::Certificate::from_leaf(key_package.leaf_node()).unwrap();
    Joiner { account: certificate.account, device: certificate.device, key_package: key_package.clone() }
}

/// Whether a person's store holds the group.
pub(super) fn has_group(person: &Person) -> bool {
    let (layer, crypto) = (Layer::new(), RustCrypto::default());
    let provider = Provider { crypto: &crypto, trial: Trial::new(&person.store, &layer) };
    provider.load(CONVERSATION).unwrap().is_some()
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
    // As in `staged`: the own old leaf is removed already.
    let roster = group.public.roster().unwrap();
    let own = roster.leaves.iter().find(|leaf| leaf.signature_key == device.signature_key());
    let of_own_leaf = |message: &PublicMessageIn| matches!(message.sender(), Sender::Member(sender) if own.is_some_and(|leaf| leaf.index == sender.u32()));
    let (_, bundle) = MlsGroup::external_commit_builder()
        .with_config(mls::join_config())
        .with_ratchet_tree(tree)
        .with_proposals(proposals.iter().map(public).filter(|message| !of_own_leaf(message)).collect())
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
