//! A server, or somebody outside, that forges, replays and misplaces handshakes; and members who are no more.
//!
//! **Invariant**: see [`super`].

use fastchat_mls::HandshakeError;
use openmls::prelude::LeafNodeParameters;

use super::{
    forge,
    groups::three,
    people::{ALICE, BOB, CAROL, CONVERSATION, DAVE, MALLORY, Map, Person, id, identity_of},
    world::Group,
};
use crate::{Change, Device, JoinError, ProcessError, Processed, SealError};

#[test]
fn only_devices_of_members_join_by_themselves_and_only_under_their_identity() {
    let (mut group, mut people) = three();
    let stranger = Person::new(DAVE).device;
    group.refuses(&mut people[0], &forge::external(&group, &stranger, id(1), &[]), "only a device of a member");
    let imposter = Device::issue(identity_of(MALLORY), BOB, id(2)).unwrap();
    group.refuses(&mut people[0], &forge::external(&group, &imposter, id(1), &[]), "another identity");
    let ghost = Device::issue(identity_of(BOB), BOB, id(1)).unwrap();
    group.refuses(&mut people[0], &forge::external(&group, &ghost, id(1), &[]), "twice");
    for device in [stranger, imposter, ghost] {
        let mut person = Person::new(BOB);
        person.device = device;
        assert!(group.prepare_rejoin(&mut person, id(1)).is_err());
    }
}

#[test]
fn an_external_joiner_whose_identity_did_not_sign_gets_past_no_member() {
    let (group, mut people) = three();
    let device = forge::forged_device(BOB, id(2), MALLORY);
    let forged = forge::external(&group, &device, id(1), &[]);
    for member in &mut people {
        assert!(matches!(member.process(id(1), &forged.message), Err(ProcessError::Certificate(_))));
    }
}

#[test]
fn an_account_that_leaves_does_not_come_back_in_by_itself() {
    let (mut group, mut people) = three();
    group.leave(&mut people[1]);
    group.deliver(&mut people);
    let lap = Device::issue(identity_of(BOB), BOB, id(2)).unwrap();
    group.refuses(&mut people[0], &forge::external(&group, &lap, id(1), &[]), "leaves the group");
    let mut person = Person::with_device(BOB, 2);
    assert!(matches!(group.prepare_rejoin(&mut person, id(1)), Err(JoinError::NotAllowed(_))));
}

#[test]
fn an_external_commit_takes_exactly_the_leaves_in_that_it_must() {
    let (mut group, mut people) = three();
    group.leave(&mut people[1]);
    group.deliver(&mut people);
    let lap = Person::with_device(CAROL, 2).device;
    let without = forge::external(&group, &lap, id(1), &[]);
    group.refuses(&mut people[0], &without, "does not take that in");
}

#[test]
fn a_commit_that_leaves_a_leaver_in_is_refused() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(BOB, 2);
    group.rejoin(&mut lap);
    group.deliver(&mut people);
    group.leave(&mut lap);
    group.deliver(&mut people);
    let without = forge::commit(&people[2], id(1), false, |commit| commit);
    group.refuses(&mut people[0], &without, "does not take that in");
    let by_half = forge::commit(&people[2], id(1), true, |commit| commit);
    group.refuses(&mut people[0], &by_half, "does not take that in");
    let other = forge::leaf(&group, BOB, id(1));
    let whole = forge::commit(&people[2], id(1), true, |commit| commit.propose_removals([other]));
    group.public.commit(id(1), &whole.message, &whole.group_info).unwrap();
    people[0].process(id(1), &whole.message).unwrap();
}

#[test]
fn who_leaves_commits_no_more() {
    let (mut group, mut people) = three();
    let mut lap = Person::with_device(BOB, 2);
    group.rejoin(&mut lap);
    group.deliver(&mut people);
    group.leave(&mut lap);
    group.deliver(&mut people);
    let forged = forge::commit(&people[1], id(1), true, |commit| commit);
    group.refuses(&mut people[0], &forged, "commits no more");
}

