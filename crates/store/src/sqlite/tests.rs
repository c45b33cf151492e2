//! What is SQLite's own: the suite on it, group commit, isolation of failing calls, files.

use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use super::{SqliteStore, database_path, key_packages, schema};
use crate::{
    Accounts, Append, Appended, Conversations, Cursors, Devices, Log, OpenError, Store, StoreError, TokenHash,
    conformance,
};

#[tokio::test]
async fn the_suite_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    conformance::run(&store).await.unwrap();
    store.shut_down().await.unwrap();
    assert_eq!(store.server_secret("x", [0; 32]).await, Err(StoreError::Closed));
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.server_secret("x", [1; 32]).await, Ok([1; 32]));
    store.shut_down().await.unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.server_secret("x", [2; 32]).await, Ok([1; 32]));
}

#[tokio::test]
async fn calls_that_wait_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    // Holds the writer until all others are queued.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let first = store.write(move |_| Ok(gate.recv().is_ok()));
    let calls: Vec<_> = (0..200).map(|_| store.server_secret("x", [1; 32])).collect();
    go.send(()).unwrap();
    assert!(first.await.unwrap());
    for call in calls {
        call.await.unwrap();
    }
    let (commits, calls) = store.commits_and_calls();
    assert_eq!(calls, 201);
    assert!(commits <= 3, "{commits} commits");
}

#[tokio::test]
async fn a_failing_call_does_not_harm_those_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let first = store.write(move |_| Ok(gate.recv().is_ok()));
    let before = store.server_secret("before", [1; 32]);
    let failing = store.write(|connection| {
        connection.execute("INSERT INTO secret VALUES ('half', x'00')", [])?;
        connection.execute("INSERT INTO secret VALUES ('half', x'00')", [])
    });
    let after = store.server_secret("after", [1; 32]);
    go.send(()).unwrap();
    assert_eq!((first.await, before.await, after.await), (Ok(true), Ok([1; 32]), Ok([1; 32])));
    assert!(matches!(failing.await, Err(StoreError::Internal(_))));
    let left = store.read(|connection| {
        connection.query_row("SELECT count(*) FROM secret WHERE name = 'half'", [], |row| row.get::<_, u32>(0))
    });
    assert_eq!(left.await, Ok(0));
}

#[tokio::test]
async fn a_full_disk_fails_the_batch_and_not_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let pages = |pages: u32| {
        move |connection: &Connection| {
            connection.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, u32>(0))
        }
    };
    // SQLite's own limit gives the same error as a full file system.
    let now = store.write(pages(1)).await.unwrap();
    let big = || {
        store.write(|connection| {
            connection.execute("INSERT INTO secret VALUES (hex(randomblob(8)), zeroblob(100000))", [])
        })
    };
    assert_eq!(big().await, Err(StoreError::StorageFull));
    store.write(pages(now + 1_000)).await.unwrap();
    assert_eq!(big().await, Ok(1));
}

#[tokio::test]
async fn one_server_at_a_time_and_commands_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(SqliteStore::open_beside(dir.path()), Err(OpenError::Missing(_))));
    let store = SqliteStore::open(dir.path()).unwrap();
    assert!(matches!(SqliteStore::open(dir.path()), Err(OpenError::InUse(_))));
    let beside = SqliteStore::open_beside(dir.path()).unwrap();
    assert_eq!(beside.server_secret("x", [1; 32]).await, Ok([1; 32]));
    assert_eq!(store.server_secret("x", [2; 32]).await, Ok([1; 32]));
    for name in [super::DATABASE, "server.db-wal", super::LOCK] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is for us alone");
    }
}

#[test]
fn a_newer_schema_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let path = database_path(dir.path());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(SqliteStore::open_beside(dir.path()), Err(OpenError::Newer { found: 99, .. })));
}

#[test]
fn a_file_that_is_no_database_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(database_path(dir.path()), "hello, this is not a database at all").unwrap();
    let error = SqliteStore::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("server.db"), "{error}");
}

/// What version 1 had of alice and bob, who have a conversation that bob has not joined yet.
const OF_VERSION_1: &str = "
INSERT INTO account VALUES ('alice', x'00', 8, 1, 1, 'hash', x'01', x'02', 5),
    ('bob', x'00', 8, 1, 1, 'hash', x'01', x'02', 5);
INSERT INTO device VALUES (x'000102030405060708090a0b0c0d0e0f', 'alice', zeroblob(32), x'03', 'laptop'),
    (x'100102030405060708090a0b0c0d0e0f', 'bob', zeroblob(32), x'03', 'laptop');
