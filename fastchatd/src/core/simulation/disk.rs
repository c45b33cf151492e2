//! The daemons' stores on disk: opened, copied, and kept in memory where the system allows it.
//!
//! **Invariant**: what the power would take is decided by the simulation, not by the disk.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fastchat_ipc::KeyStore;
use tempfile::TempDir;

use crate::store::Store;

const ROOT: [u8; 32] = [9; 32];

/// A directory in memory, where there is one: what the power would take is decided by the simulation.
pub(super) fn memory_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(super) fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let name = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&name).unwrap();
            copy_files(&file.path(), &name);
        } else {
            // sled may have removed an old snapshot meanwhile.
            let _gone = std::fs::copy(file.path(), name);
        }
    }
}

/// sled lets go of its lock a moment after it was dropped.
pub(super) fn open_store(directory: &Path) -> Store {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(directory, &ROOT, KeyStore::File) {
            Err(_) if Instant::now() < patience => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}
