//! Statements under way on a node that leaves: they end by themselves, or are ended.

use std::time::{Duration, Instant};

use flautino::{Error, TransactionOptions};
use flautino_lab::{
    catch_up, cluster, node_of, number, run, until_running, until_served_by, wait_until,
};

use crate::common::{
    MAIN, Nodes, SLOW_ON_REPLICAS, eager, hasty, names, open_with, set, these, until_no_sessions,
    with_table,
};

#[tokio::test]
async fn a_statement_that_ends_within_the_drain_time_is_let_go_on() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "drained", &[0], eager).await;
    let sql = "SELECT 7::int8 FROM pg_sleep(4)";
    let db = engine.handle().node("r1").unwrap();
    let query = {
        let db = db.clone();
        tokio::spawn(async move { number(&db, sql).await.unwrap() })
    };
    until_running(cluster.replica(0), "drained", sql).await;
    let report = set(&engine, Nodes::new()).await;
    assert_eq!((report.drained, report.cancelled, report.still_held), (1, 0, 0), "{report:?}");
    assert_eq!(query.await.unwrap(), 7);
    assert_eq!(node_of(&db), "r1");
    until_no_sessions(cluster.replica(0), "drained").await;
    engine.close().await;
}

#[tokio::test]
async fn a_read_that_outlasts_the_drain_time_is_run_elsewhere() {
    let cluster = cluster(1).await;
    cluster.primary().execute(SLOW_ON_REPLICAS).await.unwrap();
    catch_up(&cluster).await;
    let engine = open_with(&cluster, "rerun", &[0], hasty).await;
    until_served_by(&engine, &["r1"]).await;
    let sql = "SELECT slow()";
    let db = engine.handle();
    let query = {
        let db = db.clone();
        tokio::spawn(async move { number(&db, sql).await.unwrap() })
    };
    until_running(cluster.replica(0), "rerun", sql).await;
    let started = Instant::now();
    let report = set(&engine, Nodes::new()).await;
    assert!(started.elapsed() >= Duration::from_millis(200), "{report:?}");
    assert_eq!((report.cancelled, report.still_held), (1, 0), "{report:?}");
    assert_eq!(query.await.unwrap(), 7);
    assert_eq!(node_of(&db), MAIN);
    until_no_sessions(cluster.replica(0), "rerun").await;
    engine.close().await;
}

#[tokio::test]
async fn a_statement_of_a_handle_that_names_the_node_is_ended_and_told_so() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "ended", &[0], hasty).await;
    let sql = "SELECT pg_sleep(60)";
    let db = engine.handle().node("r1").unwrap();
    let query = tokio::spawn(async move { run(&db, sql).await });
    until_running(cluster.replica(0), "ended", sql).await;
    let report = set(&engine, Nodes::new()).await;
    assert_eq!((report.drained, report.cancelled, report.still_held), (0, 1, 0), "{report:?}");
    let error = query.await.unwrap().unwrap_err();
    assert!(Error::of(&error).is_some(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("r1") && !text.contains("engine closed"), "{text}");
    until_no_sessions(cluster.replica(0), "ended").await;
    engine.close().await;
}

/// Neither PostgreSQL 13 nor a server with `client_check_interval = 0` finds out that its client is gone.
#[tokio::test]
async fn what_is_ended_is_cancelled_at_a_server_that_does_not_look_for_its_client() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "unlooked", &[0], |config| {
        hasty(config);
        for node in config.extra_nodes.values_mut() {
            node.client_check_interval = Some(Duration::ZERO);
        }
    })
    .await;
    let sql = "SELECT pg_sleep(60)";
    let db = engine.handle().node("r1").unwrap();
    let query = tokio::spawn(async move { run(&db, sql).await });
    until_running(cluster.replica(0), "unlooked", sql).await;
    set(&engine, Nodes::new()).await;
    query.await.unwrap().unwrap_err();
    until_no_sessions(cluster.replica(0), "unlooked").await;
    engine.close().await;
}

