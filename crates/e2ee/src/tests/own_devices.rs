//! Direct conversations with several devices on both sides, and an account's conversation with itself.
//!
//! **Invariant**: see [`super`].

use super::people::{ALICE, BOB, CONVERSATION, MALLORY, Person, friends, id, identity_of, text, tree_of};
use crate::{Applied, Change, CommitError, CreateError, Created, Join, JoinError, PeerPackages, Processed, Roster};
use fastchat_mls::{HandshakeError, PublicConversation};

fn create(
    creator: &mut Person,
    peer: &str,
    packages: &[(uuid::Uuid, &[u8])],
    own: &[(uuid::Uuid, &[u8])],
) -> Result<Created, CreateError> {
    let peer = PeerPackages { account: peer, identity: identity_of(peer).public(), packages };
    let identity = creator.identity;
    creator.run(|transaction, device| transaction.create_direct(identity, device, CONVERSATION, &peer, own))
}

fn join(joiner: &mut Person, adder: &str, created: &Created) -> Result<Roster, JoinError> {
    let welcome = created
        .welcomes
        .iter()
        .find(|welcome| (welcome.account.as_str(), welcome.device) == (joiner.account, joiner.device.id()))
        .unwrap();
    let join = Join {
        adder: (adder, identity_of(adder).public()),
        welcome: &welcome.welcome,
        join_key: &welcome.join_key,
        ratchet_tree: &tree_of(CONVERSATION, created),
        group: false,
    };
    let identity = joiner.identity;
    joiner.run(|transaction, device| transaction.join(identity, device, CONVERSATION, &join))
}

#[test]
fn all_devices_of_both_accounts_are_in_a_direct_conversation() {
    let (mut desk, mut lap) = (Person::new(ALICE), Person::with_device(ALICE, 2));
    let (mut bob, mut phone) = (Person::new(BOB), Person::with_device(BOB, 2));
    let packages = [lap.key_package(), bob.key_package(), phone.key_package()];
    let bobs = [(id(1), packages[1].as_slice()), (id(2), packages[2].as_slice())];
    let created = create(&mut desk, BOB, &bobs, &[(id(2), &packages[0])]).unwrap();
    assert_eq!(created.welcomes.len(), 3);
    for joiner in [&mut lap, &mut bob, &mut phone] {
        let roster = join(joiner, ALICE, &created).unwrap();
        assert_eq!(roster.leaves.len(), 4);
    }
    let sealed = lap.seal(id(1), "from the laptop");
    for reader in [&mut desk, &mut bob, &mut phone] {
        let opened = reader.open(id(1), &sealed.payload).unwrap();
        assert_eq!((opened.account.as_str(), opened.device, text(&opened)), (ALICE, id(2), "from the laptop"));
    }
}

#[test]
fn an_accounts_devices_have_a_conversation_of_their_own() {
    let (mut desk, mut lap) = (Person::new(ALICE), Person::with_device(ALICE, 2));
    let package = lap.key_package();
    let created = create(&mut desk, ALICE, &[(id(2), &package)], &[]).unwrap();
    let roster = join(&mut lap, ALICE, &created).unwrap();
    assert_eq!(roster.accounts(), [ALICE]);
    let sealed = desk.seal(id(1), "note");
    assert_eq!(text(&lap.open(id(1), &sealed.payload).unwrap()), "note");
}

#[test]
fn a_conversation_with_oneself_is_made_of_other_own_devices_alone() {
    let (mut desk, mut lap) = (Person::new(ALICE), Person::with_device(ALICE, 2));
    let (package, mine) = (lap.key_package(), desk.key_package());
    let twice = create(&mut desk, ALICE, &[(id(2), &package)], &[(id(2), &package)]);
    assert!(matches!(twice, Err(CreateError::Devices)));
    let with_itself = create(&mut desk, ALICE, &[(id(1), &mine)], &[]);
    assert!(matches!(with_itself, Err(CreateError::Devices)));
    let own_again = create(&mut desk, BOB, &[(id(9), &package)], &[(id(1), &mine)]);
    assert!(matches!(own_again, Err(CreateError::Devices)));
}

