//! The reader threads: read-only connections that never wait for the writer (WAL).
//!
//! **Invariant**: a read that starts after a write was answered sees that write.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::classify;
use crate::{OpenError, Outcome, StoreError};

/// Reads that may wait for one thread.
const QUEUE: usize = 2_048;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// A handle on the reader threads.
#[derive(Clone)]
pub(super) struct Readers {
    threads: Arc<[mpsc::Sender<Job>]>,
    next: Arc<AtomicUsize>,
}

impl Readers {
    pub(super) fn start(count: usize, open: impl Fn() -> Result<Connection, OpenError>) -> Result<Self, OpenError> {
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let connection = open()?;
            let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE);
            thread::Builder::new()
                .name("store-reader".into())
                .spawn(move || {
                    while let Some(job) = jobs.blocking_recv() {
                        job(&connection);
                    }
                })
                .map_err(|cause| OpenError::Io { path: PathBuf::from("thread"), cause })?;
            threads.push(queue);
        }
        Ok(Self { threads: threads.into(), next: Arc::default() })
    }

    pub(super) fn read<T, W>(&self, work: W) -> impl Outcome<T> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = reply.send(work(connection).map_err(|error| classify(&error)));
        });
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len().max(1);
        let queued = match self.threads.get(turn) {
            Some(thread) => thread.try_send(job).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
            }),
            None => Err(StoreError::Closed),
        };
        async move {
            queued?;
            answer.await.unwrap_or(Err(StoreError::Closed))
        }
    }
}
