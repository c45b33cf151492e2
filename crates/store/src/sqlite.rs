//! The embedded backend: one SQLite database in the data directory, one writer thread, a few reader threads.
//!
//! **Invariant**: one server at a time works on a directory (a lock file holds it); the operator's commands may open
//! the same database beside it, since SQLite's own locking serialises them.

mod accounts;
mod blocks;
mod columns;
mod conversations;
mod cursors;
mod devices;
mod handshakes;
mod invites;
mod joinings;
mod key_packages;
mod links;
mod log;
mod reader;
mod schema;
mod writer;

use std::{
    fs::{self, File, TryLockError},
    future::Future,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use self::{reader::Readers, writer::Writer};
use crate::{OpenError, Outcome, Store, StoreError};

/// The database's name in the data directory.
pub const DATABASE: &str = "server.db";
const LOCK: &str = "lock";
const READERS: usize = 3;
/// How long to wait for the operator's command that writes at the same moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The embedded store. Clones are handles on the same one.
#[derive(Clone)]
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    failure: watch::Receiver<Option<String>>,
    _lock: Arc<Option<File>>,
}

impl SqliteStore {
    /// Opens the store of a server, making the directory and the database if needed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |cause| OpenError::Io { path, cause }
        };
        if !directory.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io(directory))?;
            // The directory's own name has to survive a power cut as well.
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(io(parent))?;
        }
        let path = directory.join(LOCK);
        let lock =
            File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(directory.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(OpenError::Io { path, cause }),
        }
        Self::start(&directory.join(DATABASE), Some(lock))
    }

    /// Opens the store beside a server that may be running, for an operator's command.
    ///
    /// # Errors
    /// There is no database yet, and see [`OpenError`].
    pub fn open_beside(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(DATABASE);
        if !path.exists() {
            return Err(OpenError::Missing(path));
        }
        Self::start(&path, None)
    }

    fn start(path: &Path, lock: Option<File>) -> Result<Self, OpenError> {
        if !path.exists() {
            // SQLite gives its own files the mode of the database: make that one private first.
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(path)
                .map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        }
        let (report, failure) = watch::channel(None);
        let connection = open_writer(path)?;
        let readers = Readers::start(READERS, || open_reader(path))?;
        let writer =
            Writer::start(connection, report).map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        Ok(Self { writer, readers, failure, _lock: Arc::new(lock) })
    }

    /// How many transactions (one fsync each) and how many writing calls there were.
    #[must_use]
    pub fn commits_and_calls(&self) -> (u64, u64) {
        self.writer.commits_and_calls()
    }

    /// Queues a writing call; the future waits for the commit.
    fn write<T, W>(&self, work: W) -> impl Outcome<T> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.write(work)
    }

    /// Queues a reading call.
    fn read<T, W>(&self, work: W) -> impl Outcome<T> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.readers.read(work)
    }
}

impl Store for SqliteStore {
    fn failed(&self) -> impl Future<Output = String> + Send + 'static {
        let mut failure = self.failure.clone();
        async move {
            let failed = failure.wait_for(Option::is_some).await;
            match failed.ok().and_then(|reason| reason.clone()) {
                Some(reason) => reason,
                // The writer ended without a failure: a shutdown.
                None => std::future::pending().await,
            }
        }
    }

    fn shut_down(&self) -> impl Outcome<()> {
        self.writer.shut_down()
    }
}

fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let prepare = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // A checkpoint costs two more fsyncs: fewer of them, and a WAL file that shrinks again.
        connection.pragma_update_and_check(None, "wal_autocheckpoint", 4_000, |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    let mut connection = prepare().map_err(|cause| OpenError::Database { path: path.to_owned(), cause })?;
    schema::migrate(&mut connection, path)?;
    Ok(connection)
}

fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let prepare = || {
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "cache_size", -4_096)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    };
    prepare().map_err(|cause| OpenError::Database { path: path.to_owned(), cause })
}

/// What a database error means for the server.
fn classify(error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure,
    };
    let Some(code) = error.sqlite_error() else { return StoreError::internal(error) };
    match code.code {
        DiskFull => StoreError::StorageFull,
        // The shared-memory file could not grow: no room either, and nothing was written.
        SystemIoFailure if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => StoreError::StorageFull,
        DatabaseBusy => StoreError::Overloaded,
        SystemIoFailure | DatabaseCorrupt | NotADatabase | CannotOpen | ReadOnly => {
            StoreError::Fatal(error.to_string().into())
        }
        _ => StoreError::internal(error),
    }
}

/// The directory that holds a database.
#[must_use]
pub fn database_path(directory: &Path) -> PathBuf {
    directory.join(DATABASE)
}

#[cfg(test)]
mod tests;
