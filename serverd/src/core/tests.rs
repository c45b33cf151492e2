//! Single rules of the core, step by step.

use bytes::Bytes;
use fastchat_store::{
    Append, AppendHandshake, Appended, DeviceChange, DeviceRecord, DeviceState, Entry, HandshakeAppended, Joining,
    Kind, Membership, NewEntry, NewHandshake, OtherDevice, Page, StoreError,
};
use fastchat_wire::{AccountName, Code, ConversationId, DeviceId, MessageId, v1::server_frame::Body};
use uuid::Uuid;

use super::{Action, Core, Event, SessionId, Settings};

const SETTINGS: Settings = Settings {
    window_entries: 3,
    window_bytes: 10_000,
    session_bytes: 40_000,
    page_bytes: 10_000,
    appends: 2,
    joinings: 4,
    cursor_wait_ms: 1_000,
    seed: 1,
};
const ALICE: SessionId = SessionId(1);
const BOB: SessionId = SessionId(2);

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

fn conversation() -> ConversationId {
    ConversationId(Uuid::from_u128(7))
}

fn device(session: SessionId) -> DeviceId {
    DeviceId(Uuid::from_u128(u128::from(session.0)))
}

fn membership(of: SessionId, cursor: u64, head: u64) -> Membership {
    let (account, other) = if of == ALICE { ("bob", BOB) } else { ("alice", ALICE) };
    let others = vec![OtherDevice { account: name(account), device: device(other), cursor: 0 }];
    Membership {
        conversation: conversation(),
        cursor,
        head,
        epoch: 1,
        closed: false,
        closed_by: None,
        ends_at: None,
        others,
        accounts: 2,
    }
}

fn open(core: &mut Core, session: SessionId, account: &str, cursor: u64, head: u64) -> Vec<Action> {
    let opened = core.step(0, Event::Opened { session, account: name(account), device: device(session) });
    assert!(matches!(&opened[..], [Action::ReadState { .. }]), "{opened:?}");
    let memberships = vec![membership(session, cursor, head)];
    let state = DeviceState { memberships, ..DeviceState::default() };
    core.step(0, Event::StateRead { session, state: Ok(Some(state)) })
}

fn both() -> Core {
    let mut core = Core::new(SETTINGS);
    assert!(open(&mut core, ALICE, "alice", 0, 0).is_empty());
    assert!(open(&mut core, BOB, "bob", 0, 0).is_empty());
    core
}

fn entry(seq: u64) -> Entry {
    Entry {
        seq,
        message_id: MessageId(Uuid::from_u128(u128::from(seq))),
        account: name("alice"),
        device: device(ALICE),
        epoch: 1,
        kind: Kind::Application,
        payload: Bytes::from_static(b"payload"),
        time_ms: 5,
    }
}

fn submit(number: u128) -> Event {
    let payload = Bytes::from_static(b"payload");
    let entries =
        vec![NewEntry { message_id: MessageId(Uuid::from_u128(number)), epoch: 1, kind: Kind::Application, payload }];
    let append =
        Append { conversation: conversation(), account: name("alice"), device: device(ALICE), entries, now_ms: 5 };
    Event::Submit { session: ALICE, request: 9, append }
}

fn committed(seq: u64) -> Event {
    let outcome = Ok(Appended::Accepted { seqs: vec![seq], time_ms: 5, new: vec![entry(seq)] });
    Event::Appended { session: ALICE, request: 9, conversation: conversation(), outcome }
}

fn sent(actions: &[Action], to: SessionId) -> Vec<&Body> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send(session, frame) if *session == to => frame.body.as_ref(),
            _ => None,
        })
        .collect()
}

#[test]
fn nothing_is_accepted_or_sent_before_the_commit() {
    let mut core = both();
    let before = core.step(1, submit(1));
    assert!(matches!(&before[..], [Action::Append { .. }]), "{before:?}");
    let after = core.step(2, committed(1));
    assert!(matches!(sent(&after, ALICE)[..], [Body::Accepted(_), Body::Deliver(_)]));
    assert!(matches!(sent(&after, BOB)[..], [Body::Deliver(_)]));
}

