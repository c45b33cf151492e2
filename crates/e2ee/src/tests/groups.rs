//! Groups on an honest server: everything that members do, with a restart before every call.
//!
//! **Invariant**: see [`super`] and [`super::world`].

use super::{
    people::{ALICE, ALICE_ROTATED, BOB, CAROL, CONVERSATION, DAVE, Person, id, identity_of},
    world::Group,
};
use crate::{Change, CommitError, Device, GroupProfile, PeerPackages, Processed, Refusal, SealError};

/// Alice (admin), bob and carol in a group, all at its epoch.
pub(super) fn three() -> (Group, [Person; 3]) {
    let mut people = [Person::new(ALICE), Person::new(BOB), Person::new(CAROL)];
    let group = Group::of(&mut people);
    (group, people)
}

pub(super) fn profile_of(group: &Group) -> GroupProfile {
    group.public.roster().unwrap().profile.unwrap()
}

#[test]
fn who_is_added_reads_what_is_said_afterwards_and_nothing_from_before() {
    let mut people = [Person::new(ALICE), Person::new(BOB)];
    let mut group = Group::create(&mut people[0]);
    group.say(&mut people[0], "alone");
    let [alice, bob] = &mut people;
    group.add(alice, bob);
    assert!(bob.try_open(&group.log[0]).is_err());
    group.say(alice, "welcome");
    group.say(bob, "thanks");
    assert_eq!(group.deliver_to(bob), ["welcome"]);
    assert_eq!(group.deliver_to(alice), ["thanks"]);
    group.converged(&mut people);
}

#[test]
fn several_accounts_and_devices_are_added_by_one_commit() {
    let (mut alice, mut bob, mut carol) = (Person::new(ALICE), Person::new(BOB), Person::new(CAROL));
    let mut lap = Person::with_device(BOB, 2);
    let mut group = Group::create(&mut alice);
    let (desks, laps, carols) = (bob.key_package(), lap.key_package(), carol.key_package());
    let (bobs, carols) = ([(id(1), &*desks), (id(2), &*laps)], [(id(1), &*carols)]);
    let packages =
        |account: &'static str, packages| PeerPackages { account, identity: identity_of(account).public(), packages };
    let change = Change { add: vec![packages(BOB, &bobs), packages(CAROL, &carols)], ..Change::default() };
    let (prepared, effect) = group.commit(&mut alice, &change);
    assert_eq!(effect.added.iter().map(|leaf| leaf.index).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(prepared.welcomes.len(), 3);
    for (joiner, welcome) in [&mut bob, &mut lap, &mut carol].into_iter().zip(&prepared.welcomes) {
        group.join(joiner, ALICE, welcome).unwrap();
    }
    group.say(&mut lap, "hi");
    let mut people = [alice, bob, carol, lap];
    group.deliver(&mut people);
    group.converged(&mut people);
}

#[test]
fn a_welcome_opens_for_its_own_device_alone() {
    let (mut alice, mut bob, mut carol) = (Person::new(ALICE), Person::new(BOB), Person::new(CAROL));
    let mut group = Group::create(&mut alice);
    let (bobs, carols) = (bob.key_package(), carol.key_package());
    let (bobs, carols) = ([(id(1), &*bobs)], [(id(1), &*carols)]);
    let add = vec![
        PeerPackages { account: BOB, identity: bob.identity.public(), packages: &bobs },
        PeerPackages { account: CAROL, identity: carol.identity.public(), packages: &carols },
    ];
    let (prepared, _) = group.commit(&mut alice, &Change { add, ..Change::default() });
    assert!(group.join(&mut carol, ALICE, &prepared.welcomes[0]).is_err());
    assert!(group.join(&mut bob, ALICE, &prepared.welcomes[1]).is_err());
    group.join(&mut bob, ALICE, &prepared.welcomes[0]).unwrap();
    group.join(&mut carol, ALICE, &prepared.welcomes[1]).unwrap();
}

#[test]
fn a_removed_account_goes_with_all_its_devices_and_the_others_talk_on() {
    let (mut group, mut people) = three();
    let change = Change { remove_accounts: vec![BOB.into()], ..Change::default() };
    let (_, effect) = group.commit(&mut people[0], &change);
    assert_eq!(effect.removed[0].account, BOB);
    group.say(&mut people[0], "without bob");
    let [alice, mut bob, carol] = people;
    let entry = group.log[group.log.len() - 2].clone();
    let Processed::Applied(applied) = bob.process(entry.message_id, &entry.payload).unwrap() else { panic!() };
    assert!(applied.self_removed && applied.roster == group.public.roster().unwrap());
    assert!(bob.store.rows.is_empty(), "nothing of the group is left");
    let mut rest = [alice, carol];
    group.deliver(&mut rest);
    group.converged(&mut rest);
}

#[test]
fn an_admin_renames_promotes_and_deletes() {
    let (mut group, mut people) = three();
    let mut profile = profile_of(&group);
    (profile.name, profile.topic) = ("ops team".into(), "what burns".into());
    profile.admins = vec![ALICE.into(), CAROL.into()];
    let change = Change { profile: Some(profile.clone()), ..Change::default() };
    let (_, effect) = group.commit(&mut people[0], &change);
    assert_eq!(effect.profile.as_ref(), Some(&profile));
    group.deliver(&mut people);
    profile.admins = vec![CAROL.into()];
    group.commit(&mut people[2], &Change { profile: Some(profile.clone()), ..Change::default() });
    group.deliver(&mut people);
    profile.deleted = true;
    group.commit(&mut people[2], &Change { profile: Some(profile), ..Change::default() });
    group.deliver(&mut people);
    group.converged(&mut people);
    assert!(matches!(people[0].try_seal("too late"), Err(SealError::Deleted)));
    let refused = people[2].prepare(id(1), &Change::default());
    assert!(matches!(refused, Err(CommitError::NotAllowed(_))), "{refused:?}");
}

#[test]
fn who_leaves_is_taken_out_by_the_next_commit_of_anybody() {
    let (mut group, mut people) = three();
    group.leave(&mut people[1]);
    group.deliver(&mut people);
    assert_eq!(group.public.roster().unwrap().leaving, [BOB]);
    assert!(matches!(people[0].try_seal("not now"), Err(SealError::Pending)));
    let (_, effect) = group.commit(&mut people[2], &Change::default());
    assert_eq!((effect.by.account.as_str(), effect.removed[0].account.as_str()), (CAROL, BOB));
    group.deliver(&mut people);
    let [alice, bob, carol] = people;
    assert!(bob.store.rows.is_empty());
    group.converged(&mut [alice, carol]);
}

#[test]
fn all_devices_of_who_leaves_are_taken_out() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(BOB, 2);
    group.rejoin(&mut lap);
    group.deliver(&mut people);
    group.leave(&mut lap);
    group.deliver(&mut people);
    let (_, effect) = group.commit(&mut people[2], &Change::default());
    assert_eq!(effect.removed.iter().map(|leaf| leaf.account.as_str()).collect::<Vec<_>>(), [BOB, BOB]);
    group.deliver(&mut people);
    group.deliver_to(&mut lap);
    assert!(lap.store.rows.is_empty() && people[1].store.rows.is_empty());
}

