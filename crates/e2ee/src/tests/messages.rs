//! Messages between two people, and what a server can do to them.
//!
//! **Invariant**: see [`super`].

use super::people::{ALICE, BOB, CONVERSATION, Person, friends, id, text};
use crate::{
    Body, Content, ContentError, MAX_TEXT_BYTES, OpenError, SealError, Sync, Text, Transaction,
    sync::{Chat, Contact, Kind, MAX_NAME_BYTES, ReadUpTo},
};
use uuid::Uuid;

#[test]
fn two_people_talk_both_ways_across_restarts() {
    let (mut alice, mut bob) = friends();
    for round in 0..5 {
        let there = alice.seal(id(round), &format!("hi {round}"));
        let opened = bob.open(id(round), &there.payload).unwrap();
        assert_eq!((opened.account.as_str(), opened.device), (ALICE, alice.device.id()));
        assert_eq!(text(&opened), format!("hi {round}"));
        assert_eq!((opened.content.counter, opened.content.sent_at_ms), (1, 1_700_000_000_000));
        let back = bob.seal(id(100 + round), "and back");
        assert_eq!(text(&alice.open(id(100 + round), &back.payload).unwrap()), "and back");
    }
}

#[test]
fn several_calls_in_one_transaction_build_on_each_other() {
    let (mut alice, mut bob) = friends();
    let payloads: Vec<_> = (0..3).map(|n| alice.seal(id(n), "x").payload).collect();
    let before = bob.store.rows.clone();
    let mut transaction = Transaction::new(&bob.store);
    for (n, payload) in (0..).zip(&payloads) {
        transaction.open(CONVERSATION, id(n), payload).unwrap();
        assert!(transaction.open(CONVERSATION, id(n), payload).is_err());
    }
    let changes = transaction.into_changes();
    assert_eq!(bob.store.rows, before, "nothing is written before the changes are applied");
    bob.store.apply(changes);
    assert!(matches!(bob.open(id(2), &payloads[2]), Err(OpenError::Replayed)));
}

#[test]
fn a_replayed_entry_is_refused() {
    let (mut alice, mut bob) = friends();
    let sealed = alice.seal(id(1), "once");
    bob.open(id(1), &sealed.payload).unwrap();
    assert!(matches!(bob.open(id(1), &sealed.payload), Err(OpenError::Replayed)));
}

#[test]
fn an_entry_that_was_passed_over_never_opens() {
    let (mut alice, mut bob) = friends();
    let (first, second, third) = (alice.seal(id(1), "1"), alice.seal(id(2), "2"), alice.seal(id(3), "3"));
    bob.open(id(2), &second.payload).unwrap();
    assert!(matches!(bob.open(id(1), &first.payload), Err(OpenError::Replayed)));
    assert_eq!(text(&bob.open(id(3), &third.payload).unwrap()), "3");
}

#[test]
fn a_dropped_entry_shows_as_a_gap_in_the_counters() {
    let (mut alice, mut bob) = friends();
    let mut seal = |n: u64| {
        let content = Content::text(0, n, "x");
        let message_id = id(n.into());
        alice.run(|transaction, device| transaction.seal(device, CONVERSATION, message_id, &content)).unwrap()
    };
    let (_dropped, second) = (seal(1), seal(2));
    assert_eq!(bob.open(id(2), &second.payload).unwrap().content.counter, 2);
}

#[test]
fn an_entry_with_any_byte_altered_is_refused_and_the_true_one_still_opens() {
    let (mut alice, mut bob) = friends();
    let sealed = alice.seal(id(1), "true");
    let before = bob.store.rows.clone();
    for position in 0..sealed.payload.len() {
        let mut altered = sealed.payload.clone();
        altered[position] ^= 1;
        assert!(bob.open(id(1), &altered).is_err(), "byte {position}");
    }
    assert_eq!(bob.store.rows, before);
    assert_eq!(text(&bob.open(id(1), &sealed.payload).unwrap()), "true");
}

#[test]
fn garbage_and_truncated_entries_are_refused() {
    let (mut alice, mut bob) = friends();
    let sealed = alice.seal(id(1), "x");
    for length in 0..sealed.payload.len() {
        assert!(bob.open(id(1), &sealed.payload[..length]).is_err(), "length {length}");
    }
    assert!(matches!(bob.open(id(1), &[sealed.payload.as_slice(), &[0]].concat()), Err(OpenError::Malformed)));
    assert!(matches!(bob.open(id(1), &vec![0; 1024 * 1024]), Err(OpenError::Malformed)));
    let package = alice.key_package();
    assert!(matches!(bob.open(id(1), &package), Err(OpenError::Malformed)));
}

