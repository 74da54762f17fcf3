//! The server process of one node: up, hung or down. It is ended when its [`Server`] is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::{ClusterError, Step};
use crate::ports::HeldPort;
use crate::postmaster::{SHUTDOWN_GRACE, remove_shared_memory};
use crate::process;

/// The state of the process, as just found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// No process; its last exit status, if there was one.
    Down(Option<ExitStatus>),
    /// The postmaster of this pid runs.
    Up(i32),
    /// It is stopped by [`Node::hang`](crate::Node::hang).
    Hung(i32),
}

/// A postmaster that is this process's child; while there is none, the port that is kept for it.
#[derive(Debug)]
pub(crate) struct Server {
    data_dir: PathBuf,
    port: u16,
    state: State,
}

#[derive(Debug)]
enum State {
    Down {
        /// `None` when another program has taken the port.
        _held: Option<HeldPort>,
        last: Option<ExitStatus>,
    },
    Up {
        child: Child,
        pid: i32,
        hung: bool,
    },
}

impl Server {
    pub(crate) fn new(data_dir: &Path, port: HeldPort) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            port: port.port(),
            state: State::Down { _held: Some(port), last: None },
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Another port for a server that is down.
    pub(crate) fn move_to(&mut self, held: HeldPort) {
        self.port = held.port();
        self.state = State::Down { _held: Some(held), last: None };
    }

    pub(crate) fn launch(&mut self, command: &mut Command) -> Result<(), ClusterError> {
        // Its port is free from here until the server has it.
        self.state = State::Down { _held: None, last: None };
        let child = command.spawn().step(|| format!("run {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        self.state = State::Up { child, pid, hung: false };
        Ok(())
    }

    /// The present state; a server that has ended is reaped.
    pub(crate) fn status(&mut self) -> Status {
        let ended = match &mut self.state {
            State::Down { last, .. } => return Status::Down(*last),
            State::Up { child, pid, hung } => match child.try_wait() {
                Ok(Some(status)) => Some(status),
                Ok(None) if *hung => return Status::Hung(*pid),
                Ok(None) => return Status::Up(*pid),
                // Only this process can reap it, so an error means that it is gone.
                Err(_) => None,
            },
        };
        let _held = HeldPort::hold(self.port).ok();
        self.state = State::Down { _held, last: ended };
        Status::Down(ended)
    }

    pub(crate) fn set_hung(&mut self, now: bool) {
        if let State::Up { hung, .. } = &mut self.state {
            *hung = now;
        }
    }

    /// The first half of [`end`](Self::end), so that several servers can end at once.
    pub(crate) fn begin_end(&mut self) {
        if let Status::Up(pid) | Status::Hung(pid) = self.status() {
            process::send(pid, Signal::SIGQUIT);
            process::thaw(pid);
        }
    }

    /// Ends the server at once, without a runtime; kills it if it does not end by itself.
    pub(crate) fn end(&mut self) {
        let (Status::Up(pid) | Status::Hung(pid)) = self.status() else {
            remove_shared_memory(&self.data_dir);
            return;
        };
        self.begin_end();
        let deadline = Instant::now() + SHUTDOWN_GRACE;
        while Instant::now() < deadline {
            if let Status::Down(_) = self.status() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        process::kill_tree(pid);
        if let State::Up { child, .. } = &mut self.state {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.status();
        remove_shared_memory(&self.data_dir);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
