//! Backups: an encrypted file with an account's identity, contacts and history.
//!
//! The file is an archive of `fastchat_e2ee` (Argon2id, AES-256-GCM STREAM), each record of it a line of JSON: a header,
//! the identity, the contacts, each chat with its messages behind it, and at the end how many there were. JSON, because a
//! backup is read by programs that are newer than the one that wrote it. Everything here blocks.
//!
//! **Invariant**: a backup stands under its name only when all of it is on the disk, nothing that stands there is
//! overwritten, and of a backup that does not read to its end nothing is given.

mod file;
mod record;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use fastchat_e2ee::{ArchiveError, ArchiveKey, ArchiveSealer, KdfParams};
use fastchat_ipc::{ApiError, BackupInfo, ErrorCode};
use zeroize::Zeroizing;

pub use record::{ChatRecord, ChatWith, ContactRecord, Header, IdentityRecord, MessageRecord, Record};

use file::{Draft, Segments};
use record::{Line, Totals};

/// The shortest passphrase of a new backup, in characters.
const SHORTEST: usize = 8;
/// Twice what a password's stretching takes: a backup is made seldom, and lies where others may try for long.
const MEMORY_KIB: u32 = 128 << 10;

/// Writes a backup.
///
/// # Errors
/// The passphrase is too short, the path is not absolute or something is there already, the disk, or the first error of
/// `records`. Nothing is left behind then.
pub fn write(
    path: &Path,
    passphrase: &str,
    header: &Header,
    records: impl IntoIterator<Item = Result<Record, ApiError>>,
) -> Result<BackupInfo, ApiError> {
    let cost = KdfParams { memory_kib: MEMORY_KIB, ..KdfParams::generate() };
    write_at_cost(path, passphrase, header, records, &cost)
}

fn write_at_cost(
    path: &Path,
    passphrase: &str,
    header: &Header,
    records: impl IntoIterator<Item = Result<Record, ApiError>>,
    cost: &KdfParams,
) -> Result<BackupInfo, ApiError> {
    if passphrase.chars().count() < SHORTEST {
        let text = format!("the passphrase has fewer than {SHORTEST} characters");
        return Err(ApiError::new(ErrorCode::InvalidParams, text)
            .hint("whoever has the file can try passphrases for as long as they like: take a long one"));
    }
    let mut draft = Draft::create(path)?;
    let mut sealed = Vec::new();
    let mut sealer = ArchiveSealer::begin(passphrase, cost, &mut sealed).map_err(|error| archive(path, &error))?;
    let mut totals = Totals::default();
    let mut put = |line: &Line, sealed: &mut Vec<u8>| -> Result<(), ApiError> {
        sealer.seal(&line.to_bytes()?, sealed).map_err(|error| archive(path, &error))?;
        draft.write(sealed)?;
        sealed.clear();
        Ok(())
    };
    put(&Line::Header(header.clone()), &mut sealed)?;
    for record in records {
        let record = record?;
        totals.count(&record);
        put(&Line::Record(record), &mut sealed)?;
    }
    put(&Line::End(totals), &mut sealed)?;
    sealer.finish(&mut sealed).map_err(|error| archive(path, &error))?;
    draft.write(&sealed)?;
    let bytes = draft.finish()?;
    Ok(info(path, header.clone(), totals, bytes))
}

/// Reads a backup through; gives what it holds.
///
/// # Errors
/// It cannot be read, is not a backup, is damaged or incomplete, or the passphrase is wrong.
pub fn verify(path: &Path, passphrase: &str) -> Result<BackupInfo, ApiError> {
    Backup::open(path, passphrase).map(|backup| backup.info)
}

/// A backup that was read through and found whole.
pub struct Backup {
    /// What it holds.
    pub info: BackupInfo,
    key: ArchiveKey,
    segments: Segments,
    path: PathBuf,
}