#[test]
fn an_entry_under_another_message_id_is_refused() {
    let (mut alice, mut bob) = friends();
    let (first, second) = (alice.seal(id(1), "yes"), alice.seal(id(2), "no"));
    assert!(matches!(bob.open(id(2), &first.payload), Err(OpenError::OtherPlace)));
    assert!(matches!(bob.open(id(1), &second.payload), Err(OpenError::OtherPlace)));
    bob.open(id(1), &first.payload).unwrap();
    bob.open(id(2), &second.payload).unwrap();
}

#[test]
fn an_entry_of_another_conversation_is_refused() {
    let (mut alice, mut bob) = friends();
    let other = id(0xC1);
    let created = alice.create(other, &mut bob);
    bob.join(other, ALICE, &created).unwrap();
    let sealed = alice.seal(id(1), "x");
    let refused = bob.run(|transaction, _| transaction.open(other, id(1), &sealed.payload));
    assert!(matches!(refused, Err(OpenError::OtherPlace)));
    let nowhere = Person::new(BOB).open(id(1), &sealed.payload);
    assert!(matches!(nowhere, Err(OpenError::UnknownConversation)));
}

#[test]
fn a_reflected_entry_is_refused() {
    let (mut alice, _) = friends();
    let sealed = alice.seal(id(1), "mine");
    assert!(matches!(alice.open(id(1), &sealed.payload), Err(OpenError::OwnMessage)));
}

#[test]
fn an_entry_of_another_epoch_is_refused_by_name() {
    let (mut alice, mut bob) = friends();
    let mut sealed = alice.seal(id(1), "x");
    let group_id_end = 4 + 1 + 16; // version and wire format, length, group id
    sealed.payload[group_id_end + 7] = 9;
    let refused = bob.open(id(1), &sealed.payload);
    assert!(matches!(refused, Err(OpenError::WrongEpoch { current: 1, found: 9 })), "{refused:?}");
}

#[test]
fn an_opened_entry_names_the_identity_that_certified_its_sender() {
    let (mut alice, mut bob) = friends();
    let opened = bob.open(id(1), &alice.seal(id(1), "x").payload).unwrap();
    assert_eq!(opened.identity.fingerprint(), alice.identity.public().fingerprint());
}

#[test]
fn too_many_missing_entries_are_refused_by_name() {
    let (mut alice, mut bob) = friends();
    let content = Content::text(0, 1, "x");
    let mut transaction = Transaction::new(&alice.store);
    for _ in 0..2001 {
        transaction.seal(&alice.device, CONVERSATION, id(1), &content).unwrap();
    }
    let last = transaction.seal(&alice.device, CONVERSATION, id(1), &content).unwrap();
    assert!(matches!(bob.open(id(1), &last.payload), Err(OpenError::TooFarAhead)));
    let changes = transaction.into_changes();
    alice.store.apply(changes);
}

#[test]
fn an_old_snapshot_of_the_sender_is_detected_by_the_receiver() {
    let (mut alice, mut bob) = friends();
    let snapshot = alice.store.clone();
    bob.open(id(1), &alice.seal(id(1), "before").payload).unwrap();
    alice.store = snapshot;
    let again = alice.seal(id(2), "after the restore");
    assert!(matches!(bob.open(id(2), &again.payload), Err(OpenError::Replayed)));
}

#[test]
fn keys_of_opened_entries_are_gone_from_the_state() {
    let (mut alice, mut bob) = friends();
    let captured: Vec<_> = (0..3).map(|n| alice.seal(id(n), "x").payload).collect();
    for (n, payload) in (0..).zip(&captured) {
        bob.open(id(n), payload).unwrap();
    }
    let mut thief = Person { store: bob.store.clone(), ..bob };
    for (n, payload) in (0..).zip(&captured) {
        assert!(matches!(thief.open(id(n), payload), Err(OpenError::Replayed)));
    }
}

#[test]
fn short_messages_have_one_length() {
    let (mut alice, _) = friends();
    let short = alice.seal(id(1), "y").payload.len();
    assert_eq!(short, alice.seal(id(2), &"y".repeat(30)).payload.len());
    assert!(short > 128);
}

