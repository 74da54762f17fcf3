//! What is told of nodes: roles, faults, lag, and what is left of one that has gone.

use std::collections::BTreeMap;
use std::time::Duration;

use flautino_lab::Lab;

use crate::page::{Metrics, start};

const EVENTS: &str = "flautino_events_total";
const UP: &str = "flautino_node_up";
const PRIMARY: &str = "flautino_node_primary";

#[tokio::test]
async fn a_failover_is_told() {
    let lab = start(Lab::named("failover").replicas(2).config(|config| {
        config.routing.failover_timeout = Duration::from_secs(60);
    }))
    .await;
    let main = Metrics::of(&lab.engine, "main");
    let replica = Metrics::of(&lab.engine, "read_replica_1");
    main.until(PRIMARY, "", |primary| primary == 1.0).await;
    replica.until(PRIMARY, "", |primary| primary == 0.0).await;
    replica.until(UP, "", |up| up == 1.0).await;
    // Before the first one, so that it is an increase.
    replica.until(EVENTS, "kind=\"primary\"", |count| count == 0.0).await;

    lab.primary().kill().await.unwrap();
    main.until(UP, "", |up| up == 0.0).await;
    main.until(EVENTS, "kind=\"down\"", |count| count >= 1.0).await;
    main.until(PRIMARY, "", |primary| primary == 0.0).await;
    let db = lab.db.clone();
    let writing =
        tokio::spawn(
            async move { sqlx::query("CREATE TABLE a (b int)").execute(&db).await.map(drop) },
        );
    main.until(EVENTS, "kind=\"waited\"", |count| count >= 1.0).await;
    lab.cluster.replica(0).promote().await.unwrap();
    replica.until(PRIMARY, "", |primary| primary == 1.0).await;
    replica.until(EVENTS, "kind=\"primary\"", |count| count >= 1.0).await;
    writing.await.unwrap().unwrap();
    // Once for the statement, however often it looked.
    assert_eq!(main.value(EVENTS, "kind=\"waited\""), Some(1.0));
    lab.engine.close().await;
    main.until(PRIMARY, "", f64::is_nan).await;
    replica.until(UP, "", f64::is_nan).await;
}

#[tokio::test]
async fn a_replica_that_falls_behind_shows_its_lag_and_that_it_serves_no_reads() {
    let lab = start(Lab::named("lag").replicas(1)).await;
    let replica = Metrics::of(&lab.engine, "read_replica_1");
    let bytes = "flautino_node_lag_size_bytes";
    replica.until(bytes, "", |bytes| bytes == 0.0).await;
    replica.until("flautino_node_excluded", "", |excluded| excluded == 0.0).await;
    lab.cluster.replica(0).pause_replay().await.unwrap();
    lab.primary().execute("CREATE TABLE behind AS SELECT generate_series(1, 9999)").await.unwrap();
    replica.until(bytes, "", |bytes| bytes > 100_000.0).await;
    replica.until("flautino_node_lag_seconds", "", |lag| lag > 1.0).await;
    replica.until("flautino_node_excluded", "", |excluded| excluded == 1.0).await;
    lab.cluster.replica(0).resume_replay().await.unwrap();
    replica.until("flautino_node_excluded", "", |excluded| excluded == 0.0).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn of_a_node_that_has_left_nothing_is_known() {
    let lab = start(Lab::named("left").replicas(1)).await;
    lab.until_served_by(&["read_replica_1"]).await;
    let replica = Metrics::of(&lab.engine, "read_replica_1");
    replica.until("db_client_connection_max", "", |max| max > 0.0).await;
    lab.engine.set_nodes(BTreeMap::new()).await.unwrap();
    replica.until(UP, "", f64::is_nan).await;
    replica.until("db_client_connection_count", "state=\"idle\"", |count| count == 0.0).await;
    replica.until("db_client_connection_max", "", |max| max == 0.0).await;
    // It comes back under the same name.
    lab.engine.set_nodes(lab.config.extra_nodes.clone()).await.unwrap();
    replica.until(UP, "", |up| up == 1.0).await;
    lab.engine.close().await;
}