impl Backup {
    /// Opens a backup and reads all of it once.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn open(path: &Path, passphrase: &str) -> Result<Self, ApiError> {
        let (mut segments, header) = Segments::open(path)?;
        let key = ArchiveKey::derive(passphrase, &header).map_err(|error| archive(path, &error))?;
        let mut reader = Lines::new(&key, &mut segments, path);
        let Some(Line::Header(header)) = reader.next().transpose()? else { return Err(no_backup(path)) };
        let mut counted = Totals::default();
        let totals = loop {
            match reader.next().transpose()? {
                Some(Line::Record(record)) => counted.count(&record),
                Some(Line::End(totals)) => break totals,
                Some(Line::Header(_)) | None => return Err(no_backup(path)),
            }
        };
        if reader.next().is_some() || totals != counted {
            return Err(no_backup(path));
        }
        let bytes = segments.bytes();
        Ok(Self { info: info(path, header, totals, bytes), key, segments, path: path.to_owned() })
    }

    /// Its records, in the order in which they were written. They are read from the file a second time: an error means
    /// that it was changed meanwhile.
    ///
    /// # Errors
    /// The file cannot be read again.
    pub fn records(&mut self) -> Result<impl Iterator<Item = Result<Record, ApiError>> + '_, ApiError> {
        self.segments.rewind()?;
        let lines = Lines::new(&self.key, &mut self.segments, &self.path);
        Ok(lines.filter_map(|line| match line {
            Ok(Line::Record(record)) => Some(Ok(record)),
            Ok(Line::Header(_) | Line::End(_)) => None,
            Err(error) => Some(Err(error)),
        }))
    }
}

/// The lines of an archive; after an error comes nothing more.
struct Lines<'a> {
    opener: Option<fastchat_e2ee::ArchiveOpener>,
    segments: &'a mut Segments,
    path: &'a Path,
}

impl<'a> Lines<'a> {
    fn new(key: &ArchiveKey, segments: &'a mut Segments, path: &'a Path) -> Self {
        Self { opener: Some(key.opener()), segments, path }
    }

    fn step(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
        let Some(opener) = &mut self.opener else { return Ok(None) };
        loop {
            if let Some(record) = opener.record().map_err(|error| archive(self.path, &error))? {
                return Ok(Some(record));
            }
            let Some((segment, last)) = self.segments.next()? else { break };
            opener.open(&segment, last).map_err(|error| archive(self.path, &error))?;
        }
        match self.opener.take().map(fastchat_e2ee::ArchiveOpener::finish) {
            Some(Err(error)) => Err(archive(self.path, &error)),
            _ => Ok(None),
        }
    }
}

impl Iterator for Lines<'_> {
    type Item = Result<Line, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.step().and_then(|record| record.map(|record| Line::from_bytes(&record, self.path)).transpose());
        if line.is_err() {
            self.opener = None;
        }
        line.transpose()
    }
}

fn info(path: &Path, header: Header, totals: Totals, bytes: u64) -> BackupInfo {
    BackupInfo {
        path: path.display().to_string(),
        account: header.account,
        created_at_ms: header.created_at_ms,
        contacts: totals.contacts,
        chats: totals.chats,
        messages: totals.messages,
        fingerprint: header.fingerprint,
        bytes,
    }
}

fn archive(path: &Path, error: &ArchiveError) -> ApiError {
    let code = match error {
        ArchiveError::WrongPassphrase => ErrorCode::WrongPassword,
        ArchiveError::Passphrase => ErrorCode::InvalidParams,
        ArchiveError::Derive(_) | ArchiveError::TooLong(_) | ArchiveError::Full => ErrorCode::Internal,
        _ => ErrorCode::Refused,
    };
    ApiError::new(code, format!("{}: {error}", path.display()))
}

fn no_backup(path: &Path) -> ApiError {
    ApiError::new(ErrorCode::Refused, format!("{} is an archive, but not a backup of FastChat", path.display()))
        .hint("give the file that `fastchatctl backup create` wrote; if it is that, update FastChat")
}
