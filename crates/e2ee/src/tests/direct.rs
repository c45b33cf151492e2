//! Making and joining direct conversations with a server in between that lies.
//!
//! **Invariant**: see [`super`].

use fastchat_mls::suite;
use openmls::{
    prelude::{
        CredentialType, Extension, Extensions, GroupContext, KeyPackage, Lifetime, MlsGroup, MlsMessageOut,
        PreSharedKeyProposal, Proposal, RequiredCapabilitiesExtension, tls_codec::Serialize as _,
    },
    schedule::PreSharedKeyId,
};
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

use super::people::{ALICE, BOB, CONVERSATION, MALLORY, Map, Person, friends, id, identity_of, text, tree_of};
use crate::{
    CertificateError, CreateError, Device, JoinError, KeyPackageError, PeerPackages, SharedKeyError, key_package,
    mls::{self, Provider, SUITE},
    shared_key::SharedKey,
    state::{Layer, Trial},
    storage::Record,
};

fn create(alice: &mut Person, identity: &str, packages: &[(Uuid, &[u8])]) -> Result<crate::Created, CreateError> {
    let peer = PeerPackages { account: BOB, identity: identity_of(identity).public(), packages };
    let own = alice.identity;
    alice.run(|transaction, device| transaction.create_direct(own, device, CONVERSATION, &peer, &[]))
}

fn refusal(result: Result<crate::Created, CreateError>) -> KeyPackageError {
    match result {
        Err(CreateError::KeyPackage { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

/// A group that a dishonest client makes: any members, with or without the friend key, any settings.
fn hostile_welcome(
    creator: &Device,
    packages: Vec<KeyPackage>,
    group: Uuid,
    friend_key: Option<&SharedKey>,
) -> (Vec<u8>, Vec<u8>) {
    hostile_welcome_with(Extensions::default(), creator, packages, group, friend_key)
}

fn hostile_welcome_with(
    extensions: Extensions<GroupContext>,
    creator: &Device,
    packages: Vec<KeyPackage>,
    group: Uuid,
    friend_key: Option<&SharedKey>,
) -> (Vec<u8>, Vec<u8>) {
    let (store, layer, crypto) = (Map::default(), Layer::new(), RustCrypto::default());
    let provider = Provider { crypto: &crypto, trial: Trial::new(&store, &layer) };
    let builder = MlsGroup::builder()
        .with_group_id(mls::group_id(group))
        .ciphersuite(SUITE)
        .with_capabilities(suite::capabilities())
        .with_group_context_extensions(extensions)
        .use_ratchet_tree_extension(true);
    let mut group = builder.build(&provider, creator.signer(), creator.credential()).unwrap();
    let mut commit = group.commit_builder().propose_adds(packages);
    if let Some(key) = friend_key {
        let psk = PreSharedKeyId::new(SUITE, &crypto, key.psk()).unwrap();
        psk.store(&provider, &key.secret).unwrap();
        commit = commit.add_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))));
    }
    let bundle = commit.load_psks(&provider.trial).unwrap();
    let bundle = bundle.build(&crypto, &crypto, creator.signer(), |_| true).unwrap().stage_commit(&provider).unwrap();
    let welcome = bundle.into_welcome_msg().unwrap().tls_serialize_detached().unwrap();
    group.merge_pending_commit(&provider).unwrap();
    (welcome, group.export_ratchet_tree().tls_serialize_detached().unwrap())
}

/// A verified key package of a person's device.
fn package_of(person: &mut Person) -> KeyPackage {
    let bytes = person.key_package();
    let (store, layer, crypto) = (Map::default(), Layer::new(), RustCrypto::default());
    let provider = Provider { crypto: &crypto, trial: Trial::new(&store, &layer) };
    let (account, device) = (person.account, person.device.id());
    key_package::verify(&provider, &bytes, account, device, person.identity.public()).unwrap()
}

/// A friend key that somebody wraps to bob.
fn friend_key(by: &str, conversation: Uuid) -> (SharedKey, Vec<u8>) {
    let key = SharedKey::friend(conversation);
    let wrapped = key.wrap(identity_of(by), identity_of(BOB).public()).unwrap();
    (key, wrapped)
}

