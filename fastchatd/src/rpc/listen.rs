//! How the socket comes to be: made here, or handed over by systemd.
//!
//! **Invariant**: of all daemons that are told to use one socket, at most one listens on it, and a socket on which
//! somebody still answers is never replaced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use interprocess::{
    local_socket::{GenericFilePath, ListenerOptions, ToFsName, tokio as local},
    os::unix::{local_socket::ListenerOptionsExt, uds_local_socket::tokio::Listener as UnixListener},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

/// A socket that clients can connect to. Dropping it closes it, and removes it where [`bind`] made it.
pub struct Listener {
    pub(super) socket: local::Listener,
    /// Held for as long as the socket is; dropped after it.
    _lock: Option<File>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon has it.
    #[error(
        "{} is in use: a daemon runs already (`fastchatctl status` asks it; \
         `systemctl --user stop fastchatd.socket fastchatd` ends it where systemd started it)", .0.display()
    )]
    Running(PathBuf),
    /// Its directory could be used by somebody else.
    #[error("{} is no safe place for the socket: {reason}", .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong, and what to type.
        reason: String,
    },
    /// Something else lies where the socket should be.
    #[error("{} is in the way: it is not a socket; move it away, or choose another path", .0.display())]
    InTheWay(PathBuf),
    /// The system refused.
    #[error("cannot listen on {}: {source}", .path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What systemd handed over is not a listening Unix socket.
    #[error("systemd handed over something else than a listening Unix socket ({0}); look at fastchatd.socket")]
    Handed(io::Error),
}

/// Listens on `path`: makes its directory (mode 0700) if there is none, refuses one that others could use, takes the
/// lock beside the socket, and replaces a socket that a killed daemon left behind.
///
/// # Errors
/// See [`BindError`].
pub fn bind(path: &Path) -> Result<Listener, BindError> {
    let system = |source: io::Error| BindError::System { path: path.to_owned(), source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    own_directory(parent)?;
    let lock = lock_beside(path)?;
    clear_stale(path)?;
    let name = path.to_fs_name::<GenericFilePath>().map_err(system)?;
    let socket = ListenerOptions::new().name(name).mode(0o600).create_tokio().map_err(system)?;
    Ok(Listener { socket, _lock: Some(lock) })
}

/// The socket that systemd listens on for us (`fastchatd.socket`); `None` when it started us without one. The process's
/// first call counts: the environment variables that tell of it are removed.
///
/// # Errors
/// [`BindError::Handed`], or that another daemon serves the same path.
pub fn from_systemd() -> Result<Option<Listener>, BindError> {
    let taken = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(BindError::Handed)?;
    let Some(listener) = taken else { return Ok(None) };
    let address = listener.local_addr().map_err(BindError::Handed)?;
    let lock = address.as_pathname().map(lock_beside).transpose()?;
    let socket = UnixListener::try_from(OwnedFd::from(listener)).map_err(BindError::Handed)?;
    Ok(Some(Listener { socket: socket.into(), _lock: lock }))
}

fn own_directory(directory: &Path) -> Result<(), BindError> {
    let unsafe_because = |reason: String| BindError::Directory { directory: directory.to_owned(), reason };
    match DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) => return Err(unsafe_because(format!("it cannot be made: {error}"))),
    }
    let found = fs::symlink_metadata(directory).map_err(|error| unsafe_because(error.to_string()))?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_dir() {
        return Err(unsafe_because("it is a link or a file; name the directory itself".to_owned()));
    }
    if found.uid() != own {
        return Err(unsafe_because(format!("it belongs to user {}, this daemon runs as user {own}", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o777;
        return Err(unsafe_because(format!(
            "its mode {mode:04o} lets others in; type `chmod 700 {}`, or choose another path",
            directory.display()
        )));
    }
    Ok(())
}

/// Takes `PATH.lock`. The file stays: removing it would let two daemons hold two different files of that name.
fn lock_beside(path: &Path) -> Result<File, BindError> {
    let system = |source: io::Error| BindError::System { path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&name);
    let lock = open.map_err(system)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(BindError::Running(path.to_owned())),
        Err(error) => Err(system(error.into())),
    }
}

/// Removes a socket on which nobody answers. Called under the lock.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    let system = |source: io::Error| BindError::System { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::InTheWay(path.to_owned())),
        Ok(_) => {}
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let probe = probe.map_err(|error| system(error.into()))?;
    let address = SocketAddrUnix::new(path).map_err(|error| system(error.into()))?;
    match connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(system),
        Err(Errno::NOENT) => Ok(()),
        // EAGAIN is a listener with a full queue: somebody is there.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::Running(path.to_owned())),
        Err(error) => Err(system(error.into())),
    }
}