fn leave_is_refused(group: &mut Group, member: &mut Person, forged: &forge::Forged) -> (HandshakeError, ProcessError) {
    let before = group.public.to_bytes().unwrap();
    let server = group.public.proposal(forged.message_id, &forged.message).unwrap_err();
    assert!(group.public.to_bytes().unwrap() == before);
    (server, member.process(forged.message_id, &forged.message).unwrap_err())
}

#[test]
fn proposals_other_than_to_leave_are_refused() {
    let (mut group, mut people) = three();
    let carol = forge::leaf(&group, CAROL, id(1));
    let bob = people[1].device.signer().clone();
    let removal = forge::proposal(&people[1], id(1), |provider, group| {
        group.propose_remove_member(provider, &bob, carol).unwrap().0
    });
    let update = forge::proposal(&people[1], id(1), |provider, group| {
        group.propose_self_update(provider, &bob, LeafNodeParameters::default()).unwrap().0
    });
    for forged in [removal, update] {
        let refused = leave_is_refused(&mut group, &mut people[0], &forged);
        assert!(matches!(refused, (HandshakeError::NotAllowed(_), ProcessError::NotAllowed(_))), "{refused:?}");
    }
}

#[test]
fn a_leave_is_forged_replayed_or_misplaced_by_nobody() {
    let (mut group, mut people) = three();
    let (_, leave) =
        people[1].run(|transaction, device| transaction.propose_leave(device, CONVERSATION, id(1))).unwrap();
    let forged =
        |message_id, message: &[u8]| forge::Forged { message_id, message: message.to_vec(), group_info: Vec::new() };
    let refused = leave_is_refused(&mut group, &mut people[0], &forged(id(2), &leave));
    assert!(matches!(refused, (HandshakeError::Invalid(_), ProcessError::OtherPlace)), "{refused:?}");
    // The sender's leaf follows version, wire format, group id, epoch and sender type.
    let mut of_carol = leave.clone();
    let sender = 2 + 2 + 1 + 16 + 8 + 1;
    assert_eq!(of_carol[sender..sender + 4], [0, 0, 0, 1]);
    of_carol[sender + 3] = 2;
    let refused = leave_is_refused(&mut group, &mut people[0], &forged(id(1), &of_carol));
    assert!(matches!(refused, (HandshakeError::Invalid(_), ProcessError::Invalid(_))), "{refused:?}");
    group.public.proposal(id(1), &leave).unwrap();
    people[0].process(id(1), &leave).unwrap();
    let refused = leave_is_refused(&mut group, &mut people[0], &forged(id(1), &leave));
    assert!(matches!(refused, (HandshakeError::NotAllowed(_), ProcessError::NotAllowed(_))), "{refused:?}");
    assert_eq!(group.public.proposals(), [leave]);
}

#[test]
fn the_last_admins_leave_is_refused_by_all() {
    let (mut group, mut people) = three();
    let alice = people[0].device.signer().clone();
    let forged = forge::proposal(&people[0], id(1), |provider, group| {
        group.leave_group_via_self_remove(provider, &alice).unwrap()
    });
    let refused = leave_is_refused(&mut group, &mut people[1], &forged);
    assert!(matches!(refused, (HandshakeError::NotAllowed(_), ProcessError::NotAllowed(_))), "{refused:?}");
}

#[test]
fn of_two_admins_one_stays() {
    let (mut group, mut people) = three();
    let mut profile = super::groups::profile_of(&group);
    profile.admins = vec![ALICE.into(), BOB.into()];
    group.commit(&mut people[0], &Change { profile: Some(profile), ..Change::default() });
    group.deliver(&mut people);
    group.leave(&mut people[0]);
    group.deliver(&mut people);
    let second = people[1].run(|transaction, device| transaction.propose_leave(device, CONVERSATION, id(1)));
    assert!(second.is_err());
}

#[test]
fn a_replayed_commit_is_refused_by_its_epoch() {
    let (mut group, mut people) = three();
    let (prepared, _) = group.commit(&mut people[0], &Change::default());
    group.deliver(&mut people);
    let entry = group.log.last().unwrap().clone();
    let again = group.public.commit(entry.message_id, &prepared.message, &prepared.group_info);
    assert_eq!(again.unwrap_err(), HandshakeError::StaleEpoch { current: 4 - 1 });
    for person in &mut people {
        let refused = person.process(entry.message_id, &entry.payload);
        assert!(matches!(refused, Err(ProcessError::WrongEpoch { current: 3, found: 2 })), "{refused:?}");
    }
}

