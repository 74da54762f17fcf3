//! Against real servers. Each test has its cluster, and leaves nothing behind.
#![allow(clippy::unwrap_used, missing_docs)]

mod faults;
mod leftovers;
#[cfg(feature = "patroni")]
mod patroni;
mod proxy;
mod replication;
mod start;

use std::time::Duration;

use flautino_cluster::Node;
use sqlx::PgConnection;

/// Long, since machines that run tests are busy.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Creates a table `t (n int)` with one row.
async fn fill(node: &Node) {
    node.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
}

async fn count(node: &Node) -> i64 {
    rows(&mut node.connect().await.unwrap()).await.unwrap()
}

async fn rows(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(connection).await
}

/// Waits until a condition holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(TIMEOUT, wait).await;
    waited.unwrap_or_else(|_| panic!("{what}: not within {TIMEOUT:?}"));
}
