//! What is SQLite's own: the suite on it, group commit, isolation of failing calls, files.

use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use super::{SqliteStore, database_path};
use crate::{Accounts, OpenError, Store, StoreError, conformance};

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