#[test]
fn a_commit_of_another_conversation_or_under_another_id_is_refused() {
    let (mut group, mut people) = three();
    let mut elsewhere = [Person::new(ALICE), Person::new(BOB)];
    let other = Group::of(&mut elsewhere);
    let prepared = people[0].prepare(id(1), &Change::default()).unwrap();
    let refused = people[1].process(id(2), &prepared.message);
    assert!(matches!(refused, Err(ProcessError::OtherPlace)), "{refused:?}");
    let refused = group.public.commit(id(2), &prepared.message, &prepared.group_info);
    assert!(matches!(refused, Err(HandshakeError::Invalid(_))), "{refused:?}");
    let moved = people[1].run(|transaction, _| transaction.process(id(0xC1), id(1), &prepared.message));
    assert!(matches!(moved, Err(ProcessError::OtherPlace)));
    // Same ids, other group: the tags do not fit.
    drop(other);
    let foreign = elsewhere[0].prepare(id(1), &Change::default()).unwrap();
    assert!(people[1].process(id(1), &foreign.message).is_err());
}

#[test]
fn no_altered_commit_is_applied_and_the_true_one_still_is() {
    let (group, mut people) = three();
    let prepared = people[0].prepare(id(1), &Change::default()).unwrap();
    let before = people[1].store.rows.clone();
    for position in (0..prepared.message.len()).step_by(29).chain(prepared.message.len() - 120..prepared.message.len())
    {
        let mut altered = prepared.message.clone();
        altered[position] ^= 1;
        assert!(people[1].process(id(1), &altered).is_err(), "byte {position}");
        assert!(people[1].process(id(1), &prepared.message[..position]).is_err(), "cut at {position}");
    }
    assert_eq!(people[1].store.rows, before);
    people[1].process(id(1), &prepared.message).unwrap();
    drop(group);
}

#[test]
fn a_group_info_that_is_not_the_commits_is_refused() {
    let (mut group, mut people) = three();
    let of_before = group.group_info.clone();
    let prepared = people[0].prepare(id(1), &Change::default()).unwrap();
    let of_other = people[1].prepare(id(1), &Change::default()).unwrap().group_info;
    let with_tree = {
        let mut creator = Person::new(ALICE);
        let profile = crate::GroupProfile::new("x", "", ALICE);
        creator.run(|transaction, device| transaction.create_group(device, CONVERSATION, &profile)).unwrap().group_info
    };
    let before = group.public.to_bytes().unwrap();
    let mut refused = |bytes: &[u8]| {
        let result = group.public.commit(id(1), &prepared.message, bytes);
        assert!(matches!(result, Err(HandshakeError::GroupInfo(_))), "{result:?}");
        assert!(group.public.to_bytes().unwrap() == before);
    };
    for bytes in [&[][..], &of_before, &of_other, &with_tree, &prepared.message] {
        refused(bytes);
    }
    for position in 0..prepared.group_info.len() {
        let mut altered = prepared.group_info.clone();
        altered[position] ^= 1;
        refused(&altered);
    }
    group.public.commit(id(1), &prepared.message, &prepared.group_info).unwrap();
}

#[test]
fn a_commit_whose_secrets_lie_shuts_nobody_out_for_long() {
    let (mut group, mut people) = three();
    let message_id = group.next_id();
    let mut prepared = people[2].prepare(message_id, &Change::default()).unwrap();
    // The membership tag comes last; the server cannot check it.
    *prepared.message.last_mut().unwrap() ^= 1;
    group.accept(&mut people[2], message_id, &prepared).unwrap();
    for person in &mut people[..2] {
        assert!(matches!(person.process(message_id, &prepared.message), Err(ProcessError::Invalid(_))));
    }
    let [alice, bob, carol] = &mut people;
    group.rejoin(alice);
    group.rejoin(bob);
    group.deliver_to(alice);
    group.deliver_to(carol);
    group.say(alice, "all here");
    assert_eq!(group.deliver_to(bob), ["all here"]);
    group.deliver(&mut people);
    group.converged(&mut people);
    group.commit(&mut people[0], &Change { remove_accounts: vec![CAROL.into()], ..Change::default() });
}