#[test]
fn an_own_device_that_the_server_made_up_is_refused() {
    let (mut desk, mut bob, mut server) = (Person::new(ALICE), Person::new(BOB), Person::new(MALLORY));
    server.device = crate::Device::issue(server.identity, ALICE, id(2)).unwrap();
    let (bobs, forged) = (bob.key_package(), server.key_package());
    let refused = create(&mut desk, BOB, &[(id(1), &bobs)], &[(id(2), &forged)]);
    assert!(matches!(refused, Err(CreateError::KeyPackage { device, .. }) if device == id(2)));
}

/// Alice and bob, with the server's view of their conversation.
fn followed() -> (Person, Person, PublicConversation) {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let created = alice.create(CONVERSATION, &mut bob);
    bob.join(CONVERSATION, ALICE, &created).unwrap();
    (alice, bob, PublicConversation::open(CONVERSATION, &created.group_info).unwrap())
}

#[test]
fn a_device_updates_its_keys_in_a_direct_conversation() {
    let (mut alice, mut bob, mut public) = followed();
    let prepared = alice.prepare(id(1), &Change::default()).unwrap();
    let effect = public.commit(id(1), &prepared.message, &prepared.group_info).unwrap();
    let Processed::Applied(Applied { effect: bobs, epoch, .. }) = bob.process(id(1), &prepared.message).unwrap() else {
        panic!("not applied")
    };
    assert_eq!((bobs, epoch), (effect, 2));
    alice.run(|transaction, _| transaction.merge_pending(CONVERSATION)).unwrap();
    let sealed = alice.seal(id(2), "healed");
    assert_eq!(text(&bob.open(id(2), &sealed.payload).unwrap()), "healed");
}

#[test]
fn the_members_of_a_direct_conversation_never_change() {
    let (mut alice, _, _) = followed();
    let mut third = Person::new(MALLORY);
    let package = third.key_package();
    let packages = [(id(1), package.as_slice())];
    let add = PeerPackages { account: MALLORY, identity: third.identity.public(), packages: &packages };
    let device = alice.device.recertify(identity_of(MALLORY)).unwrap();
    for change in [
        Change { add: vec![add], ..Change::default() },
        Change { remove_accounts: vec![BOB.into()], ..Change::default() },
        Change { new_device: Some(&device), ..Change::default() },
    ] {
        let refused = alice.prepare(id(1), &change);
        assert!(matches!(refused, Err(CommitError::NotAllowed(_))), "{refused:?}");
    }
    let leave = alice.run(|transaction, device| transaction.propose_leave(device, CONVERSATION, id(1)));
    assert!(matches!(leave, Err(CommitError::NotAllowed(_))));
}

#[test]
fn nobody_joins_a_direct_conversation_by_itself() {
    let (_, _, public) = followed();
    let (mut alice, mut bob) = friends();
    let group_info = alice.create(id(0xC1), &mut bob).group_info;
    let mut lap = Person::with_device(ALICE, 2);
    let tree = public.ratchet_tree().unwrap();
    let refused = lap.run(|transaction, device| transaction.rejoin(device, id(0xC1), id(1), &group_info, &tree, &[]));
    assert!(matches!(refused, Err(JoinError::OtherConversation)), "{refused:?}");
}

#[test]
fn the_server_opens_a_conversation_only_from_its_own_group_info_with_tree() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let created = alice.create(CONVERSATION, &mut bob);
    let refused = |conversation, bytes: &[u8]| PublicConversation::open(conversation, bytes).err().unwrap();
    assert!(matches!(refused(id(0xC1), &created.group_info), HandshakeError::GroupInfo(_)));
    assert!(matches!(refused(CONVERSATION, &[]), HandshakeError::GroupInfo(_)));
    for position in (0..created.group_info.len()).step_by(61) {
        let mut altered = created.group_info.clone();
        altered[position] ^= 1;
        assert!(PublicConversation::open(CONVERSATION, &altered).is_err(), "byte {position}");
    }
}
