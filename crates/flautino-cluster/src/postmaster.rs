//! What a postmaster leaves in its data directory, and in the kernel when it is killed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a server has to end by itself before it is killed.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What a postmaster writes about itself in `postmaster.pid`.
#[derive(Debug)]
pub(crate) struct PidFile {
    pub(crate) pid: i32,
    pub(crate) status: String,
    /// Key and number of its System V segment.
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
    // After a reboot the number may be another program's segment: the key must be the same, and no
    // process attached.
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