#[test]
fn an_unknown_outcome_is_not_answered() {
    let mut core = both();
    core.step(1, submit(1));
    let outcome = Err(StoreError::Fatal("fsync".into()));
    let event = Event::Appended { session: ALICE, request: 9, conversation: conversation(), outcome };
    assert!(core.step(2, event).is_empty());
    core.step(3, submit(1));
    let outcome = Err(StoreError::StorageFull);
    let event = Event::Appended { session: ALICE, request: 9, conversation: conversation(), outcome };
    let told = core.step(4, event);
    assert!(matches!(sent(&told, ALICE)[..], [Body::Failure(failure)] if failure.code() == Code::StorageFull));
}

#[test]
fn a_slow_device_stops_at_its_window_and_nothing_is_queued_for_it() {
    let mut core = both();
    for seq in 1..=5 {
        core.step(1, submit(u128::from(seq)));
        let actions = core.step(2, committed(seq));
        assert_eq!(sent(&actions, BOB).len(), usize::from(seq <= 3), "entry {seq}");
        assert!(!actions.iter().any(|action| matches!(action, Action::ReadPage { session: BOB, .. })));
    }
    assert_eq!(core.sessions[&BOB].under_way(conversation()).0, 3);
    let actions = core.step(3, Event::Ack { session: BOB, conversation: conversation(), seq: 3 });
    assert!(actions.iter().any(|action| matches!(action, Action::ReadPage { session: BOB, after: 3, .. })));
    let page = Page { entries: vec![entry(4), entry(5)], head: 5, expired_through: 0 };
    let actions = core.step(4, Event::PageRead { session: BOB, conversation: conversation(), page: Ok(page) });
    assert!(matches!(sent(&actions, BOB)[..], [Body::Deliver(deliver)] if deliver.entries.len() == 2));
    // From here on straight from memory again.
    core.step(5, submit(6));
    assert_eq!(sent(&core.step(6, committed(6)), BOB).len(), 1);
}

#[test]
fn who_comes_later_is_told_what_expired() {
    let mut core = Core::new(SETTINGS);
    let actions = open(&mut core, BOB, "bob", 0, 5);
    assert!(matches!(&actions[..], [Action::ReadPage { after: 0, .. }]), "{actions:?}");
    let page = Page { entries: vec![entry(5)], head: 5, expired_through: 4 };
    let actions = core.step(1, Event::PageRead { session: BOB, conversation: conversation(), page: Ok(page) });
    let [Body::Deliver(deliver)] = sent(&actions, BOB)[..] else { panic!("{actions:?}") };
    assert_eq!((deliver.expired_through, deliver.entries.len()), (4, 1));
}

#[test]
fn a_commit_during_the_first_look_is_not_missed() {
    let mut core = Core::new(SETTINGS);
    assert!(open(&mut core, ALICE, "alice", 0, 0).is_empty());
    core.step(0, Event::Opened { session: BOB, account: name("bob"), device: device(BOB) });
    core.step(1, submit(1));
    core.step(2, committed(1));
    // What the store said is older than the commit.
    let stale = DeviceState { memberships: vec![membership(BOB, 0, 0)], ..DeviceState::default() };
    let actions = core.step(3, Event::StateRead { session: BOB, state: Ok(Some(stale)) });
    assert!(actions.iter().any(|action| matches!(action, Action::ReadState { session: BOB, .. })), "{actions:?}");
    // Others here know of the commit already: it is fetched at once.
    assert!(actions.iter().any(|action| matches!(action, Action::ReadPage { session: BOB, after: 0, .. })));
}

#[test]
fn a_commit_that_nobody_here_saw_is_found_by_the_second_look() {
    let mut core = both();
    const SECOND: SessionId = SessionId(3);
    core.step(0, Event::Opened { session: SECOND, account: name("bob"), device: device(SECOND) });
    core.step(0, Event::Closed(ALICE));
    core.step(0, Event::Closed(BOB));
    core.step(1, committed(1));
    let state = |head| DeviceState { memberships: vec![membership(BOB, 0, head)], ..DeviceState::default() };
    let actions = core.step(2, Event::StateRead { session: SECOND, state: Ok(Some(state(0))) });
    assert!(matches!(&actions[..], [Action::ReadState { session: SECOND, .. }]), "{actions:?}");
    let actions = core.step(3, Event::StateRead { session: SECOND, state: Ok(Some(state(1))) });
    assert!(matches!(&actions[..], [Action::ReadPage { session: SECOND, after: 0, .. }]), "{actions:?}");
}

