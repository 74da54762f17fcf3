//! A node that leaves a running engine: from then on it gets nothing, and nothing of ours is left.

use std::time::{Duration, Instant};

use flautino_cluster::Cluster;
use flautino_lab::{cluster, node_of, reader, run, tasks, until_served_by, wait_until};

use crate::common::{
    MAIN, Nodes, eager, hasty, names, open_with, sessions, set, these, until_no_sessions,
};

#[tokio::test]
async fn no_statement_goes_to_a_node_that_left() {
    let builder = Cluster::builder().replicas(2).setting("log_statement", "all");
    let cluster = builder.start().await.unwrap();
    let engine = open_with(&cluster, "gone", &[0, 1], eager).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    let lease = engine.handle().node("r1").unwrap().acquire().await.unwrap();
    let changing = {
        let (engine, nodes) = (engine.clone(), these(&cluster, "gone", &[1]));
        tokio::spawn(async move { set(&engine, nodes).await })
    };
    wait_until("it is no node any more", async || names(&engine) == [MAIN, "r2"]).await;
    // It drains, as the lease is held, and it gets nothing more.
    assert!(!changing.is_finished());
    for _ in 0..200 {
        let db = engine.handle();
        run(&db, "SELECT 1 /* marked */").await.unwrap();
        assert_ne!(node_of(&db), "r1");
    }
    assert!(!changing.is_finished());
    drop(lease);
    let report = changing.await.unwrap();
    assert_eq!(report.removed, ["r1"]);
    assert_eq!((report.drained, report.cancelled, report.still_held), (1, 0, 0), "{report:?}");
    assert!(!cluster.replica(0).log().contains("marked"));
    assert!(cluster.replica(1).log().contains("marked"));
    engine.close().await;
}

#[tokio::test]
async fn its_server_has_no_session_of_ours_and_no_task_of_it_goes_on() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "left", &[0], eager).await;
    until_served_by(&engine, &["r1"]).await;
    let before = tasks();
    set(&engine, these(&cluster, "left", &[0, 1])).await;
    until_served_by(&engine, &["r2"]).await;
    assert!(sessions(cluster.replica(1), "left").await >= 2, "a pool's and the monitor's");
    assert!(tasks() > before);
    set(&engine, these(&cluster, "left", &[0])).await;
    until_no_sessions(cluster.replica(1), "left").await;
    wait_until("its tasks are gone", async || tasks() <= before).await;
    assert!(engine.pool("r2").is_none());
    // None comes back.
    for _ in 0..20 {
        assert_ne!(reader(&engine).await.unwrap(), "r2");
    }
    assert_eq!(sessions(cluster.replica(1), "left").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_hangs_leaves_within_a_bound() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "hung", &[0, 1], hasty).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    cluster.replica(0).hang().await.unwrap();
    let started = Instant::now();
    let report = set(&engine, these(&cluster, "hung", &[1])).await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(report.removed, ["r1"]);
    for _ in 0..20 {
        assert_eq!(reader(&engine).await.unwrap(), "r2");
    }
    cluster.replica(0).resume().await.unwrap();
    until_no_sessions(cluster.replica(0), "hung").await;
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_is_down_leaves_at_once() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "dead", &[0], eager).await;
    cluster.replica(0).kill().await.unwrap();
    let started = Instant::now();
    set(&engine, Nodes::new()).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(reader(&engine).await.unwrap(), MAIN);
    // Nobody asks after it any more.
    let log_before = cluster.replica(0).log().len();
    cluster.replica(0).start().await.unwrap();
    for _ in 0..10 {
        assert_eq!(sessions(cluster.replica(0), "dead").await, 0);
        // Who still probes it comes within this.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cluster.replica(0).log().len() > log_before);
    engine.close().await;
}

#[tokio::test]
async fn close_after_it_finds_nothing_of_the_node_that_left() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "after", &[0], hasty).await;
    until_served_by(&engine, &["r1"]).await;
    set(&engine, Nodes::new()).await;
    let report = engine.close().await;
    assert_eq!((report.cancelled, report.still_held), (0, 0), "{report:?}");
    assert!(report.elapsed < Duration::from_secs(3), "{report:?}");
    for server in cluster.nodes() {
        until_no_sessions(server, "after").await;
    }
}