fn key_for_bob() -> (SharedKey, Vec<u8>) {
    friend_key(ALICE, CONVERSATION)
}

#[test]
fn both_sides_agree_on_epoch_and_authenticator() {
    let (mut alice, mut bob) = friends();
    let state = |person: &mut Person| {
        let read = |transaction: &mut crate::Transaction<'_>, _: &Device| {
            Ok::<_, crate::StoreError>((
                transaction.epoch(CONVERSATION)?,
                transaction.epoch_authenticator(CONVERSATION)?,
            ))
        };
        person.run(read).unwrap()
    };
    let (alices, bobs) = (state(&mut alice), state(&mut bob));
    assert_eq!(alices, bobs);
    assert_eq!(alices.0, Some(1));
    assert_eq!(state(&mut Person::new(MALLORY)), (None, None));
}

#[test]
fn all_devices_of_the_peer_join_by_a_welcome_each() {
    let (mut alice, mut desk, mut lap) = (Person::new(ALICE), Person::new(BOB), Person::with_device(BOB, 2));
    let (one, two) = (desk.key_package(), lap.key_package());
    let created = create(&mut alice, BOB, &[(id(1), &one), (id(2), &two)]).unwrap();
    assert_eq!(created.welcomes.iter().map(|welcome| welcome.device).collect::<Vec<_>>(), [id(1), id(2)]);
    desk.join(CONVERSATION, ALICE, &created).unwrap();
    lap.join(CONVERSATION, ALICE, &created).unwrap();
    let sealed = desk.seal(id(1), "to both");
    assert_eq!(text(&alice.open(id(1), &sealed.payload).unwrap()), "to both");
    assert_eq!(lap.open(id(1), &sealed.payload).unwrap().account, BOB);
}

#[test]
fn a_last_resort_key_package_serves_twice() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let package = bob.run(|transaction, device| transaction.last_resort_key_package(device)).unwrap();
    let first = create(&mut alice, BOB, &[(id(1), &package)]).unwrap();
    bob.join(CONVERSATION, ALICE, &first).unwrap();
    let (mut carol, other) = (Person::new(MALLORY), id(0xC1));
    let peer = PeerPackages { account: BOB, identity: bob.identity.public(), packages: &[(id(1), &package)] };
    let own = carol.identity;
    let second = carol.run(|transaction, device| transaction.create_direct(own, device, other, &peer, &[])).unwrap();
    bob.join(other, MALLORY, &second).unwrap();
}

#[test]
fn a_key_package_that_the_server_made_itself_is_refused() {
    let (mut alice, mut server) = (Person::new(ALICE), Person::new(MALLORY));
    // The server's own identity certifies a device in bob's name.
    server.device = Device::issue(server.identity, BOB, id(1)).unwrap();
    let package = server.key_package();
    let cause = refusal(create(&mut alice, BOB, &[(id(1), &package)]));
    assert!(matches!(cause, KeyPackageError::Certificate(CertificateError::OtherIdentity)), "{cause}");
}

#[test]
fn a_key_package_of_another_account_or_device_is_refused() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let package = bob.key_package();
    let other_device = refusal(create(&mut alice, BOB, &[(id(2), &package)]));
    assert!(matches!(other_device, KeyPackageError::Certificate(CertificateError::OtherDevice)));
    bob.device = Device::issue(bob.identity, MALLORY, id(1)).unwrap();
    let package = bob.key_package();
    let other_account = refusal(create(&mut alice, BOB, &[(id(1), &package)]));
    assert!(matches!(other_account, KeyPackageError::Certificate(CertificateError::OtherDevice)));
}

