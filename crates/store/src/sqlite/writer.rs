//! The writer thread: all that is queued goes into one transaction (group commit).
//!
//! **Invariant**: a call is answered after the COMMIT that holds it, and a call that fails leaves no trace in it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::classify;
use crate::{Outcome, StoreError};

/// Calls that may wait.
const QUEUE: usize = 4_096;
/// Calls in one transaction, so that the first does not wait for too many others.
const BATCH: usize = 512;

/// A handle on the writer thread.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    calls: AtomicU64,
}

enum Message {
    Job(Box<dyn Job>),
    ShutDown(oneshot::Sender<Result<(), StoreError>>),
}

/// A queued call.
trait Job: Send {
    /// Does its work inside the open transaction.
    fn run(&mut self, connection: &Connection) -> Result<(), StoreError>;
    /// Tells the caller, now that the transaction's fate is known.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<T, W> {
    work: Option<W>,
    outcome: Result<T, StoreError>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Job for Call<T, W>
where
    T: Send,
    W: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        match work(connection) {
            Ok(value) => {
                self.outcome = Ok(value);
                Ok(())
            }
            Err(error) => {
                let error = classify(&error);
                self.outcome = Err(error.clone());
                Err(error)
            }
        }
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        // A caller that no longer waits is no concern of ours.
        let _ = self.reply.send(committed.and(self.outcome));
    }
}

impl Writer {
    pub(super) fn start(connection: Connection, report: watch::Sender<Option<String>>) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let thread = Thread { connection, counters: Arc::clone(&counters), report };
        thread::Builder::new().name("store-writer".into()).spawn(move || thread.run(jobs))?;
        Ok(Self { queue, counters })
    }

    pub(super) fn write<T, W>(&self, work: W) -> impl Outcome<T> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call { work: Some(work), outcome: Err(StoreError::Closed), reply };
        let queued = self.queue.try_send(Message::Job(Box::new(call))).map_err(refusal);
        async move {
            queued?;
            answer.await.unwrap_or(Err(StoreError::Closed))
        }
    }

    pub(super) fn shut_down(&self) -> impl Outcome<()> + use<> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.clone();
        async move {
            if queue.send(Message::ShutDown(reply)).await.is_err() {
                return Ok(());
            }
            answer.await.unwrap_or(Err(StoreError::Closed))
        }
    }

    pub(super) fn commits_and_calls(&self) -> (u64, u64) {
        (self.counters.commits.load(Ordering::Relaxed), self.counters.calls.load(Ordering::Relaxed))
    }
}

fn refusal<T>(error: mpsc::error::TrySendError<T>) -> StoreError {
    match error {
        mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
        mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
    }
}

struct Thread {
    connection: Connection,
    counters: Arc<Counters>,
    report: watch::Sender<Option<String>>,
}

impl Thread {
    fn run(self, mut queue: mpsc::Receiver<Message>) {
        let mut batch = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            let mut end = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => batch.push(job),
                    Message::ShutDown(reply) => {
                        end = Some(reply);
                        break;
                    }
                }
                next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            if !self.commit(&mut batch) {
                return;
            }
            if let Some(reply) = end {
                drop(queue);
                let _ = reply.send(self.close());
                return;
            }
        }
    }

    /// Runs and commits a batch; `false` when the store is beyond use.
    fn commit(&self, batch: &mut Vec<Box<dyn Job>>) -> bool {
        if batch.is_empty() {
            return true;
        }
        let outcome = self.transact(batch);
        if outcome.is_err() && !self.connection.is_autocommit() {
            // Without effect where the error has already ended the transaction.
            let _ = self.execute("ROLLBACK");
        }
        if let Err(StoreError::Fatal(reason)) = &outcome {
            tracing::error!(%reason, "the database failed");
            self.report.send_replace(Some(reason.to_string()));
        }
        self.counters.calls.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for job in batch.drain(..) {
            job.answer(outcome.clone());
        }
        !matches!(outcome, Err(StoreError::Fatal(_)))
    }

    fn transact(&self, batch: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE")?;
        for job in batch {
            self.execute("SAVEPOINT call")?;
            if let Err(error) = job.run(&self.connection) {
                // A full or failing disk concerns the whole batch; anything else this call alone.
                if matches!(error, StoreError::StorageFull | StoreError::Fatal(_)) || self.connection.is_autocommit() {
                    return Err(error);
                }
                self.execute("ROLLBACK TO call")?;
            }
            self.execute("RELEASE call")?;
        }
        self.execute("COMMIT")?;
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        let run = || self.connection.prepare_cached(sql)?.execute([]).map(drop);
        run().map_err(|error| classify(&error))
    }

    fn close(self) -> Result<(), StoreError> {
        self.connection.flush_prepared_statement_cache();
        // Afterwards the file alone is the whole database, also where a reader keeps it open a moment longer.
        let checkpoint = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        checkpoint.map_err(|error| classify(&error))?;
        self.connection.close().map_err(|(_, error)| classify(&error))
    }
}
