//! Beginning and abandoning a transaction leaves no transaction open.

use std::time::Duration;

use flautino::{Engine, Error};
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{Lab, ask, cluster, config, open, polled_at_most, wait_until};
use tokio::task::JoinHandle;

async fn none_is_open(cluster: &Cluster, name: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE application_name = '{name}' AND state LIKE 'idle in transaction%'"
    );
    wait_until("no transaction is open", async || ask::<i64>(cluster.primary(), &sql).await == 0)
        .await;
}

#[tokio::test]
async fn a_begin_cancelled_at_any_point_leaves_no_open_transaction_and_the_pool_whole() {
    let lab = Lab::named("begin").table("t (a int)").behind_proxy().one_connection().start().await;
    let mut cancelled = 0;
    for delay in [0, 2] {
        lab.proxy().slow(Duration::from_millis(delay));
        for polls in 1..8 {
            for through_sqlx in [false, true] {
                if through_sqlx {
                    let begun = polled_at_most(polls, sqlx::Acquire::begin(&lab.db)).await;
                    cancelled += usize::from(begun.is_none());
                } else {
                    cancelled += usize::from(polled_at_most(polls, lab.db.begin()).await.is_none());
                }
                sqlx::query("INSERT INTO t VALUES (1)").execute(&lab.db).await.unwrap();
                none_is_open(&lab.cluster, "begin").await;
            }
        }
    }
    assert!(cancelled > 2, "{cancelled}");
    // Each of the writes was committed by itself: none fell into a transaction left open.
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 28);
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_begin_aborted_after_any_time_leaves_no_open_transaction() {
    let lab = Lab::named("timed").table("t (a int)").behind_proxy().one_connection().start().await;
    lab.proxy().slow(Duration::from_millis(5));
    for micros in (0..30_000).step_by(1500) {
        let _ = tokio::time::timeout(Duration::from_micros(micros), lab.db.begin()).await;
        sqlx::query("INSERT INTO t VALUES (1)").execute(&lab.db).await.unwrap();
    }
    none_is_open(&lab.cluster, "timed").await;
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 20);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_dropped_transaction_rolls_back_and_its_connection_serves_again() {
    let lab = Lab::named("dropped").table("t (a int)").one_connection().start().await;
    let pid = "SELECT pg_backend_pid()";
    let before: i32 = sqlx::query_scalar(pid).fetch_one(&lab.db).await.unwrap();
    for fail in [false, true] {
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        if fail {
            sqlx::query("SELECT nothing").execute(&mut tx).await.unwrap_err();
        }
        let forgotten = tx.savepoint().await;
        drop(forgotten);
        drop(tx);
        let after: i32 = sqlx::query_scalar(pid).fetch_one(&lab.db).await.unwrap();
        assert_eq!(after, before);
    }
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 0);
    none_is_open(&lab.cluster, "dropped").await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_commit_cancelled_at_any_point_commits_all_or_nothing_and_leaves_no_transaction() {
    let lab = Lab::named("commit").table("t (a int)").one_connection().start().await;
    for polls in 0..4 {
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1), (2)").execute(&mut tx).await.unwrap();
        let _ = polled_at_most(polls, tx.commit()).await;
        none_is_open(&lab.cluster, "commit").await;
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&lab.db).await.unwrap();
        assert_eq!(one, 1);
        let odd = "SELECT count(*) FILTER (WHERE a = 1) - count(*) FILTER (WHERE a = 2) FROM t";
        assert_eq!(ask::<i64>(lab.primary(), odd).await, 0);
    }
    lab.engine.close().await;
}

/// An engine, and a `BEGIN` through sqlx that its server does not answer.
async fn unanswered(
    cluster: &Cluster,
    proxy: &Proxy,
    name: &str,
    pooler: bool,
    patience: Duration,
) -> (Engine, JoinHandle<Result<(), sqlx::Error>>) {
    let mut config = config(cluster, name);
    config.main.url = Some(proxy.url());
    config.main.pgbouncer = pooler;
    config.pool.max_connections = 1;
    config.pool.acquire_timeout = patience;
    let engine = open(config).await;
    let db = engine.handle();
    drop(sqlx::Acquire::begin(&db).await.unwrap());
    let pool = engine.pool("main").unwrap();
    wait_until("its connection rests", async || pool.num_idle() == 1).await;
    proxy.slow(Duration::from_millis(400));
    let begun = tokio::spawn(async move { sqlx::Acquire::begin(&db).await.map(drop) });
    // sqlx's pool pings first, which takes two of these; so does the answer to the `BEGIN` then.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    proxy.stall();
    (engine, begun)
}

#[tokio::test]
async fn a_begin_through_sqlx_on_a_server_that_hangs_fails_in_time_and_leaves_the_pool_whole() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    for (name, pooler) in [("hangs", false), ("hangs_pooler", true)] {
        let patience = Duration::from_secs(2);
        let (engine, begun) = unanswered(&cluster, &proxy, name, pooler, patience).await;
        let error = tokio::time::timeout(Duration::from_secs(6), begun).await.expect("a bound");
        let error = error.unwrap().unwrap_err();
        assert!(matches!(error, sqlx::Error::PoolTimedOut), "{error:?}");
        if !pooler {
            let pool = engine.pool("main").unwrap();
            let freed = wait_until("its place is free", async || pool.size() == 0).await;
            assert!(freed < Duration::from_secs(3), "{freed:?}");
        }
        proxy.heal().unwrap();
        sqlx::query("SELECT 1").execute(&engine.handle()).await.unwrap();
        none_is_open(&cluster, name).await;
        engine.close().await;
    }
}

#[tokio::test]
async fn a_begin_through_sqlx_on_a_server_that_hangs_ends_with_the_engine() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    for (name, pooler) in [("ends", false), ("ends_pooler", true)] {
        let patience = Duration::from_secs(60);
        let (engine, begun) = unanswered(&cluster, &proxy, name, pooler, patience).await;
        let report = engine.close_within(Duration::from_millis(200)).await;
        assert!(report.elapsed < Duration::from_secs(5), "{report:?}");
        let error = tokio::time::timeout(Duration::from_secs(1), begun).await.expect("a bound");
        let error = error.unwrap().unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::Closed { .. })), "{error:?}");
        proxy.heal().unwrap();
        none_is_open(&cluster, name).await;
    }
}
