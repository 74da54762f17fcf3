//! Process trees: who descends from a postmaster, and signals to all of them.
//!
//! Backends call `setsid`, so no process group holds them together: they are found by parent.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// One line of the process table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    pid: i32,
    parent: i32,
    state: char,
}

impl Entry {
    fn is_stopped(self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    fn is_dead(self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Sends a signal; a process that is gone is no error.
pub(crate) fn send(pid: i32, signal: Signal) {
    // Numbers below 1 mean whole groups of processes, and 1 is init.
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The process ids of the tree, root first, without those that are dead.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    entries(root).into_iter().map(|entry| entry.pid).collect()
}

/// Stops the whole tree; false when that took longer than `bound`.
pub(crate) fn freeze(root: i32, bound: Duration) -> bool {
    let deadline = Instant::now() + bound;
    // The postmaster first: once it stands still, it starts nothing new.
    send(root, Signal::SIGSTOP);
    loop {
        let running: Vec<_> =
            entries(root).into_iter().filter(|entry| !entry.is_stopped()).collect();
        if running.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        for entry in running {
            send(entry.pid, Signal::SIGSTOP);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Lets the whole tree go on, children first.
pub(crate) fn thaw(root: i32) {
    for pid in tree(root).into_iter().rev() {
        send(pid, Signal::SIGCONT);
    }
}

/// Kills the whole tree and waits until nothing of it runs, its root perhaps left to be reaped.
pub(crate) fn kill_tree(root: i32) {
    let bound = Duration::from_secs(2);
    // A process that is stopped cannot fork between the listing and the signal.
    freeze(root, bound);
    let pids = tree(root);
    for pid in pids.iter().rev() {
        send(*pid, Signal::SIGKILL);
    }
    wait_gone(&pids, bound);
}

/// Waits until none of the processes runs; false when that took longer than `bound`.
pub(crate) fn wait_gone(pids: &[i32], bound: Duration) -> bool {
    let deadline = Instant::now() + bound;
    loop {
        let table = table().unwrap_or_default();
        let alive = |pid| table.iter().any(|e| e.pid == pid && !e.is_dead());
        if !pids.iter().any(|pid| alive(*pid)) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn entries(root: i32) -> Vec<Entry> {
    let table = table().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the process table; only the postmaster is signalled");
        let state = 'T';
        vec![Entry { pid: root, parent: 0, state }]
    });
    let mut found: Vec<Entry> =
        table.iter().filter(|e| e.pid == root && !e.is_dead()).copied().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|entry| entry.pid) {
        let children = table.iter().filter(|e| e.parent == parent && !e.is_dead());
        found.extend(children.copied());
        next += 1;
    }
    found
}

#[cfg(target_os = "linux")]
fn table() -> io::Result<Vec<Entry>> {
    let mut table = Vec::with_capacity(256);
    for file in std::fs::read_dir("/proc")? {
        let name = file?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since.
        let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
            continue;
        };
        table.extend(parse_stat(pid, &String::from_utf8_lossy(&stat)));
    }
    Ok(table)
}

/// `PID (any name) STATE PARENT …`; the name may hold blanks and parentheses.
#[cfg(target_os = "linux")]
fn parse_stat(pid: i32, stat: &str) -> Option<Entry> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Entry { pid, parent, state })
}

#[cfg(not(target_os = "linux"))]
fn table() -> io::Result<Vec<Entry>> {
    let output = std::process::Command::new("ps").args(["-axo", "pid=,ppid=,state="]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let pid = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let state = fields.next()?.chars().next()?;
        Some(Entry { pid, parent, state })
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// The processes whose command line has this text in it.
#[cfg(feature = "patroni")]
pub(crate) fn naming(text: &str) -> Vec<i32> {
    let table = table().unwrap_or_default().into_iter().map(|entry| entry.pid);
    table.filter(|pid| command_line(*pid).is_some_and(|line| line.contains(text))).collect()
}

/// The command line of a process, for telling whose it is.
pub(crate) fn command_line(pid: i32) -> Option<String> {
    #[cfg(target_os = "linux")]
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    #[cfg(not(target_os = "linux"))]
    let text = std::process::Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?
        .stdout;
    Some(String::from_utf8_lossy(&text).replace('\0', " "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_tree_is_frozen_thawed_and_killed_to_the_last_leaf() {
        let mut root = Command::new("sh")
            .args(["-c", "sh -c 'sleep 1000 & wait' & wait"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(root.id()).unwrap();
        while tree(pid).len() < 3 {
            std::thread::sleep(POLL_INTERVAL);
        }
        let pids = tree(pid);
        assert!(freeze(pid, Duration::from_secs(5)));
        assert!(entries(pid).iter().all(|entry| entry.is_stopped()));
        thaw(pid);
        while entries(pid).iter().any(|entry| entry.is_stopped()) {
            std::thread::sleep(POLL_INTERVAL);
        }
        kill_tree(pid);
        root.wait().unwrap();
        assert!(wait_gone(&pids, Duration::ZERO));
    }
}
