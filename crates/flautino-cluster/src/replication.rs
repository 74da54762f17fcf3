//! Who replicates from whom, how far, and changes of both.

use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::address::conninfo;
use crate::error::{ClusterError, Step};
use crate::node::Node;
use crate::postmaster::remove_shared_memory;
use crate::process;
use crate::server::Status;
use crate::wait::blocking;

/// How [`Node::rejoin`] made a replica of a former primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejoined {
    /// `pg_rewind` took back what only it had.
    Rewound,
    /// Its data was thrown away and copied anew.
    Copied,
}

/// Whether a replica has replayed up to a position, which is bound as text.
const REPLAYED: &str = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)";

impl Node {
    /// Whether the server says that it is a replica.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    ///
    /// # Cancellation
    ///
    /// Nothing is changed.
    pub async fn is_in_recovery(&self) -> Result<bool, ClusterError> {
        self.ask("ask for its role", "SELECT pg_is_in_recovery()").await
    }

    /// The position as PostgreSQL prints it: what a primary has made durable, what a replica has
    /// replayed.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    ///
    /// # Cancellation
    ///
    /// Nothing is changed.
    pub async fn position(&self) -> Result<String, ClusterError> {
        let sql = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                   ELSE pg_current_wal_flush_lsn() END)::text";
        self.ask("ask for its position", sql).await
    }

    /// Waits until this replica has replayed up to a position such as `0/3000148`.
    ///
    /// # Errors
    ///
    /// When it does not get there within the cluster's timeout, or is no replica.
    ///
    /// # Cancellation
    ///
    /// Nothing is changed.
    pub async fn wait_for_replay(&self, position: &str) -> Result<(), ClusterError> {
        if !self.is_in_recovery().await? {
            return Err(self.state_error("wait for replay on", "it is a primary"));
        }
        let step = format!("replay up to {position}");
        self.until(self.port(), &step, REPLAYED, Some(position)).await
    }

    /// Waits until this replica has replayed all that `source` has made durable by now: every
    /// transaction whose commit was acknowledged, those with `synchronous_commit = off` excepted.
    ///
    /// # Errors
    ///
    /// As those of [`wait_for_replay`](Self::wait_for_replay).
    ///
    /// # Cancellation
    ///
    /// Nothing is changed.
    pub async fn catch_up_with(&self, source: &Node) -> Result<(), ClusterError> {
        self.wait_for_replay(&source.position().await?).await
    }

    /// Waits until this replica receives from its upstream, in the eyes of both.
    ///
    /// # Errors
    ///
    /// When it does not within the cluster's timeout, or has no upstream.
    ///
    /// # Cancellation
    ///
    /// Nothing is changed.
    pub async fn wait_until_streaming(&self) -> Result<(), ClusterError> {
        let Some(upstream) = self.upstream() else {
            return Err(self.state_error("wait for streaming of", "it has never been a replica"));
        };
        let receives = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver \
                        WHERE status = 'streaming' AND sender_port::text = $1)";
        let sends = "SELECT EXISTS (SELECT FROM pg_stat_replication \
                     WHERE state = 'streaming' AND application_name = $1)";
        let step = "stream from its upstream";
        self.until(self.port(), step, receives, Some(&upstream.to_string())).await?;
        self.until(upstream, step, sends, Some(self.name())).await
    }

    /// Stops replay on this replica: it still receives and no longer shows what is new.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked, or is no replica.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, replay may be paused.
    pub async fn pause_replay(&self) -> Result<(), ClusterError> {
        self.execute("SELECT pg_wal_replay_pause()").await?;
        // From 14 on, the request and its effect are told apart.
        let paused = if self.context().runner.binaries.major() >= 14 {
            "SELECT pg_get_wal_replay_pause_state() = 'paused'"
        } else {
            "SELECT pg_is_wal_replay_paused()"
        };
        self.until(self.port(), "pause replay", paused, None).await
    }

    /// Lets replay go on.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked, or is no replica.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, replay may go on.
    pub async fn resume_replay(&self) -> Result<(), ClusterError> {
        self.execute("SELECT pg_wal_replay_resume()").await
    }

    /// Makes a primary of this replica, and waits until it takes writes. Nothing happens to the
    /// old primary: two of them is a fault worth testing. Others are turned to the new one with
    /// [`follow`](Self::follow) and [`rejoin`](Self::rejoin).
    ///
    /// # Errors
    ///
    /// When it is no replica, or is not a primary within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the promotion goes on.
    pub async fn promote(&self) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        if !self.is_in_recovery().await? {
            return Err(self.state_error("promote", "it is a primary already"));
        }
        let _: bool = self.ask("promote", "SELECT pg_promote(false)").await?;
        let promoted = "SELECT NOT pg_is_in_recovery()";
        self.until(self.port(), "become a primary", promoted, None).await
    }

    /// Turns this replica to another upstream, a primary or a replica, and waits until it streams
    /// from there. One that is down does so at its next start.
    ///
    /// # Errors
    ///
    /// When this node is a primary (see [`rejoin`](Self::rejoin)), hangs, or does not stream from
    /// its new upstream within the cluster's timeout, as when it was ahead of it.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the replica may be turned already.
    pub async fn follow(&self, upstream: &Node) -> Result<(), ClusterError> {
        let _lock = self.lock_changes().await;
        match self.status() {
            Status::Hung(_) => {
                return Err(self.state_error("turn", "it is hung; resume it first"));
            }
            Status::Down(_) if !self.data_dir().join("standby.signal").exists() => {
                return Err(self.state_error("turn", "it was a primary; rejoin it"));
            }
            Status::Down(_) => {
                self.set_upstream(upstream.port());
                return Ok(());
            }
            Status::Up(_) => {}
        }
        if !self.is_in_recovery().await? {
            return Err(self.state_error("turn", "it is a primary; rejoin it"));
        }
        self.set_upstream(upstream.port());
        self.configure()?;
        if let Status::Up(pid) = self.status() {
            process::send(pid, Signal::SIGHUP);
        }
        self.wait_until_streaming().await
    }

    /// Makes a replica of a former primary: stops it if it runs, rewinds it with `pg_rewind` to
    /// where `primary` took over, or copies it anew where that fails, starts it, and waits until
    /// it streams. What only the former primary had committed is lost.
    ///
    /// # Errors
    ///
    /// When `primary` is this node or does not run, or when a program fails, with what it said.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, this node may be down and without usable data; rejoin it again.
    pub async fn rejoin(&self, primary: &Node) -> Result<Rejoined, ClusterError> {
        let _lock = self.lock_changes().await;
        if std::ptr::eq(self, primary) {
            return Err(self.state_error("rejoin", "it would replicate from itself"));
        }
        if let Status::Hung(_) | Status::Down(_) = primary.status() {
            return Err(primary.state_error("replicate from", "start or resume it first"));
        }
        // An orderly stop first, since pg_rewind would have to recover a server that crashed.
        if self.stop_with(Signal::SIGINT).await.is_err() {
            self.stop_with(Signal::SIGQUIT).await?;
        }
        if self.rewind(primary).await.is_ok() && self.start_as_replica(primary, false).await.is_ok()
        {
            return Ok(Rejoined::Rewound);
        }
        self.stop_with(Signal::SIGQUIT).await?;
        self.copy_from(primary).await?;
        self.start_as_replica(primary, false).await?;
        Ok(Rejoined::Copied)
    }
}