#[test]
fn cursors_are_written_together_and_with_the_next_commit() {
    let mut core = both();
    core.step(1, submit(1));
    core.step(2, committed(1));
    let actions = core.step(10, Event::Ack { session: BOB, conversation: conversation(), seq: 1 });
    assert!(matches!(sent(&actions, ALICE)[..], [Body::Delivered(delivered)] if delivered.seq == 1));
    assert!(!actions.iter().any(|action| matches!(action, Action::SaveCursors(_))));
    assert_eq!(core.due_ms(), Some(1_010));
    let actions = core.step(11, submit(2));
    assert!(matches!(&actions[..], [Action::Append { .. }, Action::SaveCursors(moves)] if moves.len() == 1));
    // A failed write is tried again, one at a time.
    core.step(12, Event::CursorsSaved { saved: false });
    let actions = core.step(2_000, Event::Timer);
    assert!(matches!(&actions[..], [Action::SaveCursors(moves)] if moves[0].seq == 1), "{actions:?}");
}

#[test]
fn a_removed_device_is_sent_away_and_the_other_side_told() {
    let mut core = both();
    let change = DeviceChange { account: name("bob"), removed: vec![device(BOB)], closed: vec![conversation()] };
    let actions = core.step(1, Event::DevicesChanged { change, by: None });
    assert!(matches!(&actions[0], Action::Close(BOB, _)));
    assert!(matches!(sent(&actions, ALICE)[..], [Body::Closed(closed)] if closed.by.is_empty()));
}

#[test]
fn a_drain_waits_for_what_is_being_committed() {
    let mut core = both();
    core.step(1, submit(1));
    let actions = core.step(2, Event::Drain);
    assert!(matches!(&actions[..], [Action::Close(BOB, _)]), "{actions:?}");
    let refused = core.step(3, submit(2));
    assert!(matches!(sent(&refused, ALICE)[..], [Body::Failure(failure)] if failure.code() == Code::ShuttingDown));
    let actions = core.step(4, committed(1));
    assert!(matches!(sent(&actions, ALICE)[..], [Body::Accepted(_), Body::Deliver(_)]));
    let closed = actions
        .iter()
        .any(|action| matches!(action, Action::Close(ALICE, last) if matches!(&last.body, Some(Body::Goaway(_)))));
    assert!(closed && core.sessions() == 0, "{actions:?}");
}

#[test]
fn too_many_submits_at_once_are_refused() {
    let mut core = both();
    core.step(1, submit(1));
    core.step(1, submit(2));
    let refused = core.step(1, submit(3));
    assert!(matches!(sent(&refused, ALICE)[..], [Body::Failure(failure)] if failure.code() == Code::Overloaded));
}

// ------------------------------------------------------------ handshakes and devices

/// What a commit by alice has brought about, at this seq.
#[test]
fn an_entry_of_an_epoch_that_is_not_known_yet_comes_from_the_store() {
    let mut core = both();
    // The report of the commit that led to epoch 2, and that may have removed bob, is late.
    let outcome = Appended::Accepted { seqs: vec![1], time_ms: 5, new: vec![Entry { epoch: 2, ..entry(1) }] };
    let event = Event::Appended { session: ALICE, request: 9, conversation: conversation(), outcome: Ok(outcome) };
    let actions = core.step(1, event);
    assert!(sent(&actions, BOB).is_empty(), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::ReadPage { session: BOB, .. })));
}

fn handshake(seq: u64) -> NewHandshake {
    NewHandshake {
        entry: Entry { kind: Kind::Commit, ..entry(seq) },
        own: None,
        joinings: Vec::new(),
        removed: Vec::new(),
        joined: Vec::new(),
        accounts: 2,
        deleted: false,
    }
}

fn handshake_done(new: NewHandshake) -> Event {
    let outcome = Ok(HandshakeAppended::Accepted { seq: new.entry.seq, time_ms: 5, new: Some(Box::new(new)) });
    Event::HandshakeAppended { session: ALICE, request: 9, conversation: conversation(), kind: Kind::Commit, outcome }
}

