//! The file of a backup: written aside and put under its name at the end, read segment by segment.
//!
//! **Invariant**: what stands under the name is whole, durable and readable by its owner alone; a draft that is not
//! finished is removed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use fastchat_e2ee::{ARCHIVE_HEADER_BYTES, ARCHIVE_SEGMENT_BYTES};
use fastchat_ipc::{ApiError, ErrorCode};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

/// A file that is being written.
pub(super) struct Draft {
    file: File,
    path: PathBuf,
    /// Where it is until it is finished; `None` then.
    aside: Option<PathBuf>,
    bytes: u64,
}

impl Draft {
    /// Begins a file that is to stand under `path`.
    pub(super) fn create(path: &Path) -> Result<Self, ApiError> {
        let (directory, name) = parts(path)?;
        if path.symlink_metadata().is_ok() {
            return Err(is_there(path));
        }
        let random = HEXLOWER.encode(&rand::random::<[u8; 8]>());
        let aside = directory.join(format!(".{}.{random}.part", name.to_string_lossy()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
        let file = file.map_err(|error| failed("cannot be written", path, &error))?;
        Ok(Self { file, path: path.to_owned(), aside: Some(aside), bytes: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.file.write_all(bytes).map_err(|error| failed("cannot be written", &self.path, &error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file durable and puts it under its name. Gives its size.
    pub(super) fn finish(mut self) -> Result<u64, ApiError> {
        let failed = |error: &io::Error| failed("cannot be written", &self.path, error);
        self.file.sync_all().map_err(|error| failed(&error))?;
        let Some(aside) = &self.aside else { return Ok(self.bytes) };
        match renameat_with(CWD, aside, CWD, &self.path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(is_there(&self.path)),
            // A file system that cannot promise it; it was looked at a moment ago, and is once more.
            Err(Errno::INVAL | Errno::NOSYS) if self.path.symlink_metadata().is_err() => {
                std::fs::rename(aside, &self.path).map_err(|error| failed(&error))?;
            }
            Err(error) => return Err(failed(&error.into())),
        }
        self.aside = None;
        let (directory, _) = parts(&self.path)?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| failed(&error))?;
        Ok(self.bytes)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(aside) = &self.aside
            && let Err(error) = std::fs::remove_file(aside)
        {
            tracing::warn!(%error, "an unfinished backup could not be removed");
        }
    }
}

/// The segments of a file behind its header.
pub(super) struct Segments {
    file: File,
    path: PathBuf,
    /// What was read ahead, to know which segment is the last.
    ahead: Vec<u8>,
    ended: bool,
    bytes: u64,
}

impl Segments {
    /// Opens a file; gives its header as well.
    pub(super) fn open(path: &Path) -> Result<(Self, [u8; ARCHIVE_HEADER_BYTES]), ApiError> {
        parts(path)?;
        // Not to wait for somebody at the other end of a pipe.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
        let mut file = file.map_err(|error| failed("cannot be read", path, &error))?;
        let metadata = file.metadata().map_err(|error| failed("cannot be read", path, &error))?;
        if !metadata.is_file() {
            return Err(ApiError::new(ErrorCode::Refused, format!("{} is not a file", path.display()))
                .hint("give the file that `fastchatctl backup create` wrote"));
        }
        let mut header = [0; ARCHIVE_HEADER_BYTES];
        file.read_exact(&mut header).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let text = format!("{} is too short to be a backup", path.display());
                ApiError::new(ErrorCode::Refused, text).hint("use another copy of it")
            }
            _ => failed("cannot be read", path, &error),
        })?;
        let segments = Self { file, path: path.to_owned(), ahead: Vec::new(), ended: false, bytes: metadata.len() };
        Ok((segments, header))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Back to the first segment.
    pub(super) fn rewind(&mut self) -> Result<(), ApiError> {
        self.file
            .seek(SeekFrom::Start(ARCHIVE_HEADER_BYTES as u64))
            .map_err(|error| failed("cannot be read", &self.path, &error))?;
        self.ahead.clear();
        self.ended = false;
        Ok(())
    }

    /// The next segment, and whether it is the last.
    pub(super) fn next(&mut self) -> Result<Option<(Vec<u8>, bool)>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let wanted = ARCHIVE_SEGMENT_BYTES + 1 - self.ahead.len();
        let mut segment = std::mem::take(&mut self.ahead);
        (&mut self.file)
            .take(wanted as u64)
            .read_to_end(&mut segment)
            .map_err(|error| failed("cannot be read", &self.path, &error))?;
        if segment.len() > ARCHIVE_SEGMENT_BYTES {
            self.ahead = segment.split_off(ARCHIVE_SEGMENT_BYTES);
        } else {
            self.ended = true;
        }
        Ok(Some((segment, self.ended)))
    }
}

/// Directory and name of an absolute path.
fn parts(path: &Path) -> Result<(&Path, &std::ffi::OsStr), ApiError> {
    match (path.is_absolute(), path.parent(), path.file_name()) {
        (true, Some(directory), Some(name)) => Ok((directory, name)),
        _ => Err(ApiError::new(ErrorCode::InvalidParams, format!("{} is not an absolute path", path.display()))
            .hint("give the whole path of a file, for example /home/alice/fastchat.backup")),
    }
}

fn is_there(path: &Path) -> ApiError {
    ApiError::new(ErrorCode::Refused, format!("{} is there already; a backup overwrites nothing", path.display()))
        .hint("give another name, or move it away")
}

fn failed(what: &str, path: &Path, error: &io::Error) -> ApiError {
    let (code, next) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorCode::NotFound, "check the path"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorCode::Refused, "choose a directory that is yours; the daemon may be kept out of others by its unit")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorCode::StorageFull, "free some space"),
        _ => (ErrorCode::Internal, "check the disk"),
    };
    ApiError::new(code, format!("{} {what}: {error}", path.display())).hint(next)
}
