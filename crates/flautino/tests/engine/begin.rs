//! Beginning and abandoning a transaction leaves no transaction open.

use std::time::Duration;

use flautino::{Engine, Error};
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{ask, cluster, config, polled_at_most, wait_until};
use tokio::task::JoinHandle;

async fn one_connection(cluster: &Cluster, url: String, name: &str) -> Engine {
    let mut config = config(cluster, name);
    config.main.url = Some(url);
    config.pool.max_connections = 1;
    let engine = Engine::new(config).unwrap();
    engine.open().await.unwrap();
    engine
}

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
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let engine = one_connection(&cluster, proxy.url(), "begin").await;
    let db = engine.handle();
    let mut cancelled = 0;
    for delay in [0, 2] {
        proxy.slow(Duration::from_millis(delay));
        for polls in 1..8 {
            for through_sqlx in [false, true] {
                if through_sqlx {
                    let begun = polled_at_most(polls, sqlx::Acquire::begin(&db)).await;
                    cancelled += usize::from(begun.is_none());
                } else {
                    cancelled += usize::from(polled_at_most(polls, db.begin()).await.is_none());
                }
                sqlx::query("INSERT INTO t VALUES (1)").execute(&db).await.unwrap();
                none_is_open(&cluster, "begin").await;
            }
        }
    }
    assert!(cancelled > 2, "{cancelled}");
    // Each of the writes was committed by itself: none fell into a transaction left open.
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, 28);
    assert_eq!(engine.status().nodes[0].in_flight, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_begin_aborted_after_any_time_leaves_no_open_transaction() {
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let engine = one_connection(&cluster, proxy.url(), "timed").await;
    let db = engine.handle();
    proxy.slow(Duration::from_millis(5));
    for micros in (0..30_000).step_by(1500) {
        let _ = tokio::time::timeout(Duration::from_micros(micros), db.begin()).await;
        sqlx::query("INSERT INTO t VALUES (1)").execute(&db).await.unwrap();
    }
    none_is_open(&cluster, "timed").await;
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, 20);
    engine.close().await;
}

#[tokio::test]
async fn a_dropped_transaction_rolls_back_and_its_connection_serves_again() {
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let engine = one_connection(&cluster, cluster.primary().url(), "dropped").await;
    let db = engine.handle();
    let pid = "SELECT pg_backend_pid()";
    let before: i32 = sqlx::query_scalar(pid).fetch_one(&db).await.unwrap();
    for fail in [false, true] {
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        if fail {
            sqlx::query("SELECT nothing").execute(&mut tx).await.unwrap_err();
        }
        let forgotten = tx.savepoint().await;
        drop(forgotten);
        drop(tx);
        let after: i32 = sqlx::query_scalar(pid).fetch_one(&db).await.unwrap();
        assert_eq!(after, before);
    }
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, 0);
    none_is_open(&cluster, "dropped").await;
    engine.close().await;
}

#[tokio::test]
async fn a_commit_cancelled_at_any_point_commits_all_or_nothing_and_leaves_no_transaction() {
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let engine = one_connection(&cluster, cluster.primary().url(), "commit").await;
    let db = engine.handle();
    for polls in 0..4 {
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1), (2)").execute(&mut tx).await.unwrap();
        let _ = polled_at_most(polls, tx.commit()).await;
        none_is_open(&cluster, "commit").await;
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&db).await.unwrap();
        assert_eq!(one, 1);
        let odd = "SELECT count(*) FILTER (WHERE a = 1) - count(*) FILTER (WHERE a = 2) FROM t";
        assert_eq!(ask::<i64>(cluster.primary(), odd).await, 0);
    }
    engine.close().await;
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
    let engine = Engine::new(config).unwrap();
    engine.open().await.unwrap();
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
