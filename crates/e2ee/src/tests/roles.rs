//! Members who do what their role does not allow, and commits that say other than they should.
//!
//! **Invariant**: whatever one of server and member refuses, the other refuses by the same rule.

use fastchat_mls::suite;
use openmls::prelude::{Capabilities, Extension, Extensions, LeafNodeParameters, UnknownExtension};

use super::{
    forge,
    groups::{profile_of, three},
    people::{ALICE, ALICE_ROTATED, BOB, CAROL, CONVERSATION, DAVE, MALLORY, Person, id, identity_of},
};
use crate::{Change, CommitError, GroupProfile, PeerPackages, Refusal, shared_key::SharedKey};

#[test]
fn a_plain_member_neither_adds_nor_removes_nor_renames_nor_promotes() {
    let (mut group, mut people) = three();
    let mut dave = Person::new(DAVE);
    let dave = forge::package(&mut dave);
    let [alice, bob, _] = &mut people;
    let key = forge::join_key(bob);
    group.refuses(alice, &forge::add(bob, id(1), vec![dave], &[key]), "only an admin adds others");
    let carol = forge::leaf(&group, CAROL, id(1));
    let removal = forge::commit(bob, id(1), true, |commit| commit.propose_removals([carol]));
    group.refuses(alice, &removal, "only an admin removes others");
    let mut renamed = profile_of(&group);
    renamed.name = "bob's".into();
    let mut promoted = profile_of(&group);
    promoted.admins = vec![ALICE.into(), BOB.into()];
    for profile in [renamed, promoted] {
        let change = forge::commit(bob, id(1), true, |commit| {
            commit.propose_group_context_extensions(profile.to_extensions().unwrap()).unwrap()
        });
        group.refuses(alice, &change, "only an admin changes");
    }
}

#[test]
fn a_client_refuses_to_make_what_its_role_does_not_allow() {
    let (group, mut people) = three();
    let mut profile = profile_of(&group);
    profile.topic = "mine".into();
    for change in [
        Change { remove_accounts: vec![CAROL.into()], ..Change::default() },
        Change { remove_devices: vec![(CAROL.into(), id(1))], ..Change::default() },
        Change { profile: Some(profile), ..Change::default() },
    ] {
        let refused = people[1].prepare(id(1), &change);
        assert!(matches!(refused, Err(CommitError::NotAllowed(Refusal::NotAllowed(_)))), "{refused:?}");
    }
    let gone = people[0].prepare(id(1), &Change { remove_accounts: vec![DAVE.into()], ..Change::default() });
    assert!(matches!(gone, Err(CommitError::NotAMember(_))));
}

#[test]
fn an_admin_removes_whole_accounts_and_adds_no_devices_to_others() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(BOB, 2);
    group.rejoin(&mut lap);
    group.deliver(&mut people);
    let one = forge::leaf(&group, BOB, id(2));
    let forged = forge::commit(&people[0], id(1), true, |commit| commit.propose_removals([one]));
    group.refuses(&mut people[2], &forged, "with all its devices");
    let mut phone = Person::with_device(BOB, 3);
    let forged = forge::add(&people[0], id(1), vec![forge::package(&mut phone)], &[forge::join_key(&people[0])]);
    group.refuses(&mut people[2], &forged, "only a device of the same account");
}

#[test]
fn an_add_carries_the_epochs_join_key_and_nothing_else_does() {
    let (mut group, mut people) = three();
    let mut dave = Person::new(DAVE);
    let mut dave = || forge::package(&mut dave);
    let [alice, bob, _] = &mut people;
    group.refuses(bob, &forge::add(alice, id(1), vec![dave()], &[]), "join key");
    // The member does not have other keys, so only the server gets to the rule.
    let stale = SharedKey::join(CONVERSATION, 0, vec![1; 32].into());
    let forged = forge::add(alice, id(1), vec![dave()], &[stale]);
    assert!(matches!(
        group.public.commit(id(1), &forged.message, &forged.group_info),
        Err(fastchat_mls::HandshakeError::NotAllowed(_))
    ));
    assert!(bob.process(id(1), &forged.message).is_err());
    group.refuses(bob, &forge::add(alice, id(1), Vec::new(), &[forge::join_key(alice)]), "join key");
}

