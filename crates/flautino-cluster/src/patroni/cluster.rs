//! The cluster: its members, who leads, and the end of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::etcd::Etcd;
use super::member::Member;
use super::rest::{Listed, Rest};
use super::shared::Shared;
use crate::error::ClusterError;
use crate::wait::{POLL_INTERVAL, blocking};

/// How often Patroni is asked for what is waited for.
const ASK_INTERVAL: Duration = POLL_INTERVAL.saturating_mul(5);

/// A cluster that Patroni runs.
#[derive(Debug)]
pub struct Patroni {
    members: Vec<Member>,
    rest: Rest,
    /// Below the members, which need it for as long as they run.
    _etcd: Etcd,
    shared: Arc<Shared>,
}

impl Patroni {
    /// The members in the order in which they were made: `p1`, `p2`….
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The file for `patronictl -c`, which knows where etcd is.
    #[must_use]
    pub fn ctl_config(&self) -> PathBuf {
        self.shared.ctl_config()
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
        self.ask_any(async |member| self.rest.list(member).await).await
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
        self.until("elect a leader", async || {
            for member in &self.members {
                if self.rest.is_leader(member).await && member.takes_writes().await {
                    return Some(member);
                }
            }
            None
        })
        .await
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
        self.rest.switchover(from, to).await?;
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
        self.ask_any(async |member| self.rest.change_settings(member, settings).await).await
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
            let leader = self.leader().await.ok()?;
            let replicas = self.members.iter().filter(|member| member.name() != leader.name());
            let replicas = replicas.filter(|member| member.is_running()).map(Member::name);
            let replicas: Vec<_> = replicas.map(str::to_owned).collect();
            leader.streams_to(&replicas).await.then_some(())
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
            listed.iter().any(|member| member.role == "sync_standby").then_some(())
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
    /// A cluster whose members are laid out, and of which none runs.
    pub(super) fn new(
        members: usize,
        rest: Rest,
        etcd: Etcd,
        shared: Shared,
    ) -> Result<Self, ClusterError> {
        // From here on its drop ends all.
        let mut this = Self { members: Vec::new(), rest, _etcd: etcd, shared: Arc::new(shared) };
        for number in 1..=members {
            this.members.push(Member::new(number, &this.shared)?);
        }
        Ok(this)
    }

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

    /// Waits until there is what is looked for.
    async fn until<T>(
        &self,
        step: &str,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T, ClusterError> {
        let (waited, deadline) = (self.shared.timeout, Instant::now() + self.shared.timeout);
        loop {
            if let Some(found) = look().await {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let log = self.members.iter().map(Member::log_end).collect();
                let node = "Patroni".to_owned();
                return Err(ClusterError::Timeout { node, step: step.to_owned(), waited, log });
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
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
