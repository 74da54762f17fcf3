//! What a node is now is learnt from the server, also after it has changed.

use flautino::{Engine, Health, Role};
use flautino_lab::{Lab, cluster, config, sqlstate, wait_until};

#[tokio::test]
async fn a_promoted_replica_takes_writes_without_reopening() {
    let Lab { cluster, engine, .. } =
        Lab::named("promoted").replicas(1).table("t (a int)").start().await;
    let db = engine.handle().node("read_replica_1").unwrap();
    let write = async || sqlx::query("INSERT INTO t VALUES (1)").execute(&db).await;
    assert_eq!(sqlstate(&write().await.unwrap_err()), "25006");
    assert_eq!(engine.status().nodes[1].role, Role::Replica);

    cluster.replica(0).promote().await.unwrap();
    // Its sessions are read-only still, until the first refusal makes it ask again.
    wait_until("it takes writes", async || write().await.is_ok()).await;
    assert_eq!(engine.status().nodes[1].role, Role::Primary);
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_was_down_at_open_is_known_once_it_is_back() {
    let cluster = cluster(1).await;
    cluster.replica(0).stop().await.unwrap();
    let engine = Engine::new(config(&cluster, "late")).unwrap();
    assert_eq!(engine.open().await.unwrap().warnings.len(), 1);
    let status = &engine.status().nodes[1];
    assert_eq!((status.role, status.health), (Role::Unknown, Health::Down));
    assert!(status.reason.is_some());

    cluster.replica(0).start().await.unwrap();
    let db = engine.handle().node("read_replica_1").unwrap();
    let read_only: String =
        sqlx::query_scalar("SHOW default_transaction_read_only").fetch_one(&db).await.unwrap();
    assert_eq!(read_only, "on");
    wait_until("the monitor has seen it too", async || {
        let status = &engine.status().nodes[1];
        (status.role, status.health) == (Role::Replica, Health::Up) && status.reason.is_none()
    })
    .await;
    engine.close().await;
}