#[test]
fn a_leaf_under_a_foreign_identity_is_refused_by_all() {
    let (mut group, mut people) = three();
    let mut imposter = Person::with_device(CAROL, 2);
    imposter.device = crate::Device::issue(identity_of(MALLORY), CAROL, id(2)).unwrap();
    let package = forge::package(&mut imposter);
    let forged = forge::add(&people[2], id(1), vec![package], &[forge::join_key(&people[2])]);
    group.refuses(&mut people[0], &forged, "different identities");
}

#[test]
fn a_certificate_that_its_identity_did_not_sign_gets_past_the_server_and_no_member() {
    let (mut group, mut people) = three();
    let mut imposter = Person::new(DAVE);
    imposter.device = forge::forged_device(DAVE, id(1), MALLORY);
    let package = forge::package(&mut imposter);
    let forged = forge::add(&people[0], id(1), vec![package], &[forge::join_key(&people[0])]);
    for member in &mut people[1..] {
        let refused = member.process(id(1), &forged.message);
        assert!(
            matches!(refused, Err(crate::ProcessError::Certificate(crate::CertificateError::Signature))),
            "{refused:?}"
        );
    }
    group.public.commit(id(1), &forged.message, &forged.group_info).unwrap();
}

#[test]
fn a_device_never_becomes_another_device_or_another_accounts() {
    let (mut group, mut people) = three();
    for (account, device) in [(BOB, id(9)), (ALICE, id(1))] {
        let bob = &people[1].device;
        let mut certificate = fastchat_mls::Certificate::from_bytes(bob.certificate()).unwrap();
        (certificate.account, certificate.device) = (account.to_owned(), device);
        let other = bob.with_certificate(certificate.to_bytes().unwrap());
        let forged = forge::commit(&people[1], id(1), true, |commit| {
            let leaf = LeafNodeParameters::builder().with_credential_with_key(other.credential()).build();
            commit.leaf_node_parameters(leaf)
        });
        group.refuses(&mut people[0], &forged, "stays that of the device");
    }
    let again = people[1].device.recertify(people[1].identity).unwrap();
    let forged = forge::commit(&people[1], id(1), true, |commit| {
        let leaf = LeafNodeParameters::builder().with_credential_with_key(again.credential()).build();
        commit.leaf_node_parameters(leaf)
    });
    group.refuses(&mut people[0], &forged, "for no reason");
}

#[test]
fn a_rotation_that_leaves_a_leaf_under_the_old_identity_is_refused() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(ALICE, 2);
    group.rejoin(&mut lap);
    group.deliver(&mut people);
    let device = people[0].device.recertify(identity_of(ALICE_ROTATED)).unwrap();
    let forged = forge::commit(&people[0], id(1), true, |commit| {
        let leaf = LeafNodeParameters::builder().with_credential_with_key(device.credential()).build();
        commit.leaf_node_parameters(leaf)
    });
    group.refuses(&mut people[1], &forged, "different identities");
}

#[test]
fn a_leaf_that_declares_other_capabilities_is_refused() {
    let (mut group, mut people) = three();
    let weak = Capabilities::builder()
        .versions(suite::capabilities().versions().to_vec())
        .ciphersuites(vec![suite::SUITE])
        .credentials(suite::capabilities().credentials().to_vec())
        .extensions(suite::capabilities().extensions().to_vec())
        .proposals(vec![openmls::prelude::ProposalType::SelfRemove, openmls::prelude::ProposalType::Custom(0xF0FD)])
        .build();
    let forged = forge::commit(&people[1], id(1), true, |commit| {
        commit.leaf_node_parameters(LeafNodeParameters::builder().with_capabilities(weak).build())
    });
    group.refuses(&mut people[0], &forged, "other capabilities");
}