fn joining(of: SessionId, start_seq: u64) -> Joining {
    Joining {
        creator: name("alice"),
        creator_identity_key: Bytes::new(),
        peer: None,
        welcome: Bytes::new(),
        join_key: Bytes::new(),
        ratchet_tree: Bytes::new(),
        group: true,
        start_seq,
        replaces: None,
        time_ms: 5,
        membership: membership(of, start_seq, start_seq),
    }
}

#[test]
fn a_handshake_is_answered_in_the_order_of_the_commits_and_not_before() {
    let mut core = both();
    let append = AppendHandshake {
        conversation: conversation(),
        account: name("alice"),
        device: device(ALICE),
        entry: NewEntry {
            message_id: MessageId(Uuid::from_u128(1)),
            epoch: 1,
            kind: Kind::Commit,
            payload: Bytes::new(),
        },
        pending: 0,
        state: Bytes::new(),
        commit: None,
        now_ms: 5,
    };
    let event =
        |append: &AppendHandshake| Event::Handshake { session: ALICE, request: 9, append: Box::new(append.clone()) };
    let actions = core.step(1, event(&append));
    assert!(matches!(&actions[..], [Action::AppendHandshake { .. }]), "{actions:?}");
    core.step(1, event(&append));
    let refused = core.step(1, event(&append));
    assert!(matches!(sent(&refused, ALICE)[..], [Body::Failure(failure)] if failure.code() == Code::Overloaded));
    let actions = core.step(2, handshake_done(handshake(1)));
    assert!(matches!(sent(&actions, ALICE)[..], [Body::Accepted(_), Body::Deliver(_)]));
    assert!(matches!(sent(&actions, BOB)[..], [Body::Deliver(_)]));
    let stale = Ok(HandshakeAppended::StaleEpoch { current: 2 });
    let event = Event::HandshakeAppended {
        session: ALICE,
        request: 9,
        conversation: conversation(),
        kind: Kind::Commit,
        outcome: stale,
    };
    let actions = core.step(3, event);
    let [Body::Failure(failure)] = sent(&actions, ALICE)[..] else { panic!("{actions:?}") };
    assert_eq!((failure.code(), failure.epoch), (Code::StaleEpoch, 2));
}

#[test]
fn who_is_removed_gets_that_commit_then_closed_and_nothing_after() {
    let mut core = both();
    let actions = core.step(1, handshake_done(NewHandshake { removed: vec![device(BOB)], ..handshake(1) }));
    assert!(matches!(sent(&actions, BOB)[..], [Body::Deliver(_), Body::Closed(_)]), "{actions:?}");
    let actions = core.step(2, committed(2));
    assert!(sent(&actions, BOB).is_empty(), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::ReadPage { session: BOB, .. })));
    // Its Ack settles it: nothing of the conversation is left in the core.
    let actions = core.step(3, Event::Ack { session: BOB, conversation: conversation(), seq: 99 });
    assert!(sent(&actions, ALICE).is_empty(), "nobody needs to know how far it came");
    assert!(!core.sessions[&BOB].subscriptions.contains_key(&conversation()));
    let moved = core.take_cursors();
    assert_eq!(moved.iter().map(|moved| (moved.device, moved.seq)).collect::<Vec<_>>(), [(device(BOB), 1)]);
}

#[test]
fn who_was_removed_while_behind_is_brought_to_the_end_and_no_further() {
    let mut core = both();
    for seq in 1..=4 {
        core.step(1, committed(seq));
    }
    core.step(2, handshake_done(NewHandshake { removed: vec![device(BOB)], ..handshake(5) }));
    core.step(3, committed(6));
    let actions = core.step(4, Event::Ack { session: BOB, conversation: conversation(), seq: 3 });
    assert!(actions.iter().any(|action| matches!(action, Action::ReadPage { session: BOB, after: 3, .. })));
    let page = Page { entries: vec![entry(4), entry(5)], head: 5, expired_through: 0 };
    let actions = core.step(5, Event::PageRead { session: BOB, conversation: conversation(), page: Ok(page) });
    assert_eq!(sent(&actions, BOB).len(), 1);
    assert!(!actions.iter().any(|action| matches!(action, Action::ReadPage { session: BOB, .. })), "{actions:?}");
}