/// A key package of the device with a lifetime of its own choice.
fn package_with_lifetime(device: &Device, lifetime: Lifetime) -> Vec<u8> {
    let (store, layer, crypto) = (Map::default(), Layer::new(), RustCrypto::default());
    let provider = Provider { crypto: &crypto, trial: Trial::new(&store, &layer) };
    let builder = KeyPackage::builder().leaf_node_capabilities(suite::capabilities()).key_package_lifetime(lifetime);
    let bundle = builder.build(SUITE, &provider, device.signer(), device.credential()).unwrap();
    MlsMessageOut::from(bundle.into_key_package()).tls_serialize_detached().unwrap()
}

#[test]
fn a_key_package_that_is_expired_or_wants_to_live_too_long_is_refused() {
    let (mut alice, bob) = (Person::new(ALICE), Person::new(BOB));
    let day = 24 * 60 * 60;
    let long = package_with_lifetime(&bob.device, Lifetime::new(92 * day));
    assert!(matches!(refusal(create(&mut alice, BOB, &[(id(1), &long)])), KeyPackageError::Lifetime));
    let expired = package_with_lifetime(&bob.device, Lifetime::init(1_700_000_000, 1_700_000_000 + day));
    assert!(matches!(refusal(create(&mut alice, BOB, &[(id(1), &expired)])), KeyPackageError::Invalid(_)));
    let good = package_with_lifetime(&bob.device, Lifetime::new(90 * day));
    create(&mut alice, BOB, &[(id(1), &good)]).unwrap();
}

#[test]
fn altered_key_packages_are_refused() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let package = bob.key_package();
    for position in (0..package.len()).step_by(97) {
        let mut altered = package.clone();
        altered[position] ^= 1;
        refusal(create(&mut alice, BOB, &[(id(1), &altered)]));
    }
    refusal(create(&mut alice, BOB, &[(id(1), &package[..100])]));
    create(&mut alice, BOB, &[(id(1), &package)]).unwrap();
}

#[test]
fn the_list_of_devices_must_be_sensible() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let package = bob.key_package();
    assert!(matches!(create(&mut alice, BOB, &[]), Err(CreateError::Devices)));
    let twice = create(&mut alice, BOB, &[(id(1), &package), (id(1), &package)]);
    assert!(matches!(twice, Err(CreateError::Devices)));
}

#[test]
fn a_conversation_is_neither_made_nor_joined_twice() {
    let (mut alice, mut bob) = friends();
    let package = bob.key_package();
    assert!(matches!(create(&mut alice, BOB, &[(id(1), &package)]), Err(CreateError::AlreadyExists)));
    let mut other = Person::with_device(ALICE, 2);
    let created = other.create(CONVERSATION, &mut bob);
    let again = bob.join(CONVERSATION, ALICE, &created);
    assert!(matches!(again, Err(JoinError::AlreadyJoined)), "{again:?}");
}

#[test]
fn a_friend_key_of_somebody_else_or_another_conversation_is_refused() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let created = alice.create(CONVERSATION, &mut bob);
    let (welcome, key) = (&created.welcomes[0].welcome, &created.welcomes[0].join_key);
    let tree = tree_of(CONVERSATION, &created);
    let (_, of_mallory) = friend_key(MALLORY, CONVERSATION);
    let refused = bob.join_with(CONVERSATION, ALICE, welcome, &of_mallory, &tree);
    assert!(matches!(refused, Err(JoinError::SharedKey(SharedKeyError::Signature))));
    let (_, of_another) = friend_key(ALICE, id(0xC1));
    let refused = bob.join_with(CONVERSATION, ALICE, welcome, &of_another, &tree);
    assert!(matches!(refused, Err(JoinError::SharedKey(SharedKeyError::Signature))));
    assert!(bob.join_with(CONVERSATION, ALICE, welcome, &[], &tree).is_err());
    bob.join_with(CONVERSATION, ALICE, welcome, key, &tree).unwrap();
}

#[test]
fn a_welcome_with_another_friend_key_than_the_one_beside_it_is_refused() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let created = alice.create(CONVERSATION, &mut bob);
    let (_, another) = key_for_bob();
    let tree = tree_of(CONVERSATION, &created);
    assert!(matches!(
        bob.join_with(CONVERSATION, ALICE, &created.welcomes[0].welcome, &another, &tree),
        Err(JoinError::Mls(_))
    ));
    bob.join(CONVERSATION, ALICE, &created).unwrap();
}

