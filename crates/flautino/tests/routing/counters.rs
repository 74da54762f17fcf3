//! The counters add up: each statement that was sent has one reason and one node.

use std::time::Duration;

use flautino::router::Reason;
use flautino::{Consistency, Engine, TransactionOptions};
use flautino_lab::{catch_up, config, run, wait_until};
use futures_util::{StreamExt, TryStreamExt, future::join_all};

use crate::common::{REPLICAS, cascade, decisions, open_reading};

fn sums(engine: &Engine) -> (u64, u64) {
    let status = engine.status();
    let statements = status.nodes.iter().map(|node| node.statements).sum();
    (status.decisions.values().sum(), statements)
}

async fn mixed(engine: &Engine, turn: usize) {
    let db = engine.handle();
    let _ = run(&db, "SELECT count(*) FROM t").await;
    let _ = run(&db, "INSERT INTO t VALUES (1)").await;
    let _ = run(&db, "SELECT count(*) FROM t").await;
    let _ = run(&engine.handle().with_consistency(Consistency::Session), "SELECT 1").await;
    // Failures of both kinds.
    run(&db, "SELECT 1 / 0").await.unwrap_err();
    run(&engine.handle(), "SELECT nonsense FROM nowhere").await.unwrap_err();
    run(&engine.handle().replica(), "INSERT INTO t VALUES (1)").await.unwrap_err();
    run(&db, "BEGIN").await.unwrap_err();
    // A stream to its end, one that is dropped, one that fails half-way.
    let rows = sqlx::query("SELECT generate_series(1, 100)").fetch(&engine.handle());
    let _: Result<Vec<_>, _> = rows.try_collect().await;
    let mut rows = sqlx::query("SELECT generate_series(1, 100000)").fetch(&engine.handle());
    let _ = rows.next().await;
    drop(rows);
    let failing = sqlx::query("SELECT 1 / (5 - a) FROM generate_series(1, 9) a");
    let failed: Result<Vec<_>, _> = failing.fetch(&engine.handle()).try_collect().await;
    failed.unwrap_err();
    // A lease, transactions of both kinds, and a view that writes.
    if let Ok(mut lease) = engine.handle().acquire().await {
        let _ = sqlx::query("SELECT 1").execute(&mut lease).await;
        let _ = sqlx::query("SELECT 1 / 0").execute(&mut lease).await;
    }
    for read_only in [true, false] {
        let options = TransactionOptions { read_only, ..TransactionOptions::default() };
        let Ok(mut tx) = engine.handle().begin_with(options).await else { continue };
        let _ = sqlx::query("SELECT 1").execute(&mut tx).await;
        let _ = sqlx::query("SELECT 2").execute(&mut tx).await;
        if turn.is_multiple_of(2) {
            let _ = tx.commit().await;
        }
    }
    let _ = run(&engine.handle(), &format!("SELECT * FROM counted /* {turn} */")).await;
    let dropped = engine.handle();
    let slow = run(&dropped, "SELECT pg_sleep(5)");
    let _ = tokio::time::timeout(Duration::from_millis(20), slow).await;
}

#[tokio::test]
async fn decisions_and_statements_of_all_nodes_are_equal_after_a_mixed_load() {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    let engine = open_reading(config(&cluster, "sums"), &REPLICAS).await;
    let hidden = "CREATE TABLE calls (a int);
        CREATE FUNCTION count_call() RETURNS int LANGUAGE sql VOLATILE
            AS 'INSERT INTO calls VALUES (1) RETURNING 1';
        CREATE VIEW counted AS SELECT count_call()";
    cluster.primary().execute(hidden).await.unwrap();
    catch_up(&cluster).await;
    let loads = join_all((0..12).map(|turn| mixed(&engine, turn)));
    let faults = async {
        for _ in 0..3 {
            cluster
                .replica(1)
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'sums'",
                )
                .await
                .unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(loads, faults);
    for _ in 0..4 {
        mixed(&engine, 0).await;
    }
    assert!(decisions(&engine, Reason::Rescued) > 0);
    wait_until("nothing is under way", async || {
        engine.status().nodes.iter().all(|node| node.in_flight == 0)
    })
    .await;
    let (decided, sent) = sums(&engine);
    assert_eq!(decided, sent, "{:#?}", engine.status());
    assert!(sent > 200, "{sent}");
    engine.close().await;
}
