//! The calls of backups: between the core, which gives and takes pages, and a thread that works on the file.
//!
//! **Invariant**: neither waits for the other with more than a page in hand, and a writer that is told no end has failed.

use std::path::PathBuf;

use fastchat_ipc::{ApiError, Backup, BackupFile, BackupInfo, ErrorCode, Restored};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use zeroize::Zeroizing;

use super::{
    aside::value,
    front::{Front, stopping},
    thread::Job,
};
use crate::{
    backup::{self, Header, Record},
    core::{Page, Restoring},
};

/// Records between the core and the file at most.
const RECORDS: usize = 128;
/// Records that are brought in one step.
const PAGE: usize = 64;

/// What a reader finds.
enum Found {
    /// The backup is whole.
    Whole(BackupInfo),
    Records(Vec<Record>),
}

impl Front {
    pub(super) async fn create_backup(&self, params: Backup) -> Result<Value, ApiError> {
        let account = params.account;
        let page = self.ask_page(|answer| Job::BeginBackup(account, answer)).await?;
        let header = page.header.clone().ok_or_else(stopping)?;
        let (records, taken) = mpsc::channel(RECORDS);
        let (path, passphrase) = (PathBuf::from(params.path), Zeroizing::new(params.passphrase));
        let writing = spawn_blocking(move || write(&path, &passphrase, &header, taken));
        let fed = self.feed(page, &records).await;
        // The writer may have gone because of an error of its own, which says more.
        let _ = records.send(fed.map(|()| None)).await;
        drop(records);
        value(&writing.await.map_err(|error| broke(&error))??)
    }

    async fn feed(
        &self,
        mut page: Page,
        records: &mpsc::Sender<Result<Option<Record>, ApiError>>,
    ) -> Result<(), ApiError> {
        loop {
            for record in page.records {
                if records.send(Ok(Some(record))).await.is_err() {
                    return Ok(());
                }
            }
            let Some(mark) = page.next else { return Ok(()) };
            page = self.ask_page(|answer| Job::GoOnWithBackup(mark, answer)).await?;
        }
    }

    async fn ask_page(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<Page, ApiError>>) -> Job,
    ) -> Result<Page, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.jobs()?.send(job(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    pub(super) async fn restore_backup(&self, params: Backup) -> Result<Value, ApiError> {
        // That there is such an account is known before the passphrase is worked on.
        self.jobs()?;
        let (found, mut reading) = mpsc::channel(1);
        let (path, passphrase) = (PathBuf::from(params.path), Zeroizing::new(params.passphrase));
        let reader = spawn_blocking(move || read(&path, &passphrase, &found));
        let mut restoring = Restoring::into_account(params.account);
        let mut whole = None;
        while let Some(found) = reading.recv().await {
            match found {
                Found::Whole(info) => {
                    self.may_restore(&restoring.account, &info.account).await?;
                    whole = Some(info);
                }
                Found::Records(records) => {
                    let page = Box::new(restoring);
                    let so_far = self.ask(|answer| Job::Restore(page, records, answer)).await?;
                    restoring = serde_json::from_value(so_far).map_err(|error| broke(&error))?;
                }
            }
        }
        reader.await.map_err(|error| broke(&error))??;
        let Restoring { contacts, chats, messages, .. } = restoring;
        value(&Restored { backup: whole.ok_or_else(stopping)?, contacts, chats, messages })
    }

    async fn may_restore(&self, account: &str, of: &str) -> Result<(), ApiError> {
        let (answer, answered) = oneshot::channel();
        self.jobs()?.send(Job::MayRestore(account.into(), of.into(), answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

/// Needs no store: a backup can be looked at anywhere.
pub(super) async fn verify_backup(params: BackupFile) -> Result<Value, ApiError> {
    let (path, passphrase) = (PathBuf::from(params.path), Zeroizing::new(params.passphrase));
    let verified = spawn_blocking(move || backup::verify(&path, &passphrase)).await;
    value(&verified.map_err(|error| broke(&error))??)
}

fn write(
    path: &std::path::Path,
    passphrase: &str,
    header: &Header,
    mut taken: mpsc::Receiver<Result<Option<Record>, ApiError>>,
) -> Result<BackupInfo, ApiError> {
    let mut ended = false;
    let records = std::iter::from_fn(|| {
        if ended {
            return None;
        }
        match taken.blocking_recv() {
            Some(Ok(Some(record))) => Some(Ok(record)),
            Some(Ok(None)) => {
                ended = true;
                None
            }
            Some(Err(error)) => Some(Err(error)),
            // Whoever fed us is gone in the middle of it.
            None => Some(Err(stopping())),
        }
    });
    backup::write(path, passphrase, header, records)
}

fn read(path: &std::path::Path, passphrase: &str, found: &mpsc::Sender<Found>) -> Result<(), ApiError> {
    let mut backup = backup::Backup::open(path, passphrase)?;
    if found.blocking_send(Found::Whole(backup.info.clone())).is_err() {
        return Ok(());
    }
    let mut records = backup.records()?;
    loop {
        let page = records.by_ref().take(PAGE).collect::<Result<Vec<_>, _>>()?;
        // When nobody takes them any more, the error is said elsewhere.
        if page.is_empty() || found.blocking_send(Found::Records(page)).is_err() {
            return Ok(());
        }
    }
}

fn broke(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("the backup was broken off: {error}"))
}
