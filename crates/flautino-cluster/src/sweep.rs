//! Clearing up after owners that died without a drop.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::home::{self, LOCK, PREFIX};
use crate::process;

/// A folder without a lock file is being made; one that stays so was never finished.
const UNFINISHED: Duration = Duration::from_secs(3600);
/// How long a server has to end by itself.
pub(crate) const END: Duration = Duration::from_secs(5);

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

/// A folder whose lock is now ours.
struct Orphan {
    path: PathBuf,
    _lock: File,
}

impl Orphan {
    fn claim(path: &Path) -> Claim {
        let name = path.join(LOCK);
        let Ok(lock) = File::open(&name) else {
            let age = fs::metadata(path).and_then(|meta| meta.modified());
            let old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > UNFINISHED));
            return if old { Claim::Unfinished } else { Claim::Owned };
        };
        if lock.try_lock().is_err() {
            return Claim::Owned;
        }
        // Another sweep may have removed it meanwhile: then the lock is of a file that is gone.
        let same = |a: &fs::Metadata, b: &fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
        match (lock.metadata(), fs::metadata(&name)) {
            (Ok(held), Ok(named)) if same(&held, &named) => {
                Claim::Orphan(Self { path: path.to_owned(), _lock: lock })
            }
            _ => Claim::Owned,
        }
    }

    fn remove(self) {
        for node in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            end_orphan(&node.path().join("data"));
        }
        if let Err(error) = home::remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a dead cluster's folder");
        }
    }
}

/// Ends a server that is nobody's child any more.
fn end_orphan(data_dir: &Path) {
    let Some(pid) = PidFile::read(data_dir).map(|file| file.pid) else {
        return;
    };
    // The number may long be another process's.
    let data = data_dir.to_string_lossy();
    let is_it = || process::command_line(pid).is_some_and(|line| line.contains(&*data));
    if is_it() {
        let pids = process::tree(pid);
        process::send(pid, Signal::SIGQUIT);
        process::thaw(pid);
        if !process::wait_gone(&pids, END) && is_it() {
            process::kill_tree(pid);
        }
    }
    remove_shared_memory(data_dir);
}

/// What a postmaster writes about itself.
#[derive(Debug)]
pub(crate) struct PidFile {
    pub(crate) pid: i32,
    pub(crate) status: String,
    shared_memory: Option<(u64, u64)>,
}

impl PidFile {
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let segment = || {
            let (key, id) = lines.get(6)?.split_once(' ')?;
            Some((key.parse().ok()?, id.trim().parse().ok()?))
        };
        Some(Self {
            pid: lines.first()?.parse().ok()?,
            status: lines.get(7).copied().unwrap_or_default().to_owned(),
            shared_memory: segment(),
        })
    }
}

/// Removes the System V segment that a killed postmaster leaves behind, as a clean end would.
pub(crate) fn remove_shared_memory(data_dir: &Path) {
    let Some((key, id)) = PidFile::read(data_dir).and_then(|file| file.shared_memory) else {
        return;
    };
    // The number may be another's by now, after a reboot: the key must fit, and nobody be attached.
    if segment_is_left(key, id) {
        let _ = Command::new("ipcrm")
            .args(["-m", &id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[cfg(target_os = "linux")]
fn segment_is_left(key: u64, id: u64) -> bool {
    // key shmid perms size cpid lpid nattch …
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The key is printed signed.
        let key_fits = fields.first().and_then(|k| k.parse::<i64>().ok()).is_some_and(|k| {
            k.rem_euclid(1 << 32) == i64::try_from(key).unwrap_or(-1).rem_euclid(1 << 32)
        });
        key_fits
            && fields.get(1).and_then(|field| field.parse().ok()) == Some(id)
            && fields.get(6) == Some(&"0")
    })
}

#[cfg(not(target_os = "linux"))]
fn segment_is_left(key: u64, id: u64) -> bool {
    // T ID KEY MODE OWNER GROUP NATTCH
    let Ok(output) = Command::new("ipcs").args(["-m", "-o"]).output() else {
        return false;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = fields.get(2).and_then(|field| field.strip_prefix("0x"));
        fields.get(1).and_then(|field| field.parse().ok()) == Some(id)
            && hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()) == Some(key)
            && fields.last() == Some(&"0")
    })
}
