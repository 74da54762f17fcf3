//! Faults of a replica. No read or write may fail because of one.

use std::time::Duration;

use super::injection::Injection;
use crate::error::BoxError;
use crate::history::Rule;

/// Replay of this lock conflicts with every read of the table on a replica.
const EXCLUSIVE_LOCK: &str = "SET lock_timeout = '1s'; BEGIN; \
                          LOCK TABLE entries IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.12); COMMIT";
/// Replay of the clean-up conflicts with reads on a replica that began before it.
const CLEAN_UP: [&str; 4] =
    ["INSERT INTO junk VALUES ('dust')", "DELETE FROM junk", "VACUUM junk", "VACUUM entries"];

impl Injection<'_> {
    pub(super) async fn kill_replica(&self) -> Result<(), BoxError> {
        let node = self.world.node(self.replica());
        node.kill().await?;
        self.wait(100, 1500).await;
        node.start().await?;
        Ok(())
    }

    pub(super) async fn hang_replica(&self) -> Result<(), BoxError> {
        let node = self.world.node(self.replica());
        node.hang().await?;
        self.wait(500, 3000).await;
        node.resume().await?;
        Ok(())
    }

    pub(super) async fn pause_replay(&self) -> Result<(), BoxError> {
        let node = self.world.node(self.replica());
        node.pause_replay().await?;
        self.wait(500, 3000).await;
        node.resume_replay().await?;
        Ok(())
    }

    pub(super) async fn conflict(&self) -> Result<(), BoxError> {
        self.record_target("all replicas");
        self.rule_until_recovery(self.now(), Rule::TransactionsBreak);
        let primary = self.world.node(self.world.primary());
        for _ in 0..self.random(2, 6) {
            // The next round tries again where this one does not get the lock in time.
            let _ = primary.execute(EXCLUSIVE_LOCK).await;
            for sql in CLEAN_UP {
                primary.execute(sql).await?;
            }
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
        Ok(())
    }
}
