//! Backups: records between the core and a file, a page at a time, so that the engine goes on meanwhile.
//!
//! **Invariant**: the file's work (stretching the passphrase, the disk) blocks neither the engine nor another call; what
//! is under way at once is bounded.

use std::path::{Path, PathBuf};

use fastchat_ipc::{ApiError, Backup as BackupParams, BackupFile, ErrorCode, Restored};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    aside::value,
    front::{Front, stopping},
    now_ms,
    thread::Job,
};
use crate::{
    backup::{self, Backup, ChatRecord, ContactRecord, Header, MessageRecord, Record},
    core::BackupPlace,
};

/// Pages that wait between core and file.
const PAGES: usize = 2;
/// Records that are taken over in one step of the core.
const AT_ONCE: usize = 500;
/// Messages of one chat that are put in their places at once.
const MESSAGES_AT_ONCE: usize = 50_000;

/// A page; `None` behind the last one. A channel that closes before it means that the call was broken off.
type Page = Result<Option<Vec<Record>>, ApiError>;

/// A piece of a backup, as the core takes it.
enum Piece {
    Contacts(Vec<ContactRecord>),
    Chat(ChatRecord, Vec<MessageRecord>),
}

impl Front {
    pub(super) async fn create_backup(&self, params: BackupParams) -> Result<Value, ApiError> {
        let (header, identity) = self.ask_core(|answer| Job::BackupHeader(params.account, now_ms(), answer)).await?;
        let (pages, written) = mpsc::channel::<Page>(PAGES);
        let account = header.account.clone();
        let writing = tokio::task::spawn_blocking(move || write(&params.path, &params.passphrase, &header, written));
        // When the file cannot be written, nobody takes pages any more: then its error says why.
        let _ = pages.send(Ok(Some(vec![identity]))).await;
        let mut place = Some(BackupPlace::Contacts(0));
        while let Some(here) = place {
            let name = account.clone();
            match self.ask_core(|answer| Job::BackupPage(name, here, answer)).await {
                Ok((records, next)) => {
                    place = next;
                    let taken = pages.send(Ok(Some(records))).await;
                    if taken.is_err() || (place.is_none() && pages.send(Ok(None)).await.is_err()) {
                        break;
                    }
                }
                Err(error) => {
                    let _ = pages.send(Err(error)).await;
                    break;
                }
            }
        }
        drop(pages);
        value(&writing.await.map_err(|_| stopping())??)
    }

    pub(super) async fn verify_backup(&self, params: BackupFile) -> Result<Value, ApiError> {
        let reading = tokio::task::spawn_blocking(move || backup::verify(Path::new(&params.path), &params.passphrase));
        value(&reading.await.map_err(|_| stopping())??)
    }

    pub(super) async fn restore_backup(&self, params: BackupParams) -> Result<Value, ApiError> {
        let _turn = self.turn.lock().await;
        let path = PathBuf::from(&params.path);
        let opening = tokio::task::spawn_blocking(move || Backup::open(&path, &params.passphrase));
        let mut opened = opening.await.map_err(|_| stopping())??;
        let info = opened.info.clone();
        let of = info.account.clone();
        let account = self.ask_core(|answer| Job::MayRestore(params.account, of, answer)).await?;
        let mut restored = Restored { backup: info, contacts: 0, chats: 0, messages: 0 };
        let (pieces, mut taken) = mpsc::channel(PAGES);
        let reading = tokio::task::spawn_blocking(move || {
            opened.records().and_then(|records| cut(records, &mut |piece| pieces.blocking_send(piece).is_ok()))
        });
        while let Some(piece) = taken.recv().await {
            let name = account.clone();
            let counted = match piece {
                Piece::Contacts(contacts) => {
                    self.ask(|answer| Job::RestoredContacts(name, contacts, restored, answer)).await?
                }
                Piece::Chat(chat, messages) => {
                    self.ask(|answer| Job::RestoredChat(name, Box::new(chat), messages, restored, answer)).await?
                }
            };
            restored = serde_json::from_value(counted)
                .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
        }
        reading.await.map_err(|_| stopping())??;
        value(&restored)
    }

    async fn ask_core<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Job) -> Result<T, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.jobs()?.send(job(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

fn write(
    path: &str,
    passphrase: &str,
    header: &Header,
    mut pages: mpsc::Receiver<Page>,
) -> Result<fastchat_ipc::BackupInfo, ApiError> {
    let mut over = false;
    let pages = std::iter::from_fn(move || {
        if over {
            return None;
        }
        let page = pages.blocking_recv().unwrap_or_else(|| Err(stopping())).transpose();
        over = !matches!(page, Some(Ok(_)));
        page
    });
    let records = pages.flat_map(|page| match page {
        Ok(records) => records.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    });
    backup::write(Path::new(path), passphrase, header, records)
}

/// Cuts a backup's records into pieces. `give` tells whether anybody takes more.
fn cut(
    records: impl Iterator<Item = Result<Record, ApiError>>,
    give: &mut dyn FnMut(Piece) -> bool,
) -> Result<(), ApiError> {
    let mut contacts = Vec::new();
    let mut chat: Option<(ChatRecord, Vec<MessageRecord>)> = None;
    for record in records {
        match record? {
            Record::Identity(_) => {}
            Record::Contact(contact) => {
                contacts.push(contact);
                if contacts.len() >= AT_ONCE && !give(Piece::Contacts(std::mem::take(&mut contacts))) {
                    return Ok(());
                }
            }
            Record::Chat(next) => {
                if !give(Piece::Contacts(std::mem::take(&mut contacts))) {
                    return Ok(());
                }
                if let Some((chat, messages)) = chat.replace((next, Vec::new()))
                    && !give(Piece::Chat(chat, messages))
                {
                    return Ok(());
                }
            }
            Record::Message(message) => {
                let Some((of, messages)) = &mut chat else { continue };
                messages.push(message);
                if messages.len() >= MESSAGES_AT_ONCE && !give(Piece::Chat(of.clone(), std::mem::take(messages))) {
                    return Ok(());
                }
            }
        }
    }
    give(Piece::Contacts(contacts));
    if let Some((chat, messages)) = chat {
        give(Piece::Chat(chat, messages));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what the core gives before it says nothing more; gives what stands in the directory then.
    fn written(pages: Vec<Page>) -> (Result<fastchat_ipc::BackupInfo, ApiError>, usize) {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("backup");
        let (give, take) = mpsc::channel(pages.len().max(1));
        for page in pages {
            give.try_send(page).unwrap();
        }
        drop(give);
        let header = Header::new("alice@h:1".into(), 1, String::new());
        let outcome = write(&path.display().to_string(), "long enough", &header, take);
        (outcome, std::fs::read_dir(directory.path()).unwrap().count())
    }

    #[test]
    fn a_backup_of_which_no_end_was_told_is_none() {
        let (outcome, files) = written(vec![Ok(Some(Vec::new()))]);
        assert_eq!((outcome.unwrap_err().code, files), (ErrorCode::ShuttingDown, 0));
        let (outcome, files) = written(vec![Ok(Some(Vec::new())), Err(ApiError::new(ErrorCode::Internal, "broken"))]);
        assert_eq!((outcome.unwrap_err().code, files), (ErrorCode::Internal, 0));
        let (outcome, files) = written(vec![Ok(Some(Vec::new())), Ok(None)]);
        assert_eq!((outcome.unwrap().account.as_str(), files), ("alice@h:1", 1));
    }
}
