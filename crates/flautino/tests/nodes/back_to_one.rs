//! An engine whose last replica leaves is one of a single node again.

use std::time::Duration;

use flautino_lab::{cluster, node_of, number, run, until_served_by, wait_until};
use futures_util::TryStreamExt;

use crate::common::{COUNT, INSERT, MAIN, Nodes, eager, names, open_with, set, these, with_table};

#[tokio::test]
async fn the_last_replica_leaves_and_the_main_node_does_all() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "alone", &[0], eager).await;
    until_served_by(&engine, &["r1"]).await;
    let report = set(&engine, Nodes::new()).await;
    assert_eq!((report.added, report.removed), (vec![], vec!["r1".to_owned()]));
    assert_eq!(names(&engine), [MAIN]);
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    for _ in 0..20 {
        let db = engine.handle();
        assert_eq!(number(&db, COUNT).await.unwrap(), 1);
        assert_eq!(node_of(&db), MAIN);
    }
    // And once more, so that the first replica may come again.
    set(&engine, these(&cluster, "alone", &[0])).await;
    until_served_by(&engine, &["r1"]).await;
    engine.close().await;
}

#[tokio::test]
async fn reads_of_an_engine_that_has_no_replicas_any_more_may_take_all_of_its_connections() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "all_four", &[0], |config| {
        eager(config);
        config.pool.max_connections = 4;
        config.pool.acquire_timeout = Duration::from_secs(2);
    })
    .await;
    set(&engine, Nodes::new()).await;
    cluster.primary().execute("INSERT INTO t SELECT generate_series(1, 100000)").await.unwrap();
    // Each holds its connection, since it is read one row far.
    let handles: Vec<_> = (0..4).map(|_| engine.handle()).collect();
    let mut streams = Vec::new();
    for (count, db) in handles.iter().enumerate() {
        let mut rows = sqlx::query_scalar::<_, i32>("SELECT a FROM t").fetch(db);
        let first = rows.try_next().await;
        assert!(first.is_ok(), "with {count} reads under way: {first:?}");
        streams.push(rows);
    }
    drop(streams);
    wait_until("the connections are free", async || {
        engine.status().nodes.iter().all(|node| node.in_flight == 0)
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn an_engine_without_replicas_says_so() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "says_so", &[0], eager).await;
    assert!(engine.has_replicas());
    set(&engine, Nodes::new()).await;
    // "Whether there is more than one node."
    assert!(!engine.has_replicas());
    engine.close().await;
    assert!(!engine.has_replicas());
}