#[test]
fn an_admin_who_leaves_is_taken_out_of_the_profile_by_a_plain_member() {
    let (mut group, mut people) = three();
    let mut profile = profile_of(&group);
    profile.admins = vec![ALICE.into(), BOB.into()];
    group.commit(&mut people[0], &Change { profile: Some(profile), ..Change::default() });
    group.deliver(&mut people);
    group.leave(&mut people[0]);
    group.deliver(&mut people);
    group.commit(&mut people[2], &Change::default());
    group.deliver(&mut people);
    assert_eq!(profile_of(&group).admins, [BOB]);
}

#[test]
fn removing_an_admin_takes_it_out_of_the_profile() {
    let (mut group, mut people) = three();
    let mut profile = profile_of(&group);
    profile.admins = vec![ALICE.into(), BOB.into()];
    group.commit(&mut people[0], &Change { profile: Some(profile), ..Change::default() });
    group.deliver(&mut people);
    group.commit(&mut people[1], &Change { remove_accounts: vec![ALICE.into()], ..Change::default() });
    group.deliver(&mut people);
    assert_eq!(profile_of(&group).admins, [BOB]);
}

#[test]
fn a_new_device_of_a_member_comes_in_by_itself() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(BOB, 2);
    let effect = group.rejoin(&mut lap);
    assert!(effect.external && effect.removed.is_empty() && effect.added[0].device == id(2));
    group.deliver(&mut people);
    group.say(&mut lap, "from the laptop");
    assert_eq!(group.deliver_to(&mut people[1]), ["from the laptop"]);
    group.deliver(&mut people);
    let [alice, bob, carol] = people;
    group.converged(&mut [alice, bob, carol, lap]);
}

#[test]
fn a_device_that_lost_its_state_replaces_its_leaf() {
    let (mut group, mut people) = three();
    people[1].store = super::people::Map::default();
    let effect = group.rejoin(&mut people[1]);
    assert_eq!((effect.added.len(), effect.removed.len()), (1, 1));
    group.deliver(&mut people);
    group.say(&mut people[1], "back");
    group.deliver(&mut people);
    group.converged(&mut people);
}

#[test]
fn a_device_that_stayed_away_too_long_drops_what_it_had_and_comes_back() {
    let (mut group, mut people) = three();
    for _ in 0..10 {
        group.commit(&mut people[0], &Change::default());
    }
    people[2].cursor = group.log.len();
    group.rejoin(&mut people[2]);
    group.deliver(&mut people);
    group.converged(&mut people);
}