#[tokio::test]
async fn a_held_lease_is_counted_and_its_session_ends_with_it() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "held", &[0], hasty).await;
    let mut lease = engine.handle().node("r1").unwrap().acquire().await.unwrap();
    run_on(&mut lease).await.unwrap();
    let report = set(&engine, Nodes::new()).await;
    assert_eq!((report.drained, report.cancelled, report.still_held), (0, 0, 1), "{report:?}");
    let late = run_on(&mut lease).await.unwrap_err();
    assert!(Error::of(&late).is_some(), "{late:?}");
    drop(lease);
    until_no_sessions(cluster.replica(0), "held").await;
    engine.close().await;
}

#[tokio::test]
async fn a_lease_of_a_node_that_left_is_still_held_when_the_engine_closes() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "both", &[0], hasty).await;
    let lease = engine.handle().node("r1").unwrap().acquire().await.unwrap();
    assert_eq!(set(&engine, Nodes::new()).await.still_held, 1);
    // "Connections that the app still holds."
    let report = engine.close().await;
    assert_eq!(report.still_held, 1, "{report:?}");
    drop(lease);
    until_no_sessions(cluster.replica(0), "both").await;
}

async fn run_on(lease: &mut flautino::Lease) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT 1").execute(lease).await.map(drop)
}

#[tokio::test]
async fn a_transaction_on_the_node_goes_on_within_the_drain_time() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "reads", &[0], eager).await;
    until_served_by(&engine, &["r1"]).await;
    let db = engine.handle();
    let options = TransactionOptions { read_only: true, ..TransactionOptions::default() };
    let mut tx = db.begin_with(options).await.unwrap();
    assert_eq!(tx.node(), "r1");
    let changing = {
        let engine = engine.clone();
        tokio::spawn(async move { set(&engine, Nodes::new()).await })
    };
    wait_until("it is no node any more", async || names(&engine) == [MAIN]).await;
    for _ in 0..3 {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut tx).await.unwrap();
        assert_eq!(count, 0);
    }
    tx.commit().await.unwrap();
    let report = changing.await.unwrap();
    assert_eq!((report.drained, report.cancelled, report.still_held), (1, 0, 0), "{report:?}");
    engine.close().await;
}

#[tokio::test]
async fn who_waits_for_a_connection_of_the_node_is_served_elsewhere() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "queue", &[0], |config| {
        hasty(config);
        config.pool.max_connections = 1;
        config.pool.acquire_timeout = Duration::from_secs(60);
        config.drain_timeout = Duration::from_secs(1);
    })
    .await;
    until_served_by(&engine, &["r1"]).await;
    let lease = engine.handle().node("r1").unwrap().acquire().await.unwrap();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let db = engine.handle();
            tokio::spawn(async move { (run(&db, "SELECT 1").await, node_of(&db)) })
        })
        .collect();
    let named = engine.handle().node("r1").unwrap();
    let named = tokio::spawn(async move { run(&named, "SELECT 1").await });
    wait_until("all wait", async || {
        engine.status().nodes.iter().any(|node| node.name == "r1" && node.in_flight >= 7)
    })
    .await;
    let started = Instant::now();
    let report = set(&engine, Nodes::new()).await;
    assert_eq!(report.still_held, 1, "{report:?}");
    for read in waiting {
        let (result, node) = read.await.unwrap();
        result.unwrap();
        assert_eq!(node, MAIN);
    }
    let error = named.await.unwrap().unwrap_err();
    assert_eq!(crate::common::unknown_node(&error), Some("r1"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    drop(lease);
    engine.close().await;
}

#[tokio::test]
async fn others_are_not_held_up_by_a_node_that_drains() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "aside", &[0], eager).await;
    let lease = engine.handle().node("r1").unwrap().acquire().await.unwrap();
    let leaving = {
        let engine = engine.clone();
        tokio::spawn(async move { set(&engine, Nodes::new()).await })
    };
    wait_until("it is no node any more", async || names(&engine) == [MAIN]).await;
    // Nodes can be set again meanwhile.
    let report = set(&engine, these(&cluster, "aside", &[1])).await;
    assert_eq!(report.added, ["r2"]);
    until_served_by(&engine, &["r2"]).await;
    assert!(!leaving.is_finished());
    drop(lease);
    let report = leaving.await.unwrap();
    assert_eq!(report.drained, 1, "{report:?}");
    engine.close().await;
}