#[test]
fn a_welcome_without_the_friend_key_is_refused() {
    let (alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let (_, wrapped) = key_for_bob();
    let (welcome, tree) = hostile_welcome(&alice.device, vec![package_of(&mut bob)], CONVERSATION, None);
    let refused = bob.join_with(CONVERSATION, ALICE, &welcome, &wrapped, &tree);
    assert!(matches!(refused, Err(JoinError::WithoutSharedKey)), "{refused:?}");
}

#[test]
fn a_welcome_to_another_conversation_is_refused() {
    let (alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let (key, wrapped) = key_for_bob();
    let (welcome, tree) = hostile_welcome(&alice.device, vec![package_of(&mut bob)], id(0xC1), Some(&key));
    let refused = bob.join_with(CONVERSATION, ALICE, &welcome, &wrapped, &tree);
    assert!(matches!(refused, Err(JoinError::OtherConversation)), "{refused:?}");
}

#[test]
fn a_conversation_with_rules_of_its_own_is_refused() {
    let (alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let (key, wrapped) = key_for_bob();
    let rules = RequiredCapabilitiesExtension::new(&[], &[], &[CredentialType::Basic]);
    let rules = Extensions::single(Extension::RequiredCapabilities(rules)).unwrap();
    let packages = vec![package_of(&mut bob)];
    let (welcome, tree) = hostile_welcome_with(rules, &alice.device, packages, CONVERSATION, Some(&key));
    let refused = bob.join_with(CONVERSATION, ALICE, &welcome, &wrapped, &tree);
    assert!(matches!(refused, Err(JoinError::OtherConversation)), "{refused:?}");
}

#[test]
fn two_leaves_of_one_device_are_refused() {
    let (alice, mut bob, mut again) = (Person::new(ALICE), Person::new(BOB), Person::new(BOB));
    let (key, wrapped) = key_for_bob();
    let packages = vec![package_of(&mut bob), package_of(&mut again)];
    let (welcome, tree) = hostile_welcome(&alice.device, packages, CONVERSATION, Some(&key));
    let refused = bob.join_with(CONVERSATION, ALICE, &welcome, &wrapped, &tree);
    assert!(matches!(refused, Err(JoinError::NotAllowed(_))), "{refused:?}");
}

#[test]
fn a_welcome_for_an_earlier_key_of_this_device_is_refused() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let created = alice.create(CONVERSATION, &mut bob);
    bob.device = Person::new(BOB).device;
    let refused = bob.join(CONVERSATION, ALICE, &created);
    assert!(matches!(refused, Err(JoinError::Member(CertificateError::OtherKey))), "{refused:?}");
}

#[test]
fn a_third_person_in_the_conversation_is_refused() {
    let (alice, mut bob, mut mallory) = (Person::new(ALICE), Person::new(BOB), Person::new(MALLORY));
    let (key, wrapped) = key_for_bob();
    let packages = vec![package_of(&mut bob), package_of(&mut mallory)];
    let (welcome, tree) = hostile_welcome(&alice.device, packages, CONVERSATION, Some(&key));
    let refused = bob.join_with(CONVERSATION, ALICE, &welcome, &wrapped, &tree);
    assert!(matches!(refused, Err(JoinError::NotAllowed(_))), "{refused:?}");
}

#[test]
fn a_creator_that_the_known_identity_did_not_certify_is_refused() {
    let mut bob = Person::new(BOB);
    let (key, wrapped) = key_for_bob();
    let forged = Device::issue(identity_of(MALLORY), ALICE, id(1)).unwrap();
    let (welcome, tree) = hostile_welcome(&forged, vec![package_of(&mut bob)], CONVERSATION, Some(&key));
    let refused = bob.join_with(CONVERSATION, ALICE, &welcome, &wrapped, &tree);
    assert!(matches!(refused, Err(JoinError::Member(CertificateError::OtherIdentity))), "{refused:?}");
}

#[test]
fn a_welcome_that_the_creator_did_not_make_is_refused() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let (key, wrapped) = key_for_bob();
    let own = Person::with_device(BOB, 2);
    let packages = vec![package_of(&mut bob), package_of(&mut alice)];
    let (welcome, tree) = hostile_welcome(&own.device, packages, CONVERSATION, Some(&key));
    let refused = bob.join_with(CONVERSATION, ALICE, &welcome, &wrapped, &tree);
    assert!(matches!(refused, Err(JoinError::NotFromAdder)), "{refused:?}");
}

#[test]
fn a_failed_join_leaves_the_key_package_and_a_good_one_uses_it_up() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let created = alice.create(CONVERSATION, &mut bob);
    let (welcome, key) = (&created.welcomes[0].welcome, &created.welcomes[0].join_key);
    let tree = tree_of(CONVERSATION, &created);
    let before = bob.store.rows.clone();
    for position in (0..welcome.len()).step_by(211) {
        let mut altered = welcome.clone();
        altered[position] ^= 1;
        assert!(bob.join_with(CONVERSATION, ALICE, &altered, key, &tree).is_err(), "byte {position}");
    }
    assert_eq!(bob.store.rows, before);
    bob.join_with(CONVERSATION, ALICE, welcome, key, &tree).unwrap();
    let redelivered = bob.join_with(CONVERSATION, ALICE, welcome, key, &tree);
    assert!(matches!(redelivered, Err(JoinError::AlreadyJoined)), "{redelivered:?}");
    let of_key_packages = [Record::KeyPackage as u8, Record::KeyPackageRefs as u8];
    assert!(!bob.store.rows.keys().any(|key| of_key_packages.contains(&key[0])));
    bob.run(|transaction, _| transaction.forget(CONVERSATION)).unwrap();
    let again = bob.join_with(CONVERSATION, ALICE, welcome, key, &tree);
    assert!(matches!(again, Err(JoinError::NoKeyPackage)), "{again:?}");
}

