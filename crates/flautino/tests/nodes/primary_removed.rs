//! The node that leaves is the primary at present, after a failover.

use std::time::Duration;

use flautino::{Engine, Error};
use flautino_cluster::Cluster;
use flautino_lab::{catch_up, cluster, node_of, number, run, until_served_by, wait_until};

use crate::common::{
    COUNT, INSERT, MAIN, PATIENCE, eager, names, node, open_with, set, these, with_table,
};

/// `r1` is the primary, and `r2` follows it.
async fn failed_over(app: &str, patience: Duration) -> (Cluster, Engine) {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, app, &[0, 1], |config| {
        eager(config);
        config.routing.failover_timeout = patience;
        config.drain_timeout = PATIENCE;
    })
    .await;
    until_served_by(&engine, &["r1", "r2"]).await;
    cluster.primary().kill().await.unwrap();
    cluster.replica(0).promote().await.unwrap();
    cluster.replica(1).follow(cluster.replica(0)).await.unwrap();
    wait_until("r1 is the primary", async || engine.status().primary.as_deref() == Some("r1"))
        .await;
    (cluster, engine)
}

#[tokio::test]
async fn writes_say_that_there_is_no_primary_and_reads_go_on() {
    let (cluster, engine) = failed_over("removed", Duration::from_millis(500)).await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    cluster.replica(1).catch_up_with(cluster.replica(0)).await.unwrap();
    until_served_by(&engine, &["r2"]).await;
    set(&engine, these(&cluster, "removed", &[1])).await;
    assert_eq!(names(&engine), [MAIN, "r2"]);
    assert_eq!(engine.status().primary, None);
    let error = run(&engine.handle(), INSERT).await.unwrap_err();
    match Error::of(&error) {
        Some(Error::NoPrimary { nodes, .. }) => {
            assert!(nodes.contains("r2") && !nodes.contains("r1"), "{nodes}");
        }
        other => panic!("{other:?}"),
    }
    let any = engine.handle();
    assert_eq!(number(&any, COUNT).await.unwrap(), 1);
    assert_eq!(node_of(&any), "r2");
    engine.close().await;
}

#[tokio::test]
async fn a_write_waits_for_it_to_come_back_under_another_name() {
    let (cluster, engine) = failed_over("back", Duration::from_secs(30)).await;
    set(&engine, these(&cluster, "back", &[1])).await;
    let writing = {
        let db = engine.handle();
        tokio::spawn(async move { (run(&db, INSERT).await, node_of(&db)) })
    };
    wait_until("the write waits", async || engine.status().primary.is_none()).await;
    let mut nodes = these(&cluster, "back", &[1]);
    nodes.insert("a_new_name".to_owned(), node(cluster.replica(0), "back"));
    set(&engine, nodes).await;
    let (result, node) = writing.await.unwrap();
    result.unwrap();
    assert_eq!(node, "a_new_name");
    cluster.replica(1).catch_up_with(cluster.replica(0)).await.unwrap();
    until_served_by(&engine, &["r2"]).await;
    engine.close().await;
}

#[tokio::test]
async fn an_old_main_node_that_is_back_as_a_replica_keeps_its_place() {
    let (cluster, engine) = failed_over("rejoined", Duration::from_secs(30)).await;
    cluster.primary().rejoin(cluster.replica(0)).await.unwrap();
    until_served_by(&engine, &[MAIN, "r2"]).await;
    // The replica leaves, and the primary and the old one stay.
    set(&engine, these(&cluster, "rejoined", &[0])).await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert_eq!(node_of(&db), "r1");
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    until_served_by(&engine, &[MAIN]).await;
    engine.close().await;
}

#[tokio::test]
async fn a_write_under_way_on_the_primary_that_leaves_may_end() {
    let (cluster, engine) = failed_over("ends", Duration::from_secs(30)).await;
    let mut tx = engine.handle().begin().await.unwrap();
    assert_eq!(tx.node(), "r1");
    sqlx::query(INSERT).execute(&mut tx).await.unwrap();
    let leaving = {
        let (engine, nodes) = (engine.clone(), these(&cluster, "ends", &[1]));
        tokio::spawn(async move { set(&engine, nodes).await })
    };
    wait_until("it is no node any more", async || names(&engine) == [MAIN, "r2"]).await;
    tx.commit().await.unwrap();
    let report = leaving.await.unwrap();
    assert_eq!((report.drained, report.cancelled, report.still_held), (1, 0, 0), "{report:?}");
    let rows: i64 = flautino_lab::ask(cluster.replica(0), COUNT).await;
    assert_eq!(rows, 1);
    engine.close().await;
}

#[tokio::test]
async fn a_session_that_wrote_to_the_primary_that_left_does_not_read_the_past() {
    let (cluster, engine) = failed_over("past", Duration::from_millis(300)).await;
    catch_up_with_new(&cluster).await;
    until_served_by(&engine, &["r2"]).await;
    cluster.replica(1).pause_replay().await.unwrap();
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    set(&engine, these(&cluster, "past", &[1])).await;
    for _ in 0..3 {
        // It is told so, or it sees its write; nothing else.
        match sqlx::query_scalar::<_, i64>(COUNT).fetch_one(&db).await {
            Ok(rows) => assert_eq!(rows, 1, "served by {}", node_of(&db)),
            Err(error) => assert!(Error::of(&error).is_some(), "{error:?}"),
        }
    }
    cluster.replica(1).resume_replay().await.unwrap();
    engine.close().await;
}

async fn catch_up_with_new(cluster: &Cluster) {
    cluster.replica(1).catch_up_with(cluster.replica(0)).await.unwrap();
}

#[tokio::test]
async fn the_main_node_as_primary_cannot_be_removed() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "stays", &[0], eager).await;
    catch_up(&cluster).await;
    set(&engine, crate::common::Nodes::new()).await;
    assert_eq!(names(&engine), [MAIN]);
    run(&engine.handle(), INSERT).await.unwrap();
    engine.close().await;
}
