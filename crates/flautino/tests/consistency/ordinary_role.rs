//! A role without `pg_monitor` does not see a replica's timeline; floors hold all the same.

use std::time::Duration;

use flautino::ReadYourWrites;
use flautino_lab::{Lab, catch_up, wait_until};

use crate::common::*;

async fn start() -> Lab {
    let lab = Lab::named("app")
        .replicas(2)
        .table("t (a int)")
        .as_role("app")
        .patient_probes()
        .start()
        .await;
    lab.until_served_by(&["read_replica_1", "read_replica_2"]).await;
    lab
}

#[tokio::test]
async fn replicas_serve_its_tokens_within_a_few_probes() {
    let Lab { cluster, engine, .. } = start().await;
    assert_eq!(engine.status().read_your_writes, Some(ReadYourWrites::Positions));
    for round in 1..=3 {
        let db = engine.handle();
        insert(&db, round).await;
        let token = db.token().await.unwrap();
        catch_up(&cluster).await;
        let db = with_token(&engine, token);
        for replica in ["read_replica_1", "read_replica_2"] {
            let waited = wait_until("a replica serves the token", async || {
                let read = read(&engine, &db, COUNT).await;
                assert_eq!(read.value, i64::from(round), "{read:?}");
                read.node == replica
            })
            .await;
            // Some probes take a second or two.
            assert!(waited < Duration::from_secs(15), "{replica} took {waited:?}");
        }
    }
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_lacks_the_write_never_serves_its_token() {
    let Lab { cluster, engine, .. } = start().await;
    for round in 1..=3 {
        // One lacks it; the other shows that replicas serve.
        let (behind, ahead) = (cluster.replica(0), cluster.replica(1));
        behind.pause_replay().await.unwrap();
        let db = engine.handle();
        insert(&db, round).await;
        let token = db.token().await.unwrap();
        ahead.catch_up_with(cluster.primary()).await.unwrap();
        let mut by_replica = 0;
        wait_until("the other one has served it often", async || {
            let read = read(&engine, &with_token(&engine, token), COUNT).await;
            assert_eq!(read.value, i64::from(round), "{read:?}");
            assert_ne!(read.node, "read_replica_1");
            by_replica += i32::from(read.is_from_replica());
            by_replica >= 20
        })
        .await;
        behind.resume_replay().await.unwrap();
        behind.catch_up_with(cluster.primary()).await.unwrap();
    }
    engine.close().await;
}

/// The second replica holds what was lost, and numbers its places further than the new primary.
#[tokio::test]
async fn after_a_failover_a_replica_of_the_old_timeline_meets_no_floor() {
    let Lab { cluster, engine, .. } = start().await;
    cut_off(cluster.replica(0)).await;
    let more = "INSERT INTO t SELECT 3 FROM generate_series(1, 20000)";
    cluster.primary().execute(more).await.unwrap();
    cluster.replica(1).catch_up_with(cluster.primary()).await.unwrap();
    cluster.primary().kill().await.unwrap();
    cluster.replica(0).promote().await.unwrap();
    until_primary(&engine, "read_replica_1").await;
    let db = engine.handle();
    insert(&db, 4).await;
    let token = db.token().await.unwrap();
    let probes = || engine.status().nodes[2].probes;
    let before = probes();
    wait_until("it was probed some times", async || {
        let read = read(&engine, &with_token(&engine, token), COUNT).await;
        assert_eq!(read.value, 1, "{read:?}");
        probes() >= before + 6
    })
    .await;
    engine.close().await;
}
