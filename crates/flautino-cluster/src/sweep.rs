//! The removal of clusters whose owner died without dropping them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::home::{self, DAEMON, LOCK, PREFIX};
use crate::postmaster::{PidFile, SHUTDOWN_GRACE, remove_shared_memory};
use crate::process;

/// A folder has no lock file while it is being made. One that has none for this long was left by a
/// process that died in between.
const MAX_SETUP_TIME: Duration = Duration::from_secs(3600);

/// Ends the servers and removes the folders of clusters whose owner is dead. Never fails: what it
/// cannot remove is logged and left.
pub(crate) fn sweep(parent: &Path) {
    let user = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
        if !ours {
            continue;
        }
        match Orphan::claim(&path) {
            Claim::Orphan(orphan) => {
                tracing::info!(path = %path.display(), "removing a cluster whose owner died");
                orphan.remove();
            }
            Claim::Unfinished => drop(home::remove(&path)),
            Claim::Owned => {}
        }
    }
}

enum Claim {
    Owned,
    Unfinished,
    Orphan(Orphan),
}

/// A folder whose owner is dead, and whose lock this process holds now.
struct Orphan {
    path: PathBuf,
    _lock: File,
}

impl Orphan {
    fn claim(path: &Path) -> Claim {
        let name = path.join(LOCK);
        let Ok(lock) = File::open(&name) else {
            let age = fs::metadata(path).and_then(|meta| meta.modified());
            let old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > MAX_SETUP_TIME));
            return if old { Claim::Unfinished } else { Claim::Owned };
        };
        if lock.try_lock().is_err() {
            return Claim::Owned;
        }
        // Another sweep may have removed the folder since the file was opened. The lock is then on a
        // file that is gone, and proves nothing.
        let same = |a: &fs::Metadata, b: &fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
        match (lock.metadata(), fs::metadata(&name)) {
            (Ok(held), Ok(named)) if same(&held, &named) => {
                Claim::Orphan(Self { path: path.to_owned(), _lock: lock })
            }
            _ => Claim::Owned,
        }
    }

    fn remove(self) {
        let entries = || fs::read_dir(&self.path).into_iter().flatten().flatten();
        // First what would start servers again.
        entries().for_each(|entry| end_daemon(&entry.path(), &self.path));
        entries().for_each(|entry| end_orphan(&entry.path().join("data")));
        if let Err(error) = home::remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a dead cluster's folder");
        }
    }
}

/// Ends a program that a cluster ran beside its servers, such as Patroni.
fn end_daemon(dir: &Path, home: &Path) {
    let pid = fs::read_to_string(dir.join(DAEMON)).ok().and_then(|text| text.trim().parse().ok());
    let Some(pid) = pid else { return };
    // The system may have given the number to another process since.
    let home = home.to_string_lossy();
    if process::command_line(pid).is_some_and(|line| line.contains(&*home)) {
        process::kill_tree(pid);
    }
}

/// Ends a server that is nobody's child.
pub(crate) fn end_orphan(data_dir: &Path) {
    let Some(pid) = PidFile::read(data_dir).map(|file| file.pid) else {
        return;
    };
    // The system may have given the number to another process since.
    let data = data_dir.to_string_lossy();
    let is_it = || process::command_line(pid).is_some_and(|line| line.contains(&*data));
    if is_it() {
        let pids = process::tree(pid);
        process::send(pid, Signal::SIGQUIT);
        process::thaw(pid);
        if !process::wait_gone(&pids, SHUTDOWN_GRACE) && is_it() {
            process::kill_tree(pid);
        }
    }
    remove_shared_memory(data_dir);
}
