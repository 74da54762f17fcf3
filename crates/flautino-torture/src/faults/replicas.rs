//! Faults of a replica. None of them is felt by anyone who reads or writes.

use std::time::Duration;

use super::Scene;
use crate::apps::Broken;
use crate::history::Rule;

/// Readers on replicas are in the way of this.
const IN_THE_WAY: &str = "SET lock_timeout = '1s'; BEGIN; \
                          LOCK TABLE entries IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.12); COMMIT";
/// And of this, where they began before it.
const TIDY: [&str; 4] =
    ["INSERT INTO junk VALUES ('dust')", "DELETE FROM junk", "VACUUM junk", "VACUUM entries"];

impl Scene<'_> {
    pub(super) async fn kill_replica(&self) -> Result<(), Broken> {
        let node = self.world.node(self.replica());
        node.kill().await?;
        self.linger(100, 1500).await;
        node.start().await?;
        Ok(())
    }

    pub(super) async fn hang_replica(&self) -> Result<(), Broken> {
        let node = self.world.node(self.replica());
        node.hang().await?;
        self.linger(500, 3000).await;
        node.resume().await?;
        Ok(())
    }

    pub(super) async fn pause_replay(&self) -> Result<(), Broken> {
        let node = self.world.node(self.replica());
        node.pause_replay().await?;
        self.linger(500, 3000).await;
        node.resume_replay().await?;
        Ok(())
    }

    pub(super) async fn conflict(&self) -> Result<(), Broken> {
        self.hits("all replicas");
        self.holds(self.now(), Rule::TransactionsBreak);
        let primary = self.world.node(self.world.primary());
        for _ in 0..self.u64(2, 6) {
            // A lock that is not had in time is none.
            let _ = primary.execute(IN_THE_WAY).await;
            for sql in TIDY {
                primary.execute(sql).await?;
            }
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
        Ok(())
    }
}