impl Node {
    /// Makes the data directory of a cluster's first node.
    pub(crate) async fn initialise(&self) -> Result<(), ClusterError> {
        let data = self.data_dir_text();
        let mut arguments = vec!["-D", &data, "-U", "postgres", "-A", "trust"];
        arguments.extend(["-E", "UTF8", "--locale=C", "--no-sync"]);
        self.run("initdb", &arguments).await
    }

    /// Gives other nodes a copy of this node's data, whose server has not run yet.
    pub(crate) async fn seed(
        &self,
        others: impl Iterator<Item = &Node>,
    ) -> Result<(), ClusterError> {
        let from = self.data_dir();
        let targets: Vec<_> = others.map(Node::data_dir).collect();
        // If this future is dropped, the copying thread goes on; its context keeps the folder till then.
        let context = Arc::clone(self.context());
        let copy = move || {
            targets.iter().try_for_each(|to| {
                context.runner.copy(&from, to)?;
                // A base backup leaves the statistics out too: each server begins its own.
                let statistics = to.join("pg_stat");
                let step = || format!("empty {}", statistics.display());
                std::fs::remove_dir_all(&statistics).step(step)?;
                context.runner.create_private(&statistics)
            })
        };
        blocking(copy).await
    }

    /// Copies the data of a server that runs.
    pub(crate) async fn copy_from(&self, source: &Node) -> Result<(), ClusterError> {
        let data = self.data_dir();
        remove_shared_memory(&data);
        std::fs::remove_dir_all(&data).step(|| format!("remove {}", data.display()))?;
        self.context().runner.create_private(&data)?;
        let (data, source) = (self.data_dir_text(), conninfo(source.port()));
        let mut arguments = vec!["-D", &data, "-d", &source, "-X", "stream"];
        arguments.extend(["-c", "fast", "--no-sync"]);
        self.run("pg_basebackup", &arguments).await
    }

    /// Starts a server whose data is that of `upstream`, or was once.
    pub(crate) async fn start_as_replica(
        &self,
        upstream: &Node,
        may_move: bool,
    ) -> Result<(), ClusterError> {
        self.set_upstream(upstream.port());
        let signal = self.data_dir().join("standby.signal");
        self.context().runner.write(&signal, "")?;
        self.bring_up(may_move).await?;
        self.wait_until_streaming().await
    }

    async fn rewind(&self, primary: &Node) -> Result<(), ClusterError> {
        // Until its first checkpoint a new primary's control file still names the old timeline, from
        // which pg_rewind would conclude that there is nothing to do.
        primary.execute("CHECKPOINT").await?;
        let data = self.data_dir_text();
        let source = format!("{} dbname=postgres", conninfo(primary.port()));
        let arguments = ["--target-pgdata", &data, "--source-server", &source, "--no-sync"];
        let rewound = self.run("pg_rewind", &arguments).await;
        if let Err(error) = &rewound {
            tracing::debug!(%error, "pg_rewind failed; copying the data instead");
        }
        rewound
    }

    /// The data directory as an argument of a program.
    fn data_dir_text(&self) -> String {
        self.data_dir().to_string_lossy().into_owned()
    }

    async fn run(&self, program: &'static str, arguments: &[&str]) -> Result<(), ClusterError> {
        let (dir, output) = (self.data_dir(), self.program_log_path());
        let runner = &self.context().runner;
        let bound = self.timeout();
        runner.run(self.name(), program, arguments, (&dir, &output), bound).await
    }
}