#[test]
fn another_device_does_not_seal_with_this_devices_state() {
    let (mut alice, _) = friends();
    let other = Person::with_device(ALICE, 2).device;
    let content = Content::text(0, 1, "x");
    let refused = alice.run(|transaction, _| transaction.seal(&other, CONVERSATION, id(1), &content));
    assert!(matches!(refused, Err(SealError::OtherDevice)));
    let nowhere = alice.run(|transaction, device| transaction.seal(device, id(0xCF), id(1), &content));
    assert!(matches!(nowhere, Err(SealError::UnknownConversation)));
}

#[test]
fn content_out_of_bounds_is_neither_sealed_nor_decoded() {
    let (mut alice, mut bob) = friends();
    let mut seal = |content: Content| {
        let result = alice.run(|transaction, device| transaction.seal(device, CONVERSATION, id(1), &content));
        result.map_err(|error| match error {
            SealError::Content(error) => error,
            other => panic!("{other}"),
        })
    };
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    assert_eq!(seal(Content::text(0, 1, &*long)), Err(ContentError::TextTooLong(MAX_TEXT_BYTES + 1)));
    assert_eq!(seal(Content::text(0, 0, "x")), Err(ContentError::NoCounter));
    assert_eq!(seal(Content { sent_at_ms: 0, counter: 1, body: None }), Err(ContentError::NoBody));
    let longest = seal(Content::text(0, 1, "x".repeat(MAX_TEXT_BYTES))).unwrap();
    assert_eq!(text(&bob.open(id(1), &longest.payload).unwrap()).len(), MAX_TEXT_BYTES);
    let hostile = prost::Message::encode_to_vec(&Content::text(0, 1, long));
    assert_eq!(Content::from_plaintext(&hostile), Err(ContentError::TextTooLong(MAX_TEXT_BYTES + 1)));
    assert_eq!(Content::from_plaintext(&[0xff]), Err(ContentError::Malformed));
}

#[test]
fn a_body_of_a_newer_version_opens_as_none() {
    let newer = [0x10, 0x01, 0xA2, 0x06, 0x01, 0x00]; // counter = 1, field 100 = one byte
    let content = Content::from_plaintext(&newer).unwrap();
    assert_eq!((content.counter, content.body), (1, None));
}

#[test]
fn content_has_its_known_bytes() {
    let body = Some(Body::Text(Text { text: "hi".into() }));
    let plaintext = Content { sent_at_ms: 1, counter: 2, body }.to_plaintext().unwrap();
    assert_eq!(*plaintext, [0x08, 1, 0x10, 2, 0x1A, 4, 0x0A, 2, b'h', b'i']);
}

#[test]
fn news_for_own_devices_have_their_known_bytes_and_come_back() {
    let sync = Sync::read_up_to(Chat::Direct("bob".into()), Uuid::from_bytes([7; 16]));
    let content = Content::sync(1, 2, sync);
    let plaintext = content.to_plaintext().unwrap();
    let expected =
        [&[0x08, 1, 0x10, 2, 0x22, 25, 0x0A, 23, 0x0A, 3, b'b', b'o', b'b', 0x1A, 16][..], &[7; 16]].concat();
    assert_eq!(*plaintext, expected);
    assert_eq!(Content::from_plaintext(&plaintext).unwrap(), content);
}

#[test]
fn news_out_of_their_bounds_are_refused() {
    let read = |chat, message| Sync { kind: Some(Kind::ReadUpTo(ReadUpTo { chat, message })) };
    let contact = |name: String, identity| Sync::contact(Contact { name, identity, ..Contact::default() });
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    for refused in [
        read(None, vec![0; 16]),
        read(Some(Chat::Direct(String::new())), vec![0; 16]),
        read(Some(Chat::Direct(long.clone())), vec![0; 16]),
        read(Some(Chat::Group(vec![0; 15])), vec![0; 16]),
        read(Some(Chat::Direct("bob".into())), vec![0; 17]),
        contact(long, Vec::new()),
        contact(String::new(), Vec::new()),
        contact("bob".into(), vec![0; 601]),
    ] {
        assert_eq!(Content::sync(0, 1, refused).validate(), Err(ContentError::Sync));
    }
    Content::sync(0, 1, contact("bob".into(), vec![0; 600])).validate().unwrap();
}
