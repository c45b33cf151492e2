//! Tests of the store on a real disk.

use fastchat_e2ee::StateStore;
use fastchat_ipc::{MessageKind, MessageState};
use fastchat_wire::MessageId;

use super::{rows::*, *};

const ROOT: [u8; 32] = [7; 32];

fn open(directory: &Path) -> Store {
    Store::open(directory, &ROOT, KeyStore::File).unwrap()
}

fn message(text: &str) -> MessageRow {
    MessageRow {
        id: MessageId::generate(),
        mine: false,
        from: None,
        held: false,
        sent_at_ms: 1,
        accepted_at_ms: 2,
        kind: MessageKind::Text,
        state: MessageState::Received,
        text: text.into(),
    }
}

fn event() -> EventRow {
    EventRow { at_ms: 1, account: "alice@h:1".into(), kind: r#"{"event":"chat_changed","chat":"x"}"#.into() }
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let row = message("hello");
    {
        let mut store = open(directory.path());
        let mut write = Write::default();
        write.message(1, 2, 3, &row).unwrap();
        write.settings(Settings { next_account: 9, ..Settings::default() });
        write.event(event());
        assert_eq!(store.commit(write).unwrap(), [1]);
        store.sync().unwrap();
    }
    let store = open(directory.path());
    assert_eq!(store.message(1, 2, 3).unwrap(), Some(row.clone()));
    assert_eq!(store.position_of(1, 2, row.id).unwrap(), Some(3));
    assert_eq!(store.tables().settings.next_account, 9);
    assert_eq!((store.tables().first_event, store.tables().next_event), (1, 2));
    assert_eq!(store.history(1, 2, u64::MAX, 10).unwrap(), [(3, row)]);
    assert_eq!(store.history(1, 2, 3, 10).unwrap(), []);
}

#[test]
fn a_long_value_is_kept_in_parts_and_leaves_none_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let parts = |store: &Store| store.tree.scan_prefix([place::PART]).count();
    for length in [100_000, 16_000, 60_000, 16_320, 16_321, 16_384, 64 * 1024, 10] {
        let row = message(&"x".repeat(length));
        let mut write = Write::default();
        // The same place twice in one batch: the later counts.
        write.message(1, 2, 3, &message(&"y".repeat(90_000))).unwrap();
        write.message(1, 2, 3, &row).unwrap();
        store.commit(write).unwrap();
        assert_eq!(store.message(1, 2, 3).unwrap(), Some(row.clone()), "{length}");
        assert_eq!(store.history(1, 2, u64::MAX, 1).unwrap(), [(3, row)]);
        assert!(store.tree.iter().values().all(|value| value.unwrap().len() <= 16 * 1024));
    }
    assert_eq!(parts(&store), 0);
    let mut write = Write::default();
    let row = message(&"x".repeat(100_000));
    write.message(1, 2, 3, &row).unwrap();
    store.commit(write).unwrap();
    assert!(parts(&store) > 0);
    let mut write = Write::default();
    write.remove_message(1, 2, 3, row.id);
    store.commit(write).unwrap();
    assert_eq!(parts(&store), 0);
}

#[test]
fn another_root_key_does_not_open_the_store() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    assert!(matches!(Store::open(directory.path(), &[8; 32], KeyStore::File), Err(StoreError::WrongKey)));
}

#[test]
fn no_text_and_no_name_stands_on_the_disk_in_clear() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut store = open(directory.path());
        let mut write = Write::default();
        write.message(1, 2, 3, &message("the canary sings")).unwrap();
        write.state(1, vec![(b"canary-key".to_vec(), Some(Zeroizing::new(b"canary-state".to_vec())))]);
        store.commit(write).unwrap();
        store.sync().unwrap();
    }
    let bytes = std::fs::read(directory.path().join("db")).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"canary"));
}

#[test]
fn a_long_state_record_grows_shrinks_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for length in [10, 8 * 1024 - 4, 8 * 1024, 50_000, 20_000, 0] {
        let value: Vec<u8> = (0..length).map(|i: usize| (i % 251) as u8).collect();
        let mut write = Write::default();
        write.state(4, vec![(b"tree".to_vec(), Some(Zeroizing::new(value.clone())))]);
        store.commit(write).unwrap();
        assert_eq!(store.state(4).read(b"tree").unwrap().map(|v| v.to_vec()), Some(value), "{length}");
        assert!(store.state(5).read(b"tree").unwrap().is_none());
    }
    let mut write = Write::default();
    write.state(4, vec![(b"tree".to_vec(), None)]);
    store.commit(write).unwrap();
    assert!(store.state(4).read(b"tree").unwrap().is_none());
}

#[test]
fn only_changed_blocks_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut value = vec![1_u8; 40_000];
    let mut write = Write::default();
    write.state(4, vec![(b"tree".to_vec(), Some(Zeroizing::new(value.clone())))]);
    store.commit(write).unwrap();
    value[20_000] = 2;
    let mut records = Vec::new();
    store.state_records(4, vec![(b"tree".to_vec(), Some(Zeroizing::new(value)))], &mut records).unwrap();
    assert_eq!(records.len(), 1);
}

#[test]
fn the_event_log_keeps_its_newest() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for _ in 0..(EVENTS_KEPT / 1000 + 2) {
        let mut write = Write::default();
        for _ in 0..1000 {
            write.event(event());
        }
        store.commit(write).unwrap();
    }
    let tables = store.tables();
    assert_eq!(tables.next_event - tables.first_event, EVENTS_KEPT);
    assert_eq!(store.events_after(0, 1).unwrap()[0].0, tables.first_event);
    assert_eq!(store.events_after(tables.next_event - 2, 10).unwrap().len(), 1);
}

#[test]
fn an_account_goes_without_its_neighbour() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for account in [1, 2] {
        let mut write = Write::default();
        write.message(account, 1, 1, &message("x")).unwrap();
        write.state(account, vec![(b"k".to_vec(), Some(Zeroizing::new(vec![1])))]);
        store.commit(write).unwrap();
    }
    store.forget_account(1).unwrap();
    assert!(store.message(1, 1, 1).unwrap().is_none() && store.state(1).read(b"k").unwrap().is_none());
    assert!(store.message(2, 1, 1).unwrap().is_some() && store.state(2).read(b"k").unwrap().is_some());
}
