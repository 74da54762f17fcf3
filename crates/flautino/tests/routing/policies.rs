//! The three answers of `routing.fallback` when the primary has no connection left for reads.

use std::time::{Duration, Instant};

use flautino::router::Reason;
use flautino::{Engine, Error, Fallback, Handle};
use flautino_cluster::Cluster;
use flautino_lab::{catch_up, config, node_of, number, run, wait_until};

use crate::common::{MAIN, REPLICAS, cascade, is_replica, open_reading, until_reads_from, why};

/// Half of it is one connection, which each test holds, and for as long as it runs; what waits, waits
/// for this long.
const WAIT: Duration = Duration::from_secs(1);
const HOLD: &str = "SELECT pg_sleep(60)";

/// All replicas are paused and behind, and the primary's only connection for reads is taken until
/// the answer is dropped.
async fn full(
    name: &str,
    fallback: Fallback,
) -> (Cluster, Engine, tokio::task::JoinHandle<Result<(), sqlx::Error>>) {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    let mut config = config(&cluster, name);
    config.pool.max_connections = 3;
    config.pool.acquire_timeout = WAIT;
    config.routing.fallback = fallback;
    let engine = open_reading(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
    cluster.primary().execute("INSERT INTO t VALUES (0)").await.unwrap();
    until_reads_from(&engine, &[MAIN]).await;
    let db = engine.handle();
    let holder = tokio::spawn(async move { run(&db, HOLD).await });
    flautino_lab::until_running(cluster.primary(), name, HOLD).await;
    (cluster, engine, holder)
}

fn assert_overloaded(failed: &sqlx::Error) -> Duration {
    match Error::of(failed) {
        Some(Error::Overloaded { node, waited }) => {
            assert_eq!(node, MAIN);
            *waited
        }
        other => panic!("{other:?}: {failed}"),
    }
}

async fn writes_work(engine: &Engine) {
    let db = engine.handle();
    run(&db, "INSERT INTO t VALUES (1)").await.unwrap();
    // What a session wrote is no fallback, and so not in the budget.
    assert!(number(&db, "SELECT count(*) FROM t").await.unwrap() > 1);
    assert_eq!(node_of(&db), MAIN);
}

#[tokio::test]
async fn wait_waits_and_then_says_that_it_is_overloaded() {
    let (_cluster, engine, holder) = full("wait", Fallback::Wait).await;
    let started = Instant::now();
    let failed = run(&engine.handle(), "SELECT 1").await.unwrap_err();
    let elapsed = started.elapsed();
    assert!(elapsed >= WAIT && elapsed < 5 * WAIT, "{elapsed:?}");
    assert!(assert_overloaded(&failed) >= WAIT);
    writes_work(&engine).await;
    // One that waits goes on when the place is free.
    let waiting = engine.handle();
    let (read, ()) = tokio::join!(run(&waiting, "SELECT 1"), async { holder.abort() });
    read.unwrap();
    assert_eq!(node_of(&waiting), MAIN);
    engine.close().await;
}

#[tokio::test]
async fn refuse_says_so_at_once() {
    let (_cluster, engine, holder) = full("refuse", Fallback::Refuse).await;
    let started = Instant::now();
    for _ in 0..20 {
        assert_overloaded(&run(&engine.handle(), "SELECT 1").await.unwrap_err());
    }
    // Each of them would wait for that long.
    assert!(started.elapsed() < 5 * WAIT, "{:?}", started.elapsed());
    writes_work(&engine).await;
    holder.abort();
    wait_until("reads work again", async || run(&engine.handle(), "SELECT 1").await.is_ok()).await;
    engine.close().await;
}

async fn expect_stale(db: &Handle) {
    let (node, reason) = why(db, "SELECT count(*) FROM t").await;
    assert!(is_replica(&node), "{node}");
    assert_eq!(reason, Reason::Stale);
}

#[tokio::test]
async fn stale_reads_a_lagging_replica_and_never_one_that_lacks_what_the_session_must_see() {
    let (cluster, engine, holder) = full("stale", Fallback::Stale).await;
    let seen = number(&engine.handle(), "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(seen, 0, "the past");
    expect_stale(&engine.handle().recorded()).await;
    expect_stale(&engine.handle().recorded().replica()).await;
    writes_work(&engine).await;

    // A token for something that no replica has: it waits, and is refused in the end.
    let writer = engine.handle();
    run(&writer, "INSERT INTO t VALUES (2)").await.unwrap();
    let token = writer.token().await.unwrap();
    let reader = engine.handle();
    reader.observe(&token);
    assert_overloaded(&run(&reader, "SELECT count(*) FROM t").await.unwrap_err());

    // One replica gets it, is paused again, and lags behind another write: it alone may serve.
    let second = cluster.replica(1);
    second.resume_replay().await.unwrap();
    second.catch_up_with(cluster.primary()).await.unwrap();
    second.pause_replay().await.unwrap();
    cluster.primary().execute("INSERT INTO t VALUES (3)").await.unwrap();
    let rows = number(&writer.primary(), "SELECT count(*) FROM t").await.unwrap() - 1;
    wait_until("the replica is known to have it", async || {
        let reader = engine.handle().recorded();
        reader.observe(&token);
        let answer = number(&reader, "SELECT count(*) FROM t").await;
        let Ok(answer) = answer else { return false };
        assert!(answer >= rows, "{answer} on {}", node_of(&reader));
        if node_of(&reader) != REPLICAS[1] {
            return false;
        }
        reader.timings()[0].reason == Reason::Stale
    })
    .await;
    holder.abort();
    engine.close().await;
}