#[test]
fn a_removed_member_opens_nothing_later_with_any_state_it_ever_had() {
    let (mut group, mut people) = three();
    let mut snapshots = vec![people[1].store.clone()];
    group.say(&mut people[0], "seen");
    group.commit(&mut people[2], &Change::default());
    group.deliver(&mut people);
    snapshots.push(people[1].store.clone());
    people[1].prepare(id(1), &Change::default()).unwrap();
    snapshots.push(people[1].store.clone());
    people[1].run(|transaction, _| transaction.clear_pending(CONVERSATION)).unwrap();
    group.commit(&mut people[0], &Change { remove_accounts: vec![BOB.into()], ..Change::default() });
    let removal = group.log.len() - 1;
    group.say(&mut people[0], "without bob");
    group.commit(&mut people[0], &Change::default());
    group.say(&mut people[0], "still without bob");
    let bob = &mut people[1];
    for snapshot in snapshots {
        for ignores_removal in [true, false] {
            let mut thief =
                Person { store: snapshot.clone(), device: bob.device.recertify(bob.identity).unwrap(), ..*bob };
            for entry in &group.log[removal..] {
                if ignores_removal && entry.message_id == group.log[removal].message_id {
                    continue;
                }
                if entry.application {
                    assert!(thief.try_open(entry).is_err(), "opened with an old state");
                } else if let Ok(Processed::Applied(applied)) = thief.process(entry.message_id, &entry.payload) {
                    assert!(applied.self_removed);
                }
            }
        }
    }
}

#[test]
fn a_removed_member_cannot_come_back_or_commit() {
    let (mut group, mut people) = three();
    let [alice, bob, carol] = &mut people;
    let late = forge::commit(bob, id(1), true, |commit| commit);
    group.commit(alice, &Change { remove_accounts: vec![BOB.into()], ..Change::default() });
    group.deliver_to(carol);
    let stale = group.public.commit(id(1), &late.message, &late.group_info);
    assert!(matches!(stale, Err(HandshakeError::StaleEpoch { .. })));
    assert!(matches!(carol.process(id(1), &late.message), Err(ProcessError::WrongEpoch { .. })));
    assert!(matches!(group.prepare_rejoin(bob, id(1)), Err(JoinError::NotAllowed(_))));
    group.refuses(carol, &forge::external(&group, &bob.device, id(1), &[]), "only a device of a member");
}

#[test]
fn a_rolled_back_state_commits_and_says_nothing_that_is_accepted() {
    let (mut group, mut people) = three();
    let old = people[1].store.clone();
    group.commit(&mut people[0], &Change::default());
    group.deliver(&mut people);
    people[1].store = old;
    let stale = people[1].prepare(id(1), &Change::default()).unwrap();
    let refused = group.public.commit(id(1), &stale.message, &stale.group_info);
    assert_eq!(refused.unwrap_err(), HandshakeError::StaleEpoch { current: 3 });
    people[1].run(|transaction, _| transaction.clear_pending(CONVERSATION)).unwrap();
    assert_eq!(people[1].try_seal("late").unwrap().epoch, 2);
    people[1].cursor = group.log.len() - 1;
    group.deliver(&mut people);
    group.converged(&mut people);
}

