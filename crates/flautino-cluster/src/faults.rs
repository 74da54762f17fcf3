//! What can happen to a server: it stops, dies, hangs, and comes back.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::error::ClusterError;
use crate::node::Node;
use crate::process;
use crate::server::Status;
use crate::wait::{POLL_INTERVAL, blocking};

impl Node {
    /// Starts the server after a stop or a kill, on the same port, and waits until it accepts
    /// connections. Does nothing to one that runs.
    ///
    /// A replica is not waited for until it streams: see
    /// [`wait_until_streaming`](Self::wait_until_streaming).
    ///
    /// # Errors
    ///
    /// When the server does not come up within the cluster's timeout, with the end of its log; or
    /// when it is hung.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the server goes on starting.
    pub async fn start(&self) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        match self.status() {
            Status::Hung(_) => Err(self.state_error("start", "it is hung; resume it first")),
            Status::Up(_) => self.until_ready(Instant::now() + self.timeout()).await,
            Status::Down(_) => self.bring_up(false).await,
        }
    }

    /// Stops the server in order ("fast": sessions are ended, replicas get all that was written),
    /// and waits for its end. A hung one is resumed first. Its port then refuses connections.
    ///
    /// # Errors
    ///
    /// When the server is still there after the cluster's timeout. A primary waits for its
    /// replicas, so a hung one holds it up: then use [`stop_immediate`](Self::stop_immediate).
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the server goes on stopping.
    pub async fn stop(&self) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        self.stop_with(Signal::SIGINT).await
    }

    /// Ends the server at once, without a checkpoint: its next start recovers from a crash. Unlike
    /// with [`kill`](Self::kill), clients are told.
    ///
    /// # Errors
    ///
    /// When the server is still there after the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the server goes on stopping.
    pub async fn stop_immediate(&self) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        self.stop_with(Signal::SIGQUIT).await
    }

    /// [`stop`](Self::stop), then [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// As theirs.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the server may be left stopped.
    pub async fn restart(&self) -> Result<(), ClusterError> {
        self.stop().await?;
        self.start().await
    }

    /// Kills the server and all its sessions with SIGKILL, as a crash of the machine would. Its
    /// port then refuses connections, and connections that were open are closed.
    ///
    /// # Errors
    ///
    /// When the server is still there after the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the server is killed all the same.
    pub async fn kill(&self) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        let (Status::Up(pid) | Status::Hung(pid)) = self.status() else {
            return Ok(());
        };
        blocking(move || process::kill_tree(pid)).await;
        self.until_down("end after SIGKILL").await
    }

    /// Stops the server's whole process tree with SIGSTOP: connections stay open and new ones are
    /// accepted by the kernel, and nothing answers any more. [`resume`](Self::resume) ends it.
    ///
    /// # Errors
    ///
    /// When the server is down, or a process of it does not stop within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the server hangs all the same.
    pub async fn hang(&self) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        let pid = match self.status() {
            Status::Up(pid) | Status::Hung(pid) => pid,
            Status::Down(_) => return Err(self.state_error("hang", "it is down; start it first")),
        };
        self.server().set_hung(true);
        let bound = self.timeout();
        if blocking(move || process::freeze(pid, bound)).await {
            Ok(())
        } else {
            Err(self.timed_out("stand still after SIGSTOP"))
        }
    }

    /// Lets a hung server go on where it was. Does nothing to one that is not hung.
    ///
    /// # Errors
    ///
    /// When the server is down.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the server goes on all the same.
    pub async fn resume(&self) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        match self.status() {
            Status::Up(_) => Ok(()),
            Status::Down(_) => Err(self.state_error("resume", "it is down; start it")),
            Status::Hung(pid) => {
                blocking(move || process::thaw(pid)).await;
                self.server().set_hung(false);
                Ok(())
            }
        }
    }

    /// Ends the server with a signal to its postmaster. The caller holds the lock of changes.
    pub(crate) async fn stop_with(&self, signal: Signal) -> Result<(), ClusterError> {
        let (Status::Up(pid) | Status::Hung(pid)) = self.status() else {
            return Ok(());
        };
        process::send(pid, signal);
        if let Status::Hung(_) = self.status() {
            blocking(move || process::thaw(pid)).await;
            self.server().set_hung(false);
        }
        self.until_down("end").await
    }

    async fn until_down(&self, step: &str) -> Result<(), ClusterError> {
        let deadline = Instant::now() + self.timeout();
        while !matches!(self.status(), Status::Down(_)) {
            if Instant::now() >= deadline {
                return Err(self.timed_out(step));
            }
            tokio::time::sleep(POLL_INTERVAL / 2).await;
        }
        Ok(())
    }
}
