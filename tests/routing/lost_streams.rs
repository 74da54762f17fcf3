//! A connection to a replica is lost: a stream is started again only before its first row, and
//! never where the session's floor is not met.

use std::time::Duration;

use flautino::router::Reason;
use flautino_tests::{ask, config, running, sqlstate, wait_until};
use futures_util::{StreamExt, TryStreamExt};

use crate::common::{MAIN, REPLICAS, cascade, count, node_of, open, open_default, run};

#[tokio::test]
async fn a_stream_that_has_given_rows_ends_with_the_error_and_one_that_has_not_starts_again() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "stream").await;
    let terminate = async |sql: &str| {
        wait_until("it runs", async || {
            let mut ended = 0;
            for replica in cluster.nodes().skip(1) {
                ended += ask::<i64>(
                    replica,
                    &format!(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                         WHERE application_name = 'stream' AND state = 'active' \
                         AND query = '{}'",
                        sql.replace('\'', "''")
                    ),
                )
                .await;
            }
            ended > 0
        })
        .await;
    };
    let given =
        "SELECT repeat('x', 9000) FROM generate_series(1, 5000) WHERE pg_sleep(0.002) IS NOT NULL";
    let db = engine.handle().recorded();
    let mut rows = sqlx::query_scalar::<_, String>(given).fetch(&db);
    rows.next().await.unwrap().unwrap();
    terminate(given).await;
    let failure = rows.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(sqlstate(&failure) == "57P01" || matches!(failure, sqlx::Error::Io(_)), "{failure}");
    assert_eq!(db.timings().len(), 1, "it was not started again");

    let silent = "SELECT 7 FROM pg_sleep(0.7)";
    let db = engine.handle().recorded();
    let rows = sqlx::query_scalar::<_, i32>(silent).fetch(&db).try_collect::<Vec<_>>();
    let (rows, ()) = tokio::join!(rows, terminate(silent));
    assert_eq!(rows.unwrap(), [7]);
    let reasons: Vec<_> = db.timings().into_iter().map(|timing| timing.reason).collect();
    // The sweep may meet the second attempt, too.
    assert_eq!(reasons[0], Reason::NoFloor);
    assert!(reasons.len() > 1 && reasons[1..].iter().all(|reason| *reason == Reason::Retried));
    assert_eq!(running(cluster.primary(), "stream", silent).await, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_read_that_began_on_a_replica_sees_its_session_s_floor_on_the_next() {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let mut config = config(&cluster, "floors");
    config.routing.probe_interval = Duration::from_secs(60);
    let engine = open(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
    let db = engine.handle();
    run(&db, "INSERT INTO t VALUES (1)").await.unwrap();
    for _ in 0..20 {
        for replica in cluster.nodes() {
            replica
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'floors'",
                )
                .await
                .unwrap();
        }
        assert_eq!(count(&db, "SELECT count(*) FROM t").await.unwrap(), 1);
        assert_eq!(node_of(&db), MAIN);
    }
    engine.close().await;
}
