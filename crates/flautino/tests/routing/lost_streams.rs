//! A connection to a replica is lost: a stream is started again only before its first row, and
//! never where the session's floor is not met.

use std::time::Duration;

use flautino::Consistency;
use flautino::router::Reason;
use flautino_lab::{ask, catch_up, config, node_of, number, run, running, sqlstate, wait_until};
use futures_util::{StreamExt, TryStreamExt};

use crate::common::{MAIN, REPLICAS, cascade, open_default, open_reading};

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
    catch_up(&cluster).await;
    let mut config = config(&cluster, "floors");
    // Those that will be behind stay in the rotation.
    config.routing.probe_interval = Duration::from_secs(300);
    config.routing.max_lag = Duration::from_secs(300);
    config.routing.token_window = Duration::from_secs(300);
    config.routing.probe_timeout = Duration::from_secs(5);
    let engine = open_reading(config, &REPLICAS).await;
    for behind in [0, 2] {
        cluster.replica(behind).pause_replay().await.unwrap();
    }
    let writer = engine.handle();
    run(&writer, "INSERT INTO t VALUES (1)").await.unwrap();
    let token = writer.token().await.unwrap();
    let session = || {
        let db = engine.handle().recorded();
        db.observe(&token);
        db
    };
    wait_until("the one that has the row serves it", async || {
        // This has it asked how far it is.
        let asking = engine.handle().with_consistency(Consistency::Session);
        run(&asking.node(REPLICAS[1]).unwrap(), "SELECT 1").await.unwrap();
        asking.token().await.unwrap();
        let db = session();
        assert_eq!(number(&db, "SELECT count(*) FROM t").await.unwrap(), 1);
        node_of(&db) == REPLICAS[1]
    })
    .await;
    let sql = "SELECT count(*) FROM t, pg_sleep(2)";
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = 'floors' AND state = 'active' AND query = '{sql}'"
    );
    for _ in 0..2 {
        let db = session();
        let ended = async || ask::<i64>(cluster.replica(1), &end).await == 1;
        let (read, _) = tokio::join!(number(&db, sql), wait_until("it is ended", ended));
        assert_eq!(read.unwrap(), 1);
        let timings = db.timings().into_iter();
        let attempts: Vec<_> =
            timings.map(|timing| (timing.node.to_string(), timing.reason)).collect();
        let wanted = [(REPLICAS[1], Reason::FloorMet), (MAIN, Reason::Retried)];
        assert_eq!(attempts, wanted.map(|(node, reason)| (node.to_owned(), reason)));
        // It comes back into use with its next answer.
        wait_until("it serves again", async || {
            let db = session();
            run(&db, "SELECT 1").await.unwrap();
            node_of(&db) == REPLICAS[1]
        })
        .await;
    }
    engine.close().await;
}
