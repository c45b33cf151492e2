//! The state between calls: failures of the store, and forgetting.
//!
//! **Invariant**: see [`super`].

use super::people::{ALICE, BOB, CONVERSATION, Map, Person, friends, id};
use crate::{Content, CreateError, JoinError, OpenError, PeerPackages, SealError, Transaction};

#[test]
fn a_store_that_fails_is_never_taken_for_a_bad_message() {
    let (mut alice, mut bob) = friends();
    let sealed = alice.seal(id(1), "x");
    bob.store.broken.set(true);
    assert!(matches!(bob.open(id(1), &sealed.payload), Err(OpenError::Store(_))));
    bob.store.broken.set(false);
    bob.open(id(1), &sealed.payload).unwrap();

    alice.store.broken.set(true);
    let content = Content::text(0, 1, "x");
    let failed = alice.run(|transaction, device| transaction.seal(device, CONVERSATION, id(2), &content));
    assert!(matches!(failed, Err(SealError::Store(_))));
    assert!(alice.run(|transaction, _| transaction.epoch(CONVERSATION)).is_err());
}

#[test]
fn a_store_that_fails_while_making_or_joining_is_named() {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let package = bob.key_package();
    let packages = [(id(1), package.as_slice())];
    let peer = PeerPackages { account: BOB, identity: bob.identity.public(), packages: &packages };
    alice.store.broken.set(true);
    let own = alice.identity;
    let failed = alice.run(|transaction, device| transaction.create_direct(own, device, CONVERSATION, &peer, &[]));
    assert!(matches!(failed, Err(CreateError::Store(_))));
    alice.store.broken.set(false);
    let created =
        alice.run(|transaction, device| transaction.create_direct(own, device, CONVERSATION, &peer, &[])).unwrap();
    bob.store.broken.set(true);
    let failed = bob.join(CONVERSATION, ALICE, &created);
    assert!(matches!(failed, Err(JoinError::Store(_))));
}

#[test]
fn a_damaged_record_is_a_failure_of_the_store() {
    let (mut alice, mut bob) = friends();
    let sealed = alice.seal(id(1), "x");
    for key in bob.store.rows.keys().cloned().collect::<Vec<_>>() {
        let mut damaged = Person { store: bob.store.clone(), ..Person::new(BOB) };
        damaged.store.rows.insert(key, vec![0xff]);
        let result = damaged.open(id(1), &sealed.payload);
        assert!(matches!(result, Ok(_) | Err(OpenError::Store(_))), "{result:?}");
    }
    bob.open(id(1), &sealed.payload).unwrap();
}

#[test]
fn forgetting_a_conversation_leaves_nothing_of_it() {
    let (mut alice, mut bob) = friends();
    alice.open(id(1), &bob.seal(id(1), "x").payload).unwrap();
    for person in [&mut alice, &mut bob] {
        person.run(|transaction, _| transaction.forget(CONVERSATION)).unwrap();
        assert!(person.store.rows.is_empty(), "{:?}", person.store.rows.keys().map(|key| key[0]).collect::<Vec<_>>());
        person.run(|transaction, _| transaction.forget(CONVERSATION)).unwrap();
    }
}

#[test]
fn a_failed_call_keeps_what_earlier_calls_of_the_transaction_did() {
    let (mut alice, bob) = friends();
    let (first, second) = (alice.seal(id(1), "1"), alice.seal(id(2), "2"));
    let mut transaction = Transaction::new(&bob.store);
    transaction.open(CONVERSATION, id(1), &first.payload).unwrap();
    transaction.open(CONVERSATION, id(1), &second.payload).unwrap_err();
    let mut with_failure = Map::default();
    with_failure.apply(transaction.into_changes());
    let mut transaction = Transaction::new(&bob.store);
    transaction.open(CONVERSATION, id(1), &first.payload).unwrap();
    let mut without = Map::default();
    without.apply(transaction.into_changes());
    assert_eq!(with_failure.rows, without.rows);
}
