//! Faults of the primary: it stands still, restarts, dies, and comes back.

use std::time::{Duration, Instant};

use flautino_cluster::Node;
use sqlx::AssertSqlSafe;

use super::Scene;
use crate::apps::Broken;
use crate::history::Rule;
use crate::world::NODES;

/// Log that only the old primary and one replica get, far more than a new primary soon writes.
const JUNK: &str = "SET synchronous_commit = local; \
                    INSERT INTO junk SELECT repeat('junk', 20) FROM generate_series(1, 20000)";
/// A replica that receives nothing any more, also over restarts.
const CUT_OFF: &str = "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'";
const RECONNECT: &str = "ALTER SYSTEM RESET primary_conninfo";
const RELOAD: &str = "SELECT pg_reload_conf()";
/// How far a replica has received; `true` once it has it all, since its sender is gone.
const RECEIVED: &str = "SELECT (pg_last_wal_receive_lsn() - '0/0')::int8, \
                        NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
const PATIENCE: Duration = Duration::from_secs(20);

impl Scene<'_> {
    pub(super) async fn hang_primary(&self) -> Result<(), Broken> {
        let node = self.world.node(self.primary());
        self.holds(self.now(), Rule::NoPrimary);
        let hang = async {
            node.hang().await?;
            self.linger(200, 1800).await;
            node.resume().await
        };
        self.during(Rule::WritesBreak, hang).await?;
        Ok(())
    }

    pub(super) async fn restart_primary(&self) -> Result<(), Broken> {
        let node = self.world.node(self.primary());
        self.holds(self.now(), Rule::NoPrimary);
        self.during(Rule::WritesBreak, node.stop()).await?;
        node.start().await?;
        Ok(())
    }

    pub(super) async fn restart_all(&self) -> Result<(), Broken> {
        self.holds(self.now(), Rule::TransactionsBreak);
        for number in self.world.replicas() {
            let node = self.world.node(number);
            node.restart().await?;
            node.wait_until_streaming().await?;
        }
        self.restart_primary().await
    }

    pub(super) async fn fail_over(&self) -> Result<(), Broken> {
        let (old, new) = self.promote_the_best().await?;
        self.linger(0, 800).await;
        self.world.node(old).rejoin(self.world.node(new)).await?;
        Ok(())
    }

    /// The old primary comes back as what it was. It takes no write that anybody hears of, since
    /// no standby of its own is left to confirm it.
    pub(super) async fn fail_over_and_haunt(&self) -> Result<(), Broken> {
        let (old, new) = self.promote_the_best().await?;
        self.world.apps_know_the_primary().await;
        let haunt = async {
            self.world.node(old).start().await?;
            self.linger(800, 2500).await;
            Ok::<_, Broken>(())
        };
        self.during(Rule::Forbidden(NODES[old], "a ghost of a primary"), haunt).await?;
        self.world.node(old).rejoin(self.world.node(new)).await?;
        Ok(())
    }

    /// One replica confirms and is promoted; the other one got more, which nobody was promised, and
    /// stays where it is for a while.
    pub(super) async fn fail_over_and_diverge(&self) -> Result<(), Broken> {
        let (old, new) = (self.primary(), self.replica());
        let others = self.world.replicas().into_iter().find(|number| *number != new);
        let astray = others.ok_or("there is no other replica")?;
        self.hits(&format!("with {} astray", NODES[astray]));
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
        // What it confirmed it has. From now on no write is confirmed.
        new_node.execute(CUT_OFF).await?;
        new_node.execute(RELOAD).await?;
        until(new_node, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await?;
        old_node.execute(JUNK).await?;
        astray_node.catch_up_with(old_node).await?;
        self.kill_primary(old).await?;
        new_node.promote().await?;
        self.promoted(new);
        new_node.execute(RECONNECT).await?;
        new_node.execute(RELOAD).await?;
        self.world.apps_know_the_primary().await;
        let behind = async {
            // So that there are writes, which the one astray does not have.
            old_node.rejoin(new_node).await?;
            self.linger(800, 2000).await;
            Ok::<_, Broken>(())
        };
        let rule = Rule::Forbidden(NODES[astray], "on a timeline that was left behind");
        self.during(rule, behind).await?;
        astray_node.rejoin(new_node).await?;
        Ok(())
    }

    /// Kills the primary and promotes the replica that has all that was confirmed; the other one
    /// follows it. Answers the old and the new one.
    async fn promote_the_best(&self) -> Result<(usize, usize), Broken> {
        let old = self.primary();
        self.kill_primary(old).await?;
        self.linger(0, 1000).await;
        let mut best = None;
        for number in self.world.replicas() {
            let received = received(self.world.node(number)).await?;
            best = best.max(Some((received, number)));
        }
        let (_, new) = best.ok_or("there is no replica")?;
        self.hits(&format!("to {}", NODES[new]));
        self.world.node(new).promote().await?;
        self.promoted(new);
        for number in self.world.replicas().into_iter().filter(|number| *number != old) {
            let (node, upstream) = (self.world.node(number), self.world.node(new));
            if node.follow(upstream).await.is_err() {
                node.rejoin(upstream).await?;
            }
        }
        Ok((old, new))
    }

    async fn kill_primary(&self, number: usize) -> Result<(), Broken> {
        self.holds(self.now(), Rule::NoPrimary);
        self.state().episode.failover = true;
        self.during(Rule::WritesBreak, self.world.node(number).kill()).await?;
        Ok(())
    }

    fn promoted(&self, number: usize) {
        self.world.set_primary(number);
    }
}

/// How far the replica has received, once it receives no more.
async fn received(node: &Node) -> Result<i64, Broken> {
    let mut connection = node.connect().await?;
    let deadline = Instant::now() + PATIENCE;
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

/// Waits until the node answers `true`.
async fn until(node: &Node, sql: &str) -> Result<(), Broken> {
    let mut connection = node.connect().await?;
    let deadline = Instant::now() + PATIENCE;
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