INSERT INTO token VALUES (zeroblob(32), x'000102030405060708090a0b0c0d0e0f', 1000);
INSERT INTO conversation (id, low, high, creator_device, epoch, head, created_ms)
    VALUES (x'f00102030405060708090a0b0c0d0e0f', 'alice', 'bob', x'000102030405060708090a0b0c0d0e0f', 1, 1, 5);
INSERT INTO member VALUES
    (x'f00102030405060708090a0b0c0d0e0f', x'000102030405060708090a0b0c0d0e0f', 'alice', 1),
    (x'f00102030405060708090a0b0c0d0e0f', x'100102030405060708090a0b0c0d0e0f', 'bob', 0);
INSERT INTO joining VALUES (x'100102030405060708090a0b0c0d0e0f', x'f00102030405060708090a0b0c0d0e0f', 'alice', x'01',
    x'04', x'05', 0, NULL, 6);
INSERT INTO entry VALUES (1, x'f00102030405060708090a0b0c0d0e0f', 1, x'e00102030405060708090a0b0c0d0e0f', 'alice',
    x'000102030405060708090a0b0c0d0e0f', 1, 1, x'aa', 7, 0);
";

#[tokio::test]
async fn what_the_first_version_kept_is_still_delivered_and_its_conversations_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = database_path(dir.path());
    let mut connection = Connection::open(&path).unwrap();
    schema::migrate_to_first(&mut connection, &path).unwrap();
    connection.execute_batch(OF_VERSION_1).unwrap();
    drop(connection);
    let store = SqliteStore::open(dir.path()).unwrap();
    let session = store.device_by_token(TokenHash([0; 32]), 1).await.unwrap().unwrap();
    assert_eq!(session.account.as_str(), "alice");
    let device = |first: u8| format!("{first:02x}010203-0405-0607-0809-0a0b0c0d0e0f").parse().unwrap();
    let state = store.device_state(device(0x10), 10).await.unwrap().unwrap();
    let [joining] = &state.joinings[..] else { panic!("{state:?}") };
    assert_eq!((&joining.join_key[..], joining.ratchet_tree.len(), joining.group), (&[5][..], 0, false));
    assert!(joining.membership.closed, "it has no public state");
    let conversation = joining.membership.conversation;
    let page =
        store.read_after(conversation, device(0x10), 0, crate::PageBounds { entries: 9, bytes: 99 }).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    let append =
        Append { conversation, account: session.account, device: session.device, entries: Vec::new(), now_ms: 1 };
    let entry = crate::NewEntry {
        message_id: fastchat_wire::MessageId::generate(),
        epoch: 1,
        kind: crate::Kind::Application,
        payload: "x".into(),
    };
    let refused = store.append(Append { entries: vec![entry], ..append }).await.unwrap();
    assert_eq!(refused, Appended::Closed { by: None });
    let moved = crate::CursorMove { conversation, device: device(0x10), seq: 1, joined: true };
    store.save_cursors(vec![moved]).await.unwrap();
    assert!(store.device_state(device(0x10), 10).await.unwrap().unwrap().joinings.is_empty());
}

#[tokio::test]
async fn no_tree_is_left_when_nobody_has_a_welcome_to_take() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    conformance::run(&store).await.unwrap();
    let orphans = store.read(|connection| {
        let sql = "SELECT count(*) FROM welcome_tree t WHERE NOT EXISTS (SELECT 1 FROM joining j
                   WHERE j.conversation = t.conversation AND j.tree_epoch = t.epoch)";
        connection.query_row(sql, [], |row| row.get::<_, u32>(0))
    });
    assert_eq!(orphans.await, Ok(0));
    let trees = store
        .read(|connection| connection.query_row("SELECT count(*) FROM welcome_tree", [], |row| row.get::<_, u32>(0)));
    assert!(trees.await.unwrap() > 0, "the suite leaves some that are waited for");
}

#[tokio::test]
async fn who_knows_whom_is_found_without_reading_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let plan = store.read(|connection| {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", key_packages::ACQUAINTED))?;
        let steps = statement.query_map(["a", "b"], |row| row.get::<_, String>("detail"))?;
        steps.collect::<Result<Vec<_>, _>>()
    });
    let plan = plan.await.unwrap();
    assert!(plan.iter().any(|step| step.starts_with("SEARCH conversation")), "{plan:?}");
    assert!(plan.iter().all(|step| !step.starts_with("SCAN")), "{plan:?}");
}
