//! A program beside the servers that runs until it is ended: etcd, a Patroni.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::{ClusterError, Step};
use crate::home::DAEMON;
use crate::process;

/// How long what it has started may take to end.
const CHILD_GRACE: Duration = Duration::from_secs(2);

/// A program that is this process's child. It is killed when this is dropped, with all that it started and
/// that is still its child.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    pid: i32,
    /// Says to a later process which one to end, should this one be killed.
    pid_file: PathBuf,
}

impl Daemon {
    /// Starts it. What it says goes to the end of `log`; `dir` is its folder in the cluster's.
    pub(super) fn start(
        mut command: Command,
        dir: &Path,
        log: &Path,
    ) -> Result<Self, ClusterError> {
        let step = || format!("open {}", log.display());
        let file = File::options().create(true).append(true).open(log).step(step)?;
        let copy = file.try_clone().step(step)?;
        command.stdout(file).stderr(copy);
        let spawned = command.spawn();
        let child = spawned.step(|| format!("run {}", command.get_program().to_string_lossy()))?;
        // It fits: the system's greatest is far below.
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let daemon = Self { child, pid, pid_file: dir.join(DAEMON) };
        let path = &daemon.pid_file;
        fs::write(path, pid.to_string()).step(|| format!("write {}", path.display()))?;
        Ok(daemon)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end in order.
    pub(super) fn terminate(&mut self) {
        // Only while it is not reaped is the number its own.
        if self.ended().is_none() {
            process::send(self.pid, Signal::SIGTERM);
        }
    }

    /// Kills it, and all that it started and that is still its child.
    pub(super) fn kill(&mut self) {
        if self.ended().is_none() {
            // It starts nothing while its children are listed.
            process::send(self.pid, Signal::SIGSTOP);
            let children = process::tree(self.pid).into_iter().filter(|pid| *pid != self.pid);
            let children: Vec<_> = children.collect();
            let _ = self.child.kill();
            let _ = self.child.wait();
            // The servers that initdb runs remove their shared memory, if they may end by themselves.
            for child in &children {
                process::send(*child, Signal::SIGTERM);
            }
            if !process::wait_gone(&children, CHILD_GRACE) {
                children.into_iter().for_each(process::kill_tree);
            }
        }
        let _ = fs::remove_file(&self.pid_file);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
