//! A disk that can be filled: a small tmpfs, where the tests may mount one.
//!
//! **Invariant**: it is unmounted with the value that holds it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Result;

/// A file system of `megabytes`, or the text to skip with.
pub(crate) fn small_disk(place: &Path, megabytes: u32) -> Result<Option<SmallDisk>> {
    fs::create_dir_all(place)?;
    let size = format!("size={megabytes}m");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place).stderr(Stdio::null()).status();
    Ok(mounted.is_ok_and(|status| status.success()).then(|| SmallDisk(place.to_owned())))
}

/// A mounted file system.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Takes all the space but `left` bytes.
    pub(crate) fn fill(&self, left: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.0)?;
        let size = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
        fs::write(self.0.join("filler"), vec![0; usize::try_from(size)?])?;
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being ended may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
