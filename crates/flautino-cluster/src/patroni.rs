//! Clusters that Patroni runs: it elects the primary, fails over, and brings former primaries back.
//!
//! A [`Patroni`] is an etcd and some [`Member`]s, each a Patroni with its PostgreSQL, in a temporary folder of its
//! own. It takes about ten seconds to start, and is gone without a trace on drop, as a [`Cluster`](crate::Cluster)
//! is.
//!
//! ```no_run
//! # async fn example() -> Result<(), flautino_cluster::ClusterError> {
//! use flautino_cluster::patroni::Patroni;
//!
//! let patroni = Patroni::builder().start().await?;
//! let first = patroni.leader().await?;
//! first.execute("CREATE TABLE notes (title text)").await?;
//!
//! // A planned change of the leader, and one that nobody planned.
//! let second = patroni.switchover(None).await?;
//! second.kill().await;
//! let third = patroni.leader().await?;
//! assert_ne!(third.name(), second.name());
//!
//! // It comes back as a replica, by pg_rewind if need be.
//! second.start().await?;
//! patroni.until_streaming().await?;
//! # Ok(()) }
//! ```
//!
//! It needs `patroni` and `etcd` in `PATH` (Debian: `patroni`, `etcd-server`), version 3 of either or newer.

mod builder;
mod daemon;
mod etcd;
mod member;
mod rest;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::etcd::Etcd;
use self::rest::Rest;
use crate::error::ClusterError;
use crate::home::Home;
use crate::program::Runner;
use crate::wait::{POLL_INTERVAL, blocking};

pub use self::builder::Builder;
pub use self::member::Member;
pub use self::rest::Listed;

/// A cluster that Patroni runs.
#[derive(Debug)]
pub struct Patroni {
    members: Vec<Member>,
    /// Below the members, which need it for as long as they run.
    _etcd: Etcd,
    shared: Arc<Shared>,
}

/// What all members have in common.
#[derive(Debug)]
struct Shared {
    runner: Runner,
    /// The program.
    patroni: PathBuf,
    /// The file with what all members have in common.
    config: PathBuf,
    /// Host and port of etcd.
    etcd: String,
    /// The bound of each single step.
    timeout: Duration,
    rest: Rest,
    home: Home,
}

impl Patroni {
    /// A builder with the defaults: three members.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The members in the order in which they were made: `p1`, `p2`….
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The file for `patronictl -c`, which knows where etcd is.
    #[must_use]
    pub fn ctl_config(&self) -> PathBuf {
        self.shared.home.path().join("patronictl.yml")
    }

    /// What Patroni knows of its members, from the first that answers.
    ///
    /// # Errors
    ///
    /// When no member answers; with what the last one said.
    ///
    /// # Cancellation
    ///
    /// Nothing is left behind.
    pub async fn list(&self) -> Result<Vec<Listed>, ClusterError> {
        self.ask_any(async |member| self.shared.rest.list(member).await).await
    }

    /// Waits until there is a leader, and returns it: the member that holds Patroni's lock, and takes writes.
    ///
    /// # Errors
    ///
    /// When there is none within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Nothing is left behind.
    pub async fn leader(&self) -> Result<&Member, ClusterError> {
        let mut leader = None;
        self.until("elect a leader", async || {
            for member in &self.members {
                if self.shared.rest.is_leader(member).await && member.takes_writes().await {
                    leader = Some(member);
                }
            }
            leader.is_some()
        })
        .await?;
        Ok(leader.expect("it was waited for"))
    }

    /// Hands the lead over, to a member of this name or one that Patroni chooses, and returns the new leader.
    ///
    /// # Errors
    ///
    /// When Patroni refuses, with what it says, or it does not come about within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// It may come about all the same.
    pub async fn switchover(&self, to: Option<&str>) -> Result<&Member, ClusterError> {
        let from = self.leader().await?;
        self.shared.rest.switchover(from, to).await?;
        self.leader().await
    }

    /// Changes the settings that all members share, as `patronictl edit-config` does: `{"ttl": 30}`.
    ///
    /// # Errors
    ///
    /// When no member takes them; with what the last one said.
    ///
    /// # Cancellation
    ///
    /// They may be changed all the same.
    pub async fn change_settings(&self, settings: &str) -> Result<(), ClusterError> {
        self.ask_any(async |member| self.shared.rest.change_settings(member, settings).await).await
    }

    /// Waits until each member that runs, other than the leader, streams from the leader.
    ///
    /// # Errors
    ///
    /// When that does not come about within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Nothing is left behind.
    pub async fn until_streaming(&self) -> Result<(), ClusterError> {
        self.until("stream from the leader", async || {
            let Ok(leader) = self.leader().await else { return false };
            let replicas = self.members.iter().filter(|member| member.name() != leader.name());
            let replicas = replicas.filter(|member| member.is_running()).map(Member::name);
            let replicas: Vec<_> = replicas.map(str::to_owned).collect();
            leader.streams_to(&replicas).await
        })
        .await
    }

    /// With `synchronous_mode`: waits until Patroni has a replica that has all that is acknowledged, and that it
    /// may promote.
    ///
    /// # Errors
    ///
    /// When that does not come about within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Nothing is left behind.
    pub async fn until_synchronous(&self) -> Result<(), ClusterError> {
        self.until("have a synchronous standby", async || {
            let listed = self.list().await.unwrap_or_default();
            listed.iter().any(|member| member.role == "sync_standby")
        })
        .await
    }

    /// Adds a member, which copies the leader, and waits until it streams.
    ///
    /// # Errors
    ///
    /// When it does not come up and stream within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, there may be a member that does not stream yet.
    pub async fn add_member(&mut self) -> Result<&Member, ClusterError> {
        let member = Member::new(self.members.len() + 1, &self.shared)?;
        member.start().await?;
        self.members.push(member);
        self.until_streaming().await?;
        Ok(&self.members[self.members.len() - 1])
    }

    /// Ends all, and removes all that there was.
    ///
    /// # Cancellation
    ///
    /// It goes on in the background.
    pub async fn stop(self) {
        blocking(move || drop(self)).await;
    }
}

impl Patroni {
    /// The first answer that is one. Members that do not run are not asked.
    async fn ask_any<T>(
        &self,
        ask: impl AsyncFn(&Member) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let mut said = None;
        for member in self.members.iter().filter(|member| member.is_running()) {
            match ask(member).await {
                Ok(answer) => return Ok(answer),
                Err(error) => said = Some(error),
            }
        }
        Err(said.unwrap_or_else(|| ClusterError::State {
            node: "Patroni".to_owned(),
            step: "ask",
            fix: "no member runs; start one",
        }))
    }

    async fn until(
        &self,
        step: &str,
        mut holds: impl AsyncFnMut() -> bool,
    ) -> Result<(), ClusterError> {
        let deadline = Instant::now() + self.shared.timeout;
        while !holds().await {
            if Instant::now() >= deadline {
                let log = self.members.iter().map(Member::log_end).collect();
                let node = "Patroni".to_owned();
                let waited = self.shared.timeout;
                return Err(ClusterError::Timeout { node, step: step.to_owned(), waited, log });
            }
            tokio::time::sleep(5 * POLL_INTERVAL).await;
        }
        Ok(())
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        // All Patronis first: one that lives would begin an election.
        for member in &self.members {
            member.end_patroni();
        }
    }
}
