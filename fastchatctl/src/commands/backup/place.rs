//! Where a backup lies. The daemon's unit keeps it from writing into the home directory, and gives it a /tmp of its own:
//! what is to lie elsewhere passes through the daemon's own directory.
//!
//! **Invariant**: nothing that is there is overwritten, and what passes through is removed again.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::failure::{Exit, Failure};

/// A file that is not there yet.
pub(super) struct Target {
    /// Absolute.
    pub(super) path: String,
}

/// A file in the daemon's directory; removed when it is dropped.
pub(super) struct Staged {
    pub(super) path: String,
}

impl Target {
    /// Checks that the file can be made before anybody is asked for a passphrase.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        let path = absolute(path)?;
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Failure::new(Exit::Refused, "refused", format!("{path} is there already"))
                .next("a backup overwrites nothing: choose another name"));
        }
        match Path::new(&path).parent() {
            Some(directory) if directory.is_dir() => Ok(Self { path }),
            _ => Err(Failure::new(Exit::Refused, "not_found", format!("there is no directory for {path}"))
                .next("make it, or choose another")),
        }
    }

    /// Takes what the daemon has written.
    pub(super) fn take(&self, staged: &Staged) -> Result<(), Failure> {
        let linked = fs::hard_link(&staged.path, &self.path);
        linked.or_else(|_| copy(Path::new(&staged.path), Path::new(&self.path))).map_err(|error| {
            Failure::new(Exit::Refused, "refused", format!("the backup cannot be put at {}: {error}", self.path))
                .next("choose a place where you may write, with room for it")
        })
    }

    /// Whether the daemon has written it where it was told to, as seen from here.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if Path::new(&self.path).is_file() {
            return Ok(());
        }
        let text = format!("the daemon has written {}, but that is another place for it than for you", self.path);
        Err(Failure::new(Exit::Refused, "refused", text).next("choose a place in your home directory"))
    }
}

impl Staged {
    /// A new name in the daemon's usual directory; `None` where that is not used.
    pub(super) fn new() -> Option<Self> {
        let data = env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let data = data.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/share")))?;
        let daemon = data.join("fastchat");
        if !daemon.is_dir() {
            return None;
        }
        let directory = daemon.join("staging");
        let made = DirBuilder::new().mode(0o700).create(&directory);
        made.or_else(|error| if directory.is_dir() { Ok(()) } else { Err(error) }).ok()?;
        let path = directory.join(format!("{}.backup", Uuid::now_v7())).into_os_string().into_string().ok()?;
        Some(Self { path })
    }

    /// Puts a copy of a file there.
    pub(super) fn copy_of(&self, path: &str) -> io::Result<()> {
        copy(Path::new(path), Path::new(&self.path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It may not be there; and what cannot be removed is encrypted.
        let _ = fs::remove_file(&self.path);
    }
}

/// A whole, durable copy that only this user can read, or none.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let copied = io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all());
    if copied.is_err() {
        // The half of a backup is none.
        let _ = fs::remove_file(to);
    }
    copied
}

/// The absolute path of a file that can be read here.
pub(super) fn readable(path: &Path) -> Result<String, Failure> {
    let whole = absolute(path)?;
    let failed = |why: &str| {
        Failure::new(Exit::Refused, "not_found", format!("cannot read {whole}: {why}"))
            .next("name the file that `fastchatctl backup create` wrote")
    };
    let metadata = fs::metadata(&whole).map_err(|error| failed(&error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is no file"));
    }
    File::open(&whole).map_err(|error| failed(&error.to_string()))?;
    Ok(whole)
}

/// The path as the daemon, which is in another directory, finds it.
fn absolute(path: &Path) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::usage(format!("{} cannot be named to the daemon: {why}", path.display()));
    let whole = std::path::absolute(path).map_err(|error| wrong(&error.to_string()))?;
    whole.into_os_string().into_string().map_err(|_| wrong("its path is not UTF-8 text").next("choose another name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_gets_an_absolute_path() {
        let path = absolute(Path::new("x.backup")).unwrap();
        assert_eq!(path, env::current_dir().unwrap().join("x.backup").display().to_string());
        assert_eq!(absolute(Path::new("/x/y")).ok(), Some("/x/y".to_owned()));
    }

    #[test]
    fn a_copy_overwrites_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, "new").unwrap();
        copy(&from, &to).unwrap();
        fs::write(&from, "newer").unwrap();
        assert_eq!(copy(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&to).unwrap(), "new");
    }
}
