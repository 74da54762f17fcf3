//! Limits that are reached are no sign of a dead node.

use std::time::Duration;

use flautino::{Error, Health};
use flautino_cluster::Cluster;
use flautino_lab::{cluster, config, run, settings, status_of, until_sessions, wait_until};

use crate::common::{MAIN, REPLICAS, open_reading, until_reads_from};

#[tokio::test]
async fn a_full_pool_is_no_dead_node() {
    let cluster = cluster(1).await;
    let mut config = config(&cluster, "full");
    config.pool.max_connections = 2;
    config.pool.acquire_timeout = Duration::from_secs(1);
    let engine = open_reading(config, &REPLICAS[..1]).await;
    let named = engine.handle().node(REPLICAS[0]).unwrap();
    let held = (named.acquire().await.unwrap(), named.acquire().await.unwrap());
    for _ in 0..3 {
        let full = run(&named, "SELECT 1").await.unwrap_err();
        assert!(matches!(Error::of(&full), Some(Error::AcquireTimeout { .. })), "{full}");
        let status = status_of(&engine, REPLICAS[0]);
        assert_eq!((status.health, status.reason), (Health::Up, None));
    }
    drop(held);
    until_reads_from(&engine, &REPLICAS[..1]).await;
    engine.close().await;
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_no_dead_node() {
    let builder = Cluster::builder().replicas(1).setting("max_connections", "12");
    let cluster = builder.start().await.unwrap();
    let mut config = config(&cluster, "crowded");
    settings::patient_probes(&mut config);
    config.pool.acquire_timeout = Duration::from_secs(1);
    let engine = open_reading(config, &REPLICAS[..1]).await;
    // The engine's connections are ended, the monitor's too, and others take their places.
    let mut killer = cluster.replica(0).connect().await.unwrap();
    let mut ended = async || -> i64 {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE application_name LIKE 'crowded%'";
        sqlx::query_scalar(end).fetch_one(&mut killer).await.unwrap()
    };
    let mut crowd = Vec::new();
    let mut refused = 0;
    wait_until("others have all places", async || {
        let gone = ended().await == 0;
        match cluster.replica(0).connect().await {
            Ok(connection) => {
                crowd.push(connection);
                refused = 0;
            }
            // One that has left may still be leaving.
            Err(_) => refused = if gone { refused + 1 } else { 0 },
        }
        refused == 3
    })
    .await;
    let probes = status_of(&engine, REPLICAS[0]).probes;
    wait_until("it was probed", async || status_of(&engine, REPLICAS[0]).probes > probes + 5).await;
    assert_eq!(status_of(&engine, REPLICAS[0]).health, Health::Up);
    for _ in 0..5 {
        run(&engine.handle(), "SELECT 1").await.unwrap();
    }
    assert_eq!(ended().await, 0, "nobody came in");
    drop(crowd);
    until_reads_from(&engine, &REPLICAS[..1]).await;
    assert_eq!(status_of(&engine, MAIN).health, Health::Up);
    engine.close().await;
    until_sessions(cluster.primary(), "crowded", 0).await;
}
