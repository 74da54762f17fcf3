//! Faults of the primary: it hangs, restarts, dies, and comes back.

use std::time::{Duration, Instant};

use flautino_cluster::Node;
use sqlx::AssertSqlSafe;

use super::injection::Injection;
use crate::error::BoxError;
use crate::history::Rule;
use crate::world::NODES;

/// Writes log that only the old primary and one replica get: far more than the new primary writes
/// soon, so that the replica's position is ahead of the new primary's.
const JUNK: &str = "SET synchronous_commit = local; \
                    INSERT INTO junk SELECT repeat('junk', 20) FROM generate_series(1, 20000)";
/// Cuts a replica off from the primary, also over restarts.
const CUT_OFF: &str = "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'";
const RECONNECT: &str = "ALTER SYSTEM RESET primary_conninfo";
const RELOAD: &str = "SELECT pg_reload_conf()";
/// How far a replica has received, and whether that is all, since its sender is gone.
const RECEIVED: &str = "SELECT (pg_last_wal_receive_lsn() - '0/0')::int8, \
                        NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
const TIMEOUT: Duration = Duration::from_secs(20);

impl Injection<'_> {
    pub(super) async fn hang_primary(&self) -> Result<(), BoxError> {
        let node = self.world.node(self.primary());
        self.rule_until_recovery(self.now(), Rule::NoPrimary);
        let hang = async {
            node.hang().await?;
            self.wait(200, 1800).await;
            node.resume().await
        };
        self.rule_during(Rule::WritesBreak, hang).await?;
        Ok(())
    }

    pub(super) async fn restart_primary(&self) -> Result<(), BoxError> {
        let node = self.world.node(self.primary());
        self.rule_until_recovery(self.now(), Rule::NoPrimary);
        self.rule_during(Rule::WritesBreak, node.stop()).await?;
        node.start().await?;
        Ok(())
    }

    pub(super) async fn restart_all(&self) -> Result<(), BoxError> {
        self.rule_until_recovery(self.now(), Rule::TransactionsBreak);
        for number in self.world.replicas() {
            let node = self.world.node(number);
            node.restart().await?;
            node.wait_until_streaming().await?;
        }
        self.restart_primary().await
    }

    pub(super) async fn fail_over(&self) -> Result<(), BoxError> {
        let (old, new) = self.promote_furthest().await?;
        self.wait(0, 800).await;
        self.world.node(old).rejoin(self.world.node(new)).await?;
        Ok(())
    }

    /// The old primary comes back as a primary. None of its writes is acknowledged, since no standby
    /// follows it that could confirm one.
    pub(super) async fn fail_over_with_ghost(&self) -> Result<(), BoxError> {
        let (old, new) = self.promote_furthest().await?;
        self.world.wait_until_apps_know_primary().await;
        let ghost = async {
            self.world.node(old).start().await?;
            self.wait(800, 2500).await;
            Ok::<_, BoxError>(())
        };
        self.rule_during(Rule::Forbidden(NODES[old], "a ghost of a primary"), ghost).await?;
        self.world.node(old).rejoin(self.world.node(new)).await?;
        Ok(())
    }

    /// One replica confirms commits and is promoted. The other one has received more, which no client
    /// was told is committed, and stays on the old timeline for a while.
    pub(super) async fn fail_over_and_diverge(&self) -> Result<(), BoxError> {
        let (old, new) = (self.primary(), self.replica());
        let others = self.world.replicas().into_iter().find(|number| *number != new);
        let astray = others.ok_or("there is no other replica")?;
        self.record_target(&format!("with {} astray", NODES[astray]));
        let [old_node, new_node, astray_node] = [old, new, astray].map(|n| self.world.node(n));
        let alone =
            format!("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ({})'", new_node.name());
        old_node.execute(&alone).await?;
        old_node.execute(RELOAD).await?;
        until(
            old_node,
            &format!(
                "SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = '{}'",
                new_node.name()
            ),
        )
        .await?;
        // From now on no commit is acknowledged, so the new primary has all that were.
        new_node.execute(CUT_OFF).await?;
        new_node.execute(RELOAD).await?;
        until(new_node, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await?;
        old_node.execute(JUNK).await?;
        astray_node.catch_up_with(old_node).await?;
        self.kill_primary(old).await?;
        new_node.promote().await?;
        self.world.set_primary(new);
        new_node.execute(RECONNECT).await?;
        new_node.execute(RELOAD).await?;
        self.world.wait_until_apps_know_primary().await;
        let behind = async {
            // With a standby that confirms them there are writes again, which `astray` does not have.
            old_node.rejoin(new_node).await?;
            self.wait(800, 2000).await;
            Ok::<_, BoxError>(())
        };
        let rule = Rule::Forbidden(NODES[astray], "on a timeline that was left behind");
        self.rule_during(rule, behind).await?;
        astray_node.rejoin(new_node).await?;
        Ok(())
    }

    /// Kills the primary, promotes the replica that has received most, and lets the other one follow it.
    /// Returns the old and the new primary.
    async fn promote_furthest(&self) -> Result<(usize, usize), BoxError> {
        let old = self.primary();
        self.kill_primary(old).await?;
        self.wait(0, 1000).await;
        let mut furthest = None;
        for number in self.world.replicas() {
            let received = received(self.world.node(number)).await?;
            furthest = furthest.max(Some((received, number)));
        }
        let (_, new) = furthest.ok_or("there is no replica")?;
        self.record_target(&format!("to {}", NODES[new]));
        self.world.node(new).promote().await?;
        self.world.set_primary(new);
        for number in self.world.replicas().into_iter().filter(|number| *number != old) {
            let (node, upstream) = (self.world.node(number), self.world.node(new));
            if node.follow(upstream).await.is_err() {
                node.rejoin(upstream).await?;
            }
        }
        Ok((old, new))
    }

    async fn kill_primary(&self, number: usize) -> Result<(), BoxError> {
        self.rule_until_recovery(self.now(), Rule::NoPrimary);
        self.mark_failover();
        self.rule_during(Rule::WritesBreak, self.world.node(number).kill()).await?;
        Ok(())
    }
}

/// Waits until the replica receives no more. Returns how far it has received.
async fn received(node: &Node) -> Result<i64, BoxError> {
    let mut connection = node.connect().await?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (received, all): (i64, bool) =
            sqlx::query_as(RECEIVED).fetch_one(&mut connection).await?;
        if all {
            return Ok(received);
        }
        if Instant::now() >= deadline {
            return Err(format!("{} goes on receiving from a dead primary", node.name()).into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a query returns `true`.
async fn until(node: &Node, sql: &str) -> Result<(), BoxError> {
    let mut connection = node.connect().await?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        if query.fetch_optional(&mut connection).await? == Some(true) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{} waits in vain until {sql}", node.name()).into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
