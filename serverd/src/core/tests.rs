//! Single rules of the core, step by step.

use bytes::Bytes;
use fastchat_store::{
    Append, Appended, DeviceState, Entry, Kind, Membership, NewEntry, OtherDevice, Page, RemovedDevice, StoreError,
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
    Membership { conversation: conversation(), cursor, head, closed: false, closed_by: None, others }
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
    assert!(matches!(&actions[..], [Action::ReadState { session: BOB, .. }]), "{actions:?}");
    let fresh = DeviceState { memberships: vec![membership(BOB, 0, 1)], ..DeviceState::default() };
    let actions = core.step(4, Event::StateRead { session: BOB, state: Ok(Some(fresh)) });
    assert!(matches!(&actions[..], [Action::ReadPage { session: BOB, after: 0, .. }]), "{actions:?}");
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
    let removed = RemovedDevice { device: device(BOB), left: vec![conversation()] };
    let actions = core.step(1, Event::Removed(vec![removed]));
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