#[test]
fn the_friend_key_is_not_kept() {
    let (alice, bob) = friends();
    for person in [alice, bob] {
        assert!(!person.store.rows.keys().any(|key| key[0] == Record::Psk as u8));
    }
}

#[test]
fn the_private_keys_of_unused_key_packages_are_bounded_and_the_oldest_go() {
    let mut bob = Person::new(BOB);
    let kept = |bob: &Person| bob.store.rows.keys().filter(|key| key[0] == Record::KeyPackage as u8).count();
    let make = |bob: &mut Person| bob.run(|transaction, device| transaction.last_resort_key_package(device)).unwrap();
    let packages: Vec<_> = (0..6).map(|_| make(&mut bob)).collect();
    assert_eq!(kept(&bob), 4);
    let mut join = |number: u128, package: &[u8]| {
        let mut alice = Person::new(ALICE);
        let peer = PeerPackages { account: BOB, identity: bob.identity.public(), packages: &[(id(1), package)] };
        let own = alice.identity;
        let created =
            alice.run(|transaction, device| transaction.create_direct(own, device, id(number), &peer, &[])).unwrap();
        bob.join(id(number), ALICE, &created)
    };
    assert!(matches!(join(0xC1, &packages[1]), Err(JoinError::NoKeyPackage)));
    join(0xC2, &packages[2]).unwrap();
}

#[test]
fn r34_ones_own_devices_are_under_ones_own_identity() {
    let mut alice = Person::new(ALICE);
    let server = super::people::identity_of(super::people::MALLORY);
    let device = crate::Device::issue(server, ALICE, id(2)).unwrap();
    let mut fake = Person { account: ALICE, identity: server, device, store: super::people::Map::default(), cursor: 0 };
    let package = fake.key_package();
    let packages = [(id(2), package.as_slice())];
    let peer = crate::PeerPackages { account: ALICE, identity: server.public(), packages: &packages };
    let own = alice.identity;
    let made = alice.run(|transaction, device| transaction.create_direct(own, device, CONVERSATION, &peer, &[]));
    assert!(made.is_err(), "the server's device is in the conversation of our own devices");
}
