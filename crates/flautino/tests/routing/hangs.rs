//! A node that hangs: what waits on it is told when it is down, and reads go on elsewhere.

use std::time::{Duration, Instant};

use flautino::router::Reason;
use flautino::{Error, Health};
use flautino_cluster::Node;
use flautino_lab::{ask, catch_up, config, node_of, run, status_of, until_running, wait_until};
use futures_util::future::join_all;

use crate::common::{
    MAIN, REPLICAS, cascade, decisions, is_replica, open_default, open_reading, until_reads_from,
};

/// Default settings say 1.5 s; this machine may be busy.
const SOON: Duration = Duration::from_secs(4);

/// Whether one of these runs on that node now, by its own word.
async fn runs_there(node: &Node, sql: &str) -> bool {
    flautino_lab::running(node, "hang", sql).await > 0
}

#[tokio::test]
async fn reads_that_wait_on_a_replica_that_hangs_are_run_elsewhere_and_none_fails() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "hang").await;
    // The two on which no other replica depends; one of them has a part of the reads.
    let leaves = [1, 2].map(|number| (REPLICAS[number], cluster.replica(number)));
    let sql = "SELECT pg_sleep(1.5)";
    let reads = async {
        let reads = (0..12).map(async |_| {
            let db = engine.handle();
            let started = Instant::now();
            let read = run(&db, sql).await;
            (read, node_of(&db), started.elapsed())
        });
        join_all(reads).await
    };
    let hang = async {
        let mut found = None;
        wait_until("one runs there", async || {
            for (name, leaf) in leaves {
                if found.is_none() && runs_there(leaf, sql).await {
                    found = Some((name, leaf));
                }
            }
            found.is_some()
        })
        .await;
        let (name, hung) = found.unwrap();
        hung.hang().await.unwrap();
        (name, hung)
    };
    let (reads, (name, hung)) = tokio::join!(reads, hang);
    for (read, node, elapsed) in &reads {
        assert!(read.is_ok(), "on {node} after {elapsed:?}: {read:?}");
        assert!(*elapsed < SOON + Duration::from_secs(3), "on {node} after {elapsed:?}");
    }
    assert!(decisions(&engine, Reason::Retried) > 0, "{:#?}", engine.status());

    // And later ones do not wait for it at all.
    wait_until("it is known to be down", async || status_of(&engine, name).health == Health::Down)
        .await;
    for _ in 0..30 {
        let db = engine.handle();
        run(&db, "SELECT 1").await.unwrap();
        let node = node_of(&db);
        assert!(is_replica(&node) && node != name, "{node}");
    }
    hung.resume().await.unwrap();
    until_reads_from(&engine, &REPLICAS).await;
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_hangs_is_out_of_use_soon() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "soon").await;
    cluster.replica(0).hang().await.unwrap();
    let took = wait_until("it is known to be down", async || {
        let status = status_of(&engine, REPLICAS[0]);
        status.health == Health::Down && status.reason.is_some()
    })
    .await;
    assert!(took < SOON, "{took:?}");
    cluster.replica(0).resume().await.unwrap();
    let took = wait_until("it is known to be up", async || {
        status_of(&engine, REPLICAS[0]).health == Health::Up
    })
    .await;
    assert!(took < SOON, "{took:?}");
    engine.close().await;
}

#[tokio::test]
async fn a_write_that_waits_on_a_primary_that_hangs_fails_and_is_not_repeated() {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    let engine = open_reading(config(&cluster, "hang"), &REPLICAS).await;
    let sql = "INSERT INTO t SELECT 1 FROM pg_sleep(2)";
    let started = Instant::now();
    let db = engine.handle().recorded();
    let hang = async {
        until_running(cluster.primary(), "hang", sql).await;
        cluster.primary().hang().await.unwrap();
    };
    let (written, ()) = tokio::join!(run(&db, sql), hang);
    let failed = written.unwrap_err();
    assert!(started.elapsed() < SOON + Duration::from_secs(1), "{:?}", started.elapsed());
    match Error::of(&failed) {
        Some(Error::NodeDown { node, sent: true }) => assert_eq!(node, MAIN),
        other => panic!("{other:?}: {failed}"),
    }
    assert_eq!(db.timings().len(), 1);
    // Reads of others go on meanwhile.
    for _ in 0..10 {
        let other = engine.handle();
        run(&other, "SELECT count(*) FROM t").await.unwrap();
        assert_ne!(node_of(&other), MAIN);
    }
    cluster.primary().resume().await.unwrap();
    wait_until("the server is through with it", async || !runs_there(cluster.primary(), sql).await)
        .await;
    wait_until("writes work again", async || {
        run(&engine.handle(), "CREATE TABLE IF NOT EXISTS u (a int)").await.is_ok()
    })
    .await;
    assert!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await <= 1);
    engine.close().await;
}
