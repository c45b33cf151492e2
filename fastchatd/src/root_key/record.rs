//! `key.toml`: which way the root key is protected, and for a passphrase the sealed key itself.
//!
//! **Invariant**: the file is whole or not there, whatever happens while it is written, and is never replaced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fastchat_ipc::{ApiError, ErrorCode, KeyStore};
use rustix::{
    fs::{CWD, OFlags, RenameFlags, renameat_with},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const NAME: &str = "key.toml";
const VERSION: u32 = 1;
/// No file here is longer.
const LONGEST: u64 = 16 << 10;

/// The content of `key.toml`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    pub(super) way: Way,
}

/// How the key is protected.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Way {
    /// In the Secret Service, under this store's id.
    SecretService {
        /// The id.
        store: String,
    },
    /// Here, sealed under a passphrase.
    Passphrase(Sealed),
    /// In `root.key`.
    File,
}

/// A root key sealed under a passphrase; bytes as hex.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    pub(super) salt: String,
    pub(super) memory_kib: u32,
    pub(super) iterations: u32,
    pub(super) parallelism: u32,
    pub(super) nonce: String,
    pub(super) key: String,
}

impl Record {
    pub(super) fn new(way: Way) -> Self {
        Self { version: VERSION, way }
    }

    /// What to call it.
    pub(super) fn kind(&self) -> KeyStore {
        match self.way {
            Way::SecretService { .. } => KeyStore::SecretService,
            Way::Passphrase(_) => KeyStore::Passphrase,
            Way::File => KeyStore::File,
        }
    }
}

/// Reads the record; `None` when there is none.
pub(super) fn read(data: &Path) -> Result<Option<Record>, ApiError> {
    let path = data.join(NAME);
    let Some(bytes) = read_private(&path)? else { return Ok(None) };
    let damaged = |why: &dyn std::fmt::Display| {
        ApiError::new(ErrorCode::Internal, format!("{} is damaged: {why}", path.display()))
            .hint("put it back from a backup: without it the store cannot be opened")
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| damaged(&error))?;
    let record: Record = toml::from_str(text).map_err(|error| damaged(&error.message()))?;
    if record.version != VERSION {
        return Err(damaged(&format!("version {} is not known to this fastchatd", record.version)));
    }
    Ok(Some(record))
}

/// Writes the record.
pub(super) fn write(data: &Path, record: &Record) -> Result<(), ApiError> {
    let text = toml::to_string(record)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("{NAME} could not be made: {error}")))?;
    let text = format!("# What protects this store's key. Without this file the store cannot be opened.\n{text}");
    write_private(&data.join(NAME), text.as_bytes())
}

/// Removes the record; it need not be there.
pub(super) fn remove(data: &Path) -> Result<(), ApiError> {
    let path = data.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, "remove", &error)),
        _ => Ok(()),
    }
}

/// Makes the data directory, for this user alone.
pub(super) fn prepare(data: &Path) -> Result<(), ApiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(|error| io_error(data, "make", &error))
}

/// Reads a file that must be this user's own, and nobody else's to read; `None` when it is not there.
pub(super) fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
    let file = match OpenOptions::new().read(true).custom_flags(no_follow()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "open", &error)),
    };
    let meta = file.metadata().map_err(|error| io_error(path, "look at", &error))?;
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_file() || meta.uid() != me || meta.mode() & 0o077 != 0 {
        let message =
            format!("{} must be a file of user {me} that nobody else can read or write; not using it", path.display());
        return Err(ApiError::new(ErrorCode::Refused, message).hint(format!("`chmod 600 {}`", path.display())));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len().min(LONGEST)).unwrap_or(0) + 1));
    file.take(LONGEST).read_to_end(&mut content).map_err(|error| io_error(path, "read", &error))?;
    Ok(Some(content))
}

/// Writes a file that did not exist: all of it, durably, for this user alone, or not at all.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), ApiError> {
    let unfinished: PathBuf = path.with_extension(format!("new-{}", uuid::Uuid::now_v7().simple()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        rename_new(&unfinished, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        io_error(path, "write", &error)
    })
}

/// Renames, without replacing what is there.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems cannot do that; there, looking first has to do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.try_exists()? => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

fn no_follow() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

fn io_error(path: &Path, verb: &str, error: &io::Error) -> ApiError {
    let code = if error.kind() == io::ErrorKind::StorageFull { ErrorCode::StorageFull } else { ErrorCode::Internal };
    ApiError::new(code, format!("cannot {verb} {}: {error}", path.display()))
        .hint("check that the disk has room and that the directory is yours")
}