#[test]
fn profile_tricks_are_refused_by_all() {
    let (mut group, mut people) = three();
    let current = profile_of(&group);
    let with = |change: &dyn Fn(&mut GroupProfile)| {
        let mut profile = current.clone();
        change(&mut profile);
        profile
    };
    for (profile, expected) in [
        (with(&|_| {}), "changes nothing"),
        (with(&|profile| profile.admins = vec![DAVE.into()]), "every admin must be a member"),
        (with(&|profile| profile.admins = vec![ALICE.into(), DAVE.into()]), "every admin must be a member"),
    ] {
        let forged = forge::commit(&people[0], id(1), true, |commit| {
            commit.propose_group_context_extensions(profile.to_extensions().unwrap()).unwrap()
        });
        group.refuses(&mut people[1], &forged, expected);
    }
    for (bytes, expected) in [
        (postcard::to_allocvec(&(1_u8, with(&|profile| profile.name = String::new()))).unwrap(), "name"),
        (postcard::to_allocvec(&(1_u8, with(&|profile| profile.name = "a\u{7}".into()))).unwrap(), "name"),
        (postcard::to_allocvec(&(1_u8, with(&|profile| profile.name = "x".repeat(65)))).unwrap(), "name"),
        (postcard::to_allocvec(&(1_u8, with(&|profile| profile.topic = "x".repeat(257)))).unwrap(), "topic"),
        (postcard::to_allocvec(&(1_u8, with(&|profile| profile.admins.clear()))).unwrap(), "admins"),
        (postcard::to_allocvec(&(1_u8, with(&|profile| profile.admins.push(ALICE.into())))).unwrap(), "admins"),
        (postcard::to_allocvec(&(2_u8, with(&|_| {}))).unwrap(), "no readable profile"),
        (vec![0xFF; 8], "no readable profile"),
    ] {
        let extensions = extensions(Some(bytes), true);
        let forged = forge::commit(&people[0], id(1), true, |commit| {
            commit.propose_group_context_extensions(extensions).unwrap()
        });
        group.refuses(&mut people[1], &forged, expected);
    }
    for extensions in [extensions(None, true), Extensions::default()] {
        let forged = forge::commit(&people[0], id(1), true, |commit| {
            commit.propose_group_context_extensions(extensions).unwrap()
        });
        group.refuses(&mut people[1], &forged, "profile");
    }
}

fn extensions(profile: Option<Vec<u8>>, required: bool) -> Extensions<openmls::prelude::GroupContext> {
    let required = required.then(|| Extension::RequiredCapabilities(suite::required_capabilities()));
    let profile = profile.map(|bytes| Extension::Unknown(suite::PROFILE_EXTENSION, UnknownExtension(bytes)));
    Extensions::from_vec(required.into_iter().chain(profile).collect()).unwrap()
}

#[test]
fn nothing_is_accepted_after_a_group_was_deleted() {
    let (mut group, mut people) = three();
    let mut profile = profile_of(&group);
    profile.deleted = true;
    group.commit(&mut people[0], &Change { profile: Some(profile.clone()), ..Change::default() });
    group.deliver(&mut people);
    profile.deleted = false;
    for change in [None, Some(profile)] {
        let forged = forge::commit(&people[0], id(1), true, |commit| match change {
            Some(profile) => commit.propose_group_context_extensions(profile.to_extensions().unwrap()).unwrap(),
            None => commit,
        });
        group.refuses(&mut people[1], &forged, "deleted");
    }
    let leave = people[1].run(|transaction, device| transaction.propose_leave(device, CONVERSATION, id(1)));
    assert!(leave.is_err());
    let mut lap = Person::with_device(BOB, 2);
    assert!(group.prepare_rejoin(&mut lap, id(1)).is_err());
    let forged = forge::external(&group, &lap.device, id(1), &[]);
    group.refuses(&mut people[0], &forged, "deleted");
}

#[test]
fn one_commit_adds_no_more_than_its_bound() {
    let (mut group, mut people) = three();
    let mut dave = Person::new(DAVE);
    let mut packages = Vec::new();
    for number in 0..=suite::MAX_ADDS as u128 {
        dave.device = crate::Device::issue(dave.identity, DAVE, id(number)).unwrap();
        packages.push((id(number), dave.key_package()));
    }
    let listed: Vec<_> = packages.iter().map(|(device, bytes)| (*device, bytes.as_slice())).collect();
    let add = PeerPackages { account: DAVE, identity: dave.identity.public(), packages: &listed };
    let refused = people[0].prepare(id(1), &Change { add: vec![add], ..Change::default() });
    assert!(matches!(refused, Err(CommitError::NotAllowed(Refusal::NotAllowed(_)))), "{refused:?}");
    let parsed = |(_, bytes): &(uuid::Uuid, Vec<u8>)| forge::parse_package(bytes);
    let all: Vec<_> = packages.iter().map(parsed).collect();
    let some = all[..=suite::MAX_ACCOUNT_LEAVES].to_vec();
    let forged = forge::add(&people[0], id(1), all, &[forge::join_key(&people[0])]);
    group.refuses(&mut people[1], &forged, "at most 250");
    let forged = forge::add(&people[0], id(1), some, &[forge::join_key(&people[0])]);
    group.refuses(&mut people[1], &forged, "full");
}
