//! The temporary folder of one cluster, and the lock that says its owner lives.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{ClusterError, Step};

/// How the names of all clusters' folders begin.
pub(crate) const PREFIX: &str = "flautino-cluster-";
/// A file that the owner keeps locked for as long as it lives; the kernel unlocks it when the owner
/// dies.
pub(crate) const LOCK: &str = "owner.lock";
/// The process id of a program beside the servers that is its owner's child, in the folder that it works in.
pub(crate) const DAEMON: &str = "daemon.pid";

/// A folder that is removed on drop, and by the next start if there was no drop.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// The lock lives as long as the open file. Children do not inherit it.
    _lock: File,
}

impl Home {
    pub(crate) fn create(parent: &Path) -> Result<Self, ClusterError> {
        let step = || format!("create a folder in {}", parent.display());
        let dir =
            tempfile::Builder::new().prefix(PREFIX).rand_bytes(8).tempdir_in(parent).step(step)?;
        // The servers may run as another user, who must be able to pass through the folder, not to list
        // it.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).step(step)?;
        // Locked before it gets its name, since whoever can lock the named file takes its owner for dead.
        let unnamed = dir.path().join("owner.lock.new");
        let lock = File::create(&unnamed).step(step)?;
        lock.lock().step(step)?;
        fs::rename(&unnamed, dir.path().join(LOCK)).step(step)?;
        let path = dir.path().canonicalize().step(step)?;
        // From here on the drop of `Self` removes it.
        let _ = dir.keep();
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the cluster's folder");
        }
    }
}

/// Removes a cluster's folder, its lock last, so that the next sweep finds and finishes a removal
/// that was interrupted.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    // A program that was killed a moment ago may still have created a file.
    for _ in 0..5 {
        if try_remove(path).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    try_remove(path)
}

fn try_remove(path: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir_all(path)
}