#[test]
fn an_external_commit_takes_in_who_leaves_with_an_only_device_and_lets_other_leaves_lapse() {
    let (mut group, mut people) = three();
    let mut dave = Person::new(DAVE);
    group.add(&mut people[0], &mut dave);
    group.deliver(&mut people);
    let mut lap = Person::with_device(BOB, 2);
    group.rejoin(&mut lap);
    group.deliver(&mut people);
    group.deliver_to(&mut dave);
    group.leave(&mut lap);
    group.deliver_to(&mut dave);
    group.leave(&mut dave);
    group.deliver(&mut people);
    let mut second = Person::with_device(CAROL, 2);
    let effect = group.rejoin(&mut second);
    assert_eq!(effect.removed.iter().map(|leaf| leaf.account.as_str()).collect::<Vec<_>>(), [DAVE]);
    group.deliver(&mut people);
    group.converged(&mut people);
    assert!(group.public.roster().unwrap().leaving.is_empty());
}

#[test]
fn an_account_adds_and_removes_its_own_devices() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(BOB, 2);
    group.add(&mut people[1], &mut lap);
    group.deliver(&mut people);
    group.commit(&mut people[1], &Change { remove_devices: vec![(BOB.into(), id(2))], ..Change::default() });
    group.deliver(&mut people);
    group.converged(&mut people);
    group.deliver_to(&mut lap);
    assert!(lap.store.rows.is_empty());
}

#[test]
fn a_rotated_identity_keeps_one_device_and_removes_the_accounts_others() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(ALICE, 2);
    group.rejoin(&mut lap);
    group.deliver(&mut people);
    let device = people[0].device.recertify(identity_of(ALICE_ROTATED)).unwrap();
    let (_, effect) = group.commit(&mut people[0], &Change { new_device: Some(&device), ..Change::default() });
    let (old, new) = effect.reidentified.unwrap();
    assert_eq!(old, identity_of(ALICE).public().to_der());
    assert_eq!(new, identity_of(ALICE_ROTATED).public().to_der());
    assert_eq!((effect.removed.len(), effect.removed[0].device), (1, id(2)));
    (people[0].device, people[0].identity) = (device, identity_of(ALICE_ROTATED));
    group.say(&mut people[0], "it is me");
    group.deliver(&mut people);
    group.converged(&mut people);
    let mut third = Person::with_device(ALICE, 3);
    assert!(group.prepare_rejoin(&mut third, id(1)).is_err(), "the old identity is out");
    third.device = Device::issue(identity_of(ALICE_ROTATED), ALICE, id(3)).unwrap();
    group.rejoin(&mut third);
}

#[test]
fn of_two_racing_commits_one_wins_and_the_loser_tries_again() {
    let (mut group, mut people) = three();
    let (first, second) = (id(0xE1), id(0xE2));
    let change = Change { remove_accounts: vec![CAROL.into()], ..Change::default() };
    let losing = people[0].prepare(first, &change).unwrap();
    let winning = people[1].prepare(second, &Change::default()).unwrap();
    assert!(matches!(people[0].try_seal("while pending"), Err(SealError::Pending)));
    assert!(matches!(people[0].prepare(id(3), &change), Err(CommitError::Pending)));
    group.accept(&mut people[1], second, &winning).unwrap();
    let late = group.public.commit(first, &losing.message, &losing.group_info);
    assert_eq!(late.unwrap_err(), fastchat_mls::HandshakeError::StaleEpoch { current: group.public.epoch() });
    group.deliver(&mut people);
    assert!(!people[0].run(|transaction, _| transaction.has_pending(CONVERSATION)).unwrap());
    group.commit(&mut people[0], &change);
    group.deliver(&mut people);
    let [alice, bob, _] = people;
    group.converged(&mut [alice, bob]);
}

#[test]
fn an_own_commit_that_comes_back_from_the_log_takes_effect() {
    let (mut group, mut people) = three();
    let message_id = group.next_id();
    let prepared = people[0].prepare(message_id, &Change::default()).unwrap();
    let effect = group.public.commit(message_id, &prepared.message, &prepared.group_info).unwrap();
    let Processed::Applied(applied) = people[0].process(message_id, &prepared.message).unwrap() else { panic!() };
    assert_eq!(applied.effect, effect);
    assert!(people[0].run(|transaction, _| transaction.merge_pending(CONVERSATION)).is_err());
}

#[test]
fn a_cleared_commit_leaves_the_group_as_it_was() {
    let (mut group, mut people) = three();
    people[0].prepare(id(1), &Change::default()).unwrap();
    people[0].run(|transaction, _| transaction.clear_pending(CONVERSATION)).unwrap();
    group.say(&mut people[0], "still here");
    group.deliver(&mut people);
    group.converged(&mut people);
}

#[test]
fn the_last_admin_neither_leaves_nor_steps_down() {
    let (group, mut people) = three();
    let alone =
        people[0].run(|transaction, device| transaction.propose_leave(device, CONVERSATION, id(1))).unwrap_err();
    assert!(matches!(alone, CommitError::NotAllowed(Refusal::NotAllowed(_))), "{alone:?}");
    let mut profile = profile_of(&group);
    profile.admins.clear();
    let refused = people[0].prepare(id(1), &Change { profile: Some(profile), ..Change::default() });
    assert!(matches!(refused, Err(CommitError::Profile(_))), "{refused:?}");
}