#[test]
fn who_comes_again_after_a_removal_begins_anew() {
    let mut core = both();
    core.step(1, handshake_done(NewHandshake { removed: vec![device(BOB)], ..handshake(1) }));
    core.step(2, committed(2));
    let joinings = vec![(device(BOB), joining(BOB, 3))];
    let actions = core.step(3, handshake_done(NewHandshake { joinings, ..handshake(3) }));
    assert!(matches!(sent(&actions, BOB)[..], [Body::Joining(_)]), "{actions:?}");
    let actions = core.step(4, committed(4));
    let [Body::Deliver(deliver)] = sent(&actions, BOB)[..] else { panic!("{actions:?}") };
    assert_eq!(deliver.entries[0].seq, 4);
}

#[test]
fn who_joins_by_itself_goes_on_from_its_own_commit() {
    let mut core = both();
    for seq in 1..=4 {
        core.step(1, committed(seq));
    }
    // Bob's window was full at 3; he has lost his state and joins again.
    let own = Entry { device: device(BOB), account: name("bob"), ..handshake(5).entry };
    let new = NewHandshake { entry: own, own: Some(membership(BOB, 4, 5)), ..handshake(5) };
    let actions = core.step(2, handshake_done(new));
    let [Body::Deliver(deliver)] = sent(&actions, BOB)[..] else { panic!("{actions:?}") };
    assert_eq!((deliver.entries[0].seq, deliver.entries[0].payload.len()), (5, 0));
    let actions = core.step(3, committed(6));
    assert_eq!(sent(&actions, BOB).len(), 1, "and with an empty window");
}

#[test]
fn other_devices_of_an_account_learn_that_they_could_join() {
    const SECOND: SessionId = SessionId(3);
    let mut core = both();
    core.step(0, Event::Opened { session: SECOND, account: name("bob"), device: device(SECOND) });
    core.step(0, Event::StateRead { session: SECOND, state: Ok(Some(DeviceState::default())) });
    let group = ConversationId(Uuid::from_u128(8));
    let mut of_bob = joining(BOB, 1);
    of_bob.membership.conversation = group;
    let new = NewHandshake { joined: vec![name("bob")], joinings: vec![(device(BOB), of_bob)], ..handshake(1) };
    let event = |new| {
        let Event::HandshakeAppended { session, request, kind, outcome, .. } = handshake_done(new) else {
            unreachable!("it is one")
        };
        Event::HandshakeAppended { session, request, conversation: group, kind, outcome }
    };
    let actions = core.step(1, event(new.clone()));
    assert!(matches!(sent(&actions, BOB)[..], [Body::Joining(_)]), "{actions:?}");
    assert!(matches!(sent(&actions, SECOND)[..], [Body::Unjoined(_)]), "{actions:?}");
    let actions = core.step(2, event(NewHandshake { joinings: Vec::new(), ..new }));
    assert!(sent(&actions, SECOND).is_empty(), "it knows");
}

#[test]
fn the_furthest_device_of_an_account_is_told_and_only_to_others() {
    const SECOND: SessionId = SessionId(3);
    let mut core = both();
    core.step(0, Event::Opened { session: SECOND, account: name("bob"), device: device(SECOND) });
    let memberships = vec![membership(BOB, 0, 0)];
    let state = DeviceState { memberships, ..DeviceState::default() };
    core.step(0, Event::StateRead { session: SECOND, state: Ok(Some(state)) });
    core.step(1, committed(1));
    core.step(1, committed(2));
    let mut ack = |session, seq| core.step(2, Event::Ack { session, conversation: conversation(), seq });
    let told = |actions: &[Action], to| sent(actions, to).len();
    let actions = ack(BOB, 2);
    assert_eq!((told(&actions, ALICE), told(&actions, SECOND)), (1, 0));
    let actions = ack(SECOND, 1);
    assert_eq!(told(&actions, ALICE), 0, "behind the other one");
    let actions = ack(ALICE, 2);
    assert_eq!((told(&actions, BOB), told(&actions, SECOND)), (1, 1));
}