#[test]
fn a_welcome_of_somebody_who_is_no_admin_or_not_who_it_says_is_refused() {
    let (mut group, mut people) = three();
    let mut dave = Person::new(DAVE);
    let package = dave.key_package();
    let packages = [(id(1), package.as_slice())];
    let add = crate::PeerPackages { account: DAVE, identity: dave.identity.public(), packages: &packages };
    let (prepared, _) = group.commit(&mut people[0], &Change { add: vec![add], ..Change::default() });
    let welcome = &prepared.welcomes[0];
    let as_bob = group.join(&mut dave, BOB, welcome);
    assert!(matches!(as_bob, Err(JoinError::SharedKey(_))), "{as_bob:?}");
    let mut misplaced = welcome.clone();
    let key = forge::join_key(&people[0]);
    misplaced.join_key = key.wrap(identity_of(ALICE), dave.identity.public()).unwrap();
    assert!(group.join(&mut dave, ALICE, &misplaced).is_err(), "the join key of another epoch");
    for position in (0..welcome.welcome.len()).step_by(113) {
        let mut altered = welcome.clone();
        altered.welcome[position] ^= 1;
        assert!(group.join(&mut dave, ALICE, &altered).is_err(), "byte {position}");
    }
    group.join(&mut dave, ALICE, welcome).unwrap();
}

#[test]
fn a_tree_that_is_not_the_welcomes_is_refused() {
    let (mut group, mut people) = three();
    let mut dave = Person::new(DAVE);
    let package = dave.key_package();
    let packages = [(id(1), package.as_slice())];
    let add = crate::PeerPackages { account: DAVE, identity: dave.identity.public(), packages: &packages };
    let (prepared, _) = group.commit(&mut people[0], &Change { add: vec![add], ..Change::default() });
    let of_its_epoch = group.public.to_bytes().unwrap();
    group.commit(&mut people[0], &Change::default());
    assert!(group.join(&mut dave, ALICE, &prepared.welcomes[0]).is_err());
    group.public = fastchat_mls::PublicConversation::from_bytes(&of_its_epoch).unwrap();
    group.join(&mut dave, ALICE, &prepared.welcomes[0]).unwrap();
}

#[test]
fn while_a_rejoin_is_on_its_way_nothing_is_said_and_forgetting_it_leaves_nothing() {
    let (group, mut people) = three();
    people[1].store = Map::default();
    group.prepare_rejoin(&mut people[1], id(1)).unwrap();
    assert!(matches!(people[1].try_seal("not yet"), Err(SealError::Pending)));
    assert!(people[1].run(|transaction, _| transaction.has_pending(CONVERSATION)).unwrap());
    assert!(people[1].prepare(id(2), &Change::default()).is_err());
    people[1].run(|transaction, _| transaction.forget(CONVERSATION)).unwrap();
    assert!(people[1].store.rows.is_empty());
}

#[test]
fn a_device_does_not_go_back_to_a_group_older_than_what_it_has() {
    let (mut group, mut people) = three();
    let (old, group_info) = (group.public.to_bytes().unwrap(), group.group_info.clone());
    group.commit(&mut people[0], &Change::default());
    group.deliver(&mut people);
    group.public = fastchat_mls::PublicConversation::from_bytes(&old).unwrap();
    group.group_info = group_info;
    let refused = group.prepare_rejoin(&mut people[1], id(1));
    assert!(matches!(refused, Err(JoinError::Older { had: 3, offered: 2 })), "{refused:?}");
    people[1].run(|transaction, _| transaction.forget(CONVERSATION)).unwrap();
    group.prepare_rejoin(&mut people[1], id(1)).unwrap();
    group.prepare_rejoin(&mut people[1], id(2)).unwrap();
}

#[test]
fn no_altered_commit_gets_past_the_server_but_in_the_tag_that_only_members_can_check() {
    let (group, mut people) = three();
    let prepared = people[0].prepare(id(1), &Change::default()).unwrap();
    let state = group.public.to_bytes().unwrap();
    // A membership tag of 48 bytes and its length come last.
    let tag = prepared.message.len() - 49;
    for position in (0..tag).step_by(23).chain(tag - 120..tag) {
        let mut altered = prepared.message.clone();
        altered[position] ^= 1;
        let mut public = fastchat_mls::PublicConversation::from_bytes(&state).unwrap();
        assert!(public.commit(id(1), &altered, &prepared.group_info).is_err(), "byte {position}");
        assert!(public.to_bytes().unwrap() == state);
        assert!(public.commit(id(1), &prepared.message[..position], &prepared.group_info).is_err());
    }
}
