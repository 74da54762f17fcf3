//! Recovery conflicts: replay ends a replica's query, and nobody who reads notices.

use std::sync::atomic::{AtomicBool, Ordering};

use flautino::TransactionOptions;
use flautino_cluster::{Cluster, Node};
use flautino_lab::{catch_up, config, node_of, number, sqlstate, wait_until};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};

use crate::common::{REPLICAS, is_replica, open_reading};

const TABLE: &str = "CREATE TABLE t (a int, b int);
    INSERT INTO t SELECT a, 0 FROM generate_series(1, 2000) a";
const SLOW: &str = "SELECT count(*) FROM (SELECT a, pg_sleep(0.0001) FROM t WHERE a % 4 = 0) s";

async fn start(replicas: usize, cascading: usize) -> Cluster {
    let builder = Cluster::builder()
        .replicas(replicas)
        .cascading(cascading)
        .setting("hot_standby_feedback", "off")
        .setting("max_standby_streaming_delay", "0")
        .setting("autovacuum", "off");
    let cluster = builder.start().await.unwrap();
    cluster.primary().execute(TABLE).await.unwrap();
    catch_up(&cluster).await;
    cluster
}

async fn conflicts(node: &Node) -> i64 {
    let sql = "SELECT sum(confl_snapshot + confl_lock + confl_bufferpin + confl_deadlock)::int8 \
        FROM pg_stat_database_conflicts";
    // Replay may still go on, and end this query too.
    let mut found = None;
    wait_until("the replica tells its conflicts", async || {
        let Ok(mut connection) = node.connect().await else { return false };
        found = sqlx::query_scalar(sql).fetch_one(&mut connection).await.ok();
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Updates and vacuums until it is told to stop, and locks the table now and then.
async fn churn(primary: &Node, stop: &AtomicBool) -> u32 {
    let mut connection = primary.connect().await.unwrap();
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for sql in [
            "UPDATE t SET b = b + 1",
            "VACUUM t",
            "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT",
        ] {
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
        rounds += 1;
    }
    rounds
}

/// A thousand reads, by eight sessions at a time, while the primary vacuums; answers those that
/// failed.
async fn thousand_reads(cluster: &Cluster, name: &str, readers: &[&str]) -> Vec<String> {
    let engine = open_reading(config(cluster, name), readers).await;
    let stop = AtomicBool::new(false);
    let reads = async {
        let sessions = join_all((0..8).map(async |session: usize| {
            let mut failed = Vec::new();
            for read in 0..125 {
                let db = engine.handle();
                let (sql, rows) = if (session + read).is_multiple_of(5) {
                    (SLOW, 500)
                } else {
                    ("SELECT count(*) FROM t", 2000)
                };
                match number(&db, sql).await {
                    Ok(counted) if counted == rows => {}
                    other => failed.push(format!("{sql} on {}: {other:?}", node_of(&db))),
                }
            }
            failed
        }));
        let failed = sessions.await;
        stop.store(true, Ordering::Relaxed);
        failed.into_iter().flatten().collect()
    };
    let (failed, rounds) = tokio::join!(reads, churn(cluster.primary(), &stop));
    assert!(rounds > 1, "{rounds}");
    engine.close().await;
    failed
}

fn none(failed: &[String]) {
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(3)]);
}

/// Waits until some replica has counted a conflict, or nothing was tested: a session tells what it has
/// counted when it is idle, or ends.
async fn until_conflicts(cluster: &Cluster) {
    wait_until("a conflict is counted", async || {
        let counts = join_all(cluster.nodes().skip(1).map(conflicts)).await;
        counts.into_iter().sum::<i64>() > 0
    })
    .await;
}

#[tokio::test]
async fn of_a_thousand_reads_on_two_replicas_none_fails_while_the_primary_vacuums() {
    let cluster = start(2, 0).await;
    let failed = thousand_reads(&cluster, "two", &REPLICAS[..2]).await;
    until_conflicts(&cluster).await;
    none(&failed);
}

#[tokio::test]
async fn of_a_thousand_reads_on_three_replicas_none_fails_while_the_primary_vacuums() {
    let cluster = start(2, 1).await;
    let failed = thousand_reads(&cluster, "three", &REPLICAS).await;
    until_conflicts(&cluster).await;
    none(&failed);
}

#[tokio::test]
async fn inside_a_read_only_transaction_a_conflict_is_an_error() {
    let cluster = start(1, 0).await;
    let engine = open_reading(config(&cluster, "inside"), &REPLICAS[..1]).await;
    let options = TransactionOptions { read_only: true, ..TransactionOptions::default() };
    let mut tx = engine.handle().begin_with(options).await.unwrap();
    assert!(is_replica(tx.node()), "{}", tx.node());
    sqlx::query("SELECT count(*) FROM t").execute(&mut tx).await.unwrap();
    cluster.primary().execute("DROP TABLE t").await.unwrap();
    let mut failure = None;
    wait_until("the conflict is noticed", async || {
        failure = sqlx::query("SELECT 1").execute(&mut tx).await.err();
        failure.is_some()
    })
    .await;
    let failure = failure.unwrap();
    assert!(matches!(&*sqlstate(&failure), "40001" | "40P01"), "{failure}");
    drop(tx);
    engine.close().await;
    until_conflicts(&cluster).await;
}

#[tokio::test]
async fn a_stream_that_has_given_rows_ends_with_the_conflict() {
    let cluster = start(1, 0).await;
    let engine = open_reading(config(&cluster, "stream"), &REPLICAS[..1]).await;
    let db = engine.handle().recorded();
    // Wide rows, so that some reach the client while the query runs.
    let sql = "SELECT repeat('x', 8000) FROM t WHERE pg_sleep(0.002) IS NOT NULL";
    let mut rows = sqlx::query_scalar::<_, String>(sql).fetch(&db);
    assert_eq!(rows.next().await.unwrap().unwrap().len(), 8000);
    cluster.primary().execute("DROP TABLE t").await.unwrap();
    let rest: Result<Vec<_>, _> = rows.try_collect().await;
    let failure = rest.unwrap_err();
    assert!(matches!(&*sqlstate(&failure), "40001" | "40P01"), "{failure}");
    assert_eq!(db.timings().len(), 1, "it was not started again");
    engine.close().await;
}