#[test]
fn nobody_is_told_how_far_others_are_where_there_are_many() {
    let mut core = both();
    core.step(1, handshake_done(NewHandshake { accounts: 51, ..handshake(1) }));
    let actions = core.step(2, Event::Ack { session: BOB, conversation: conversation(), seq: 1 });
    assert!(sent(&actions, ALICE).is_empty(), "{actions:?}");
}

#[test]
fn a_list_of_devices_says_who_is_connected() {
    let mut core = both();
    let record = |session| DeviceRecord {
        device: device(session),
        name: "d".into(),
        certificate: Bytes::new(),
        added_ms: 1,
        seen_ms: 2,
    };
    let devices = vec![record(ALICE), record(SessionId(7))];
    let actions = core.step(1, Event::ListDevices { session: ALICE, request: 4, devices });
    let [Body::Devices(listed)] = sent(&actions, ALICE)[..] else { panic!("{actions:?}") };
    assert_eq!(listed.devices.iter().map(|info| info.connected).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_change_of_devices_is_told_to_the_accounts_others_and_not_to_who_did_it() {
    const SECOND: SessionId = SessionId(3);
    let mut core = both();
    core.step(0, Event::Opened { session: SECOND, account: name("bob"), device: device(SECOND) });
    let change = DeviceChange { account: name("bob"), removed: Vec::new(), closed: Vec::new() };
    let actions = core.step(1, Event::DevicesChanged { change, by: Some(device(BOB)) });
    assert!(matches!(sent(&actions, SECOND)[..], [Body::DevicesChanged(_)]));
    assert!(sent(&actions, BOB).is_empty() && sent(&actions, ALICE).is_empty());
}

#[test]
fn an_account_is_active_while_one_of_its_devices_is() {
    const SECOND: SessionId = SessionId(3);
    let mut core = both();
    core.step(0, Event::Opened { session: SECOND, account: name("bob"), device: device(SECOND) });
    let share = |session, other| Event::SharePresence { session, accounts: [name(other)].into() };
    core.step(1, share(ALICE, "bob"));
    let told = core.step(1, share(BOB, "alice"));
    assert_eq!((sent(&told, ALICE).len(), sent(&told, BOB).len()), (1, 1));
    let told = core.step(1, share(SECOND, "alice"));
    assert_eq!((sent(&told, ALICE).len(), sent(&told, SECOND).len()), (0, 1), "alice knows");
    let told = core.step(2, Event::Closed(BOB));
    assert!(sent(&told, ALICE).is_empty(), "the other one is still there");
    let told = core.step(3, Event::Closed(SECOND));
    assert!(matches!(sent(&told, ALICE)[..], [Body::Presence(presence)] if !presence.active), "{told:?}");
}

#[test]
fn joinings_that_are_not_taken_hold_up_only_those_of_their_creator() {
    let mut core = Core::new(Settings { joinings: 20, ..SETTINGS });
    open(&mut core, BOB, "bob", 0, 0);
    let group = |number: u64| ConversationId(Uuid::from_u128(100 + u128::from(number)));
    let invite = |core: &mut Core, creator: &str, number: u64| {
        let mut joining = joining(BOB, 1);
        joining.creator = name(creator);
        joining.membership.conversation = group(number);
        let new = NewHandshake { joinings: vec![(device(BOB), joining)], ..handshake(1) };
        let Event::HandshakeAppended { session, request, kind, outcome, .. } = handshake_done(new) else {
            unreachable!("it is one")
        };
        let event = Event::HandshakeAppended { session, request, conversation: group(number), kind, outcome };
        sent(&core.step(1, event), BOB).len()
    };
    for number in 0..8 {
        assert_eq!(invite(&mut core, "mallory", number), 1);
    }
    assert_eq!(invite(&mut core, "mallory", 8), 0, "one more waits in the store");
    assert_eq!(invite(&mut core, "carol", 9), 1, "others do not wait for it");
    let take = |core: &mut Core, number| {
        core.step(2, Event::Ack { session: BOB, conversation: group(number), seq: 1 });
        let actions = core.step(2, Event::CursorsSaved { saved: true });
        actions.iter().any(|action| matches!(action, Action::ReadState { .. }))
    };
    assert!(!take(&mut core, 9));
    assert_eq!([0, 1, 2].map(|number| take(&mut core, number)), [false; 3]);
    assert!(take(&mut core, 3), "half of them are taken: there is room for those that wait");
}
