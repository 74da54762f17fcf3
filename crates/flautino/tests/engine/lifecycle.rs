//! Opening and closing, in every order.

use std::time::Duration;

use flautino::{AcquireStep, Engine, Error, PoolConfig};
use flautino_lab::{Lab, sessions_of, until_sessions, wait_until};
use futures_util::future::join_all;

pub(crate) async fn select_1(engine: &Engine) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(&engine.handle()).await
}

pub(crate) fn is_closed(result: Result<i32, sqlx::Error>) -> bool {
    let err = result.unwrap_err();
    matches!(Error::of(&err), Some(Error::Closed { node }) if node == "main")
}

#[tokio::test]
async fn a_pool_of_twenty_lends_twenty_connections_and_not_twenty_one() {
    let Lab { cluster, engine, .. } = Lab::named("twenty").start_closed().await;
    let pool = PoolConfig {
        max_connections: 20,
        acquire_timeout: Duration::from_secs(2),
        ..PoolConfig::default()
    };
    engine.open_with(pool).await.unwrap();
    let db = engine.handle();
    let mut leases = Vec::new();
    for _ in 0..20 {
        leases.push(db.acquire().await.unwrap());
    }
    until_sessions(cluster.primary(), "twenty", 20).await;
    let err = db.acquire().await.unwrap_err();
    let Some(Error::AcquireTimeout { node, in_use, max, step, waited }) = Error::of(&err) else {
        panic!("{err:?}");
    };
    assert_eq!((node.as_str(), *in_use, *max), ("main", 20, 20));
    assert_eq!(*step, AcquireStep::WaitingForSlot);
    assert!(*waited >= Duration::from_secs(2), "{waited:?}");
    assert!(err.to_string().contains("main"), "{err}");
    until_sessions(cluster.primary(), "twenty", 20).await;
    leases.pop();
    db.acquire().await.unwrap();
    drop(leases);
    engine.close().await;
}

#[tokio::test]
async fn opening_twice_says_so_and_changes_nothing() {
    let Lab { cluster, engine, .. } = Lab::named("twice").start().await;
    let again = PoolConfig { max_connections: 3, ..PoolConfig::default() };
    assert!(engine.open_with(again).await.unwrap().already_open);
    assert_eq!(engine.status().nodes[0].pool.unwrap().max, 10);
    assert_eq!(select_1(&engine).await.unwrap(), 1);
    until_sessions(cluster.primary(), "twice", 1).await;
    engine.close().await;
}

#[tokio::test]
async fn of_eight_concurrent_opens_one_makes_the_pool() {
    let Lab { cluster, engine, .. } = Lab::named("eight").start_closed().await;
    let reports = join_all((0..8).map(|_| engine.open())).await;
    let fresh = reports.into_iter().filter(|report| !report.as_ref().unwrap().already_open);
    assert_eq!(fresh.count(), 1);
    until_sessions(cluster.primary(), "eight", 1).await;
    engine.close().await;
    wait_until("no session is left", async || sessions_of(cluster.primary(), "eight").await == 0)
        .await;
}

#[tokio::test]
async fn closing_what_is_not_open_says_so_and_a_closed_engine_opens_again() {
    let Lab { cluster, engine, .. } = Lab::named("again").start_closed().await;
    let report = engine.close().await;
    assert!(!report.was_open, "{report:?}");
    assert_eq!(select_1(&engine).await.unwrap(), 1);
    for _ in 0..2 {
        assert!(!engine.open().await.unwrap().already_open);
        assert_eq!(select_1(&engine).await.unwrap(), 1);
        let db = engine.handle();
        let report = engine.close().await;
        assert!(report.was_open);
        assert_eq!((report.idle, report.cancelled, report.still_held), (1, 0, 0));
        assert!(!engine.close().await.was_open);
        assert!(is_closed(select_1(&engine).await));
        let begun = db.begin().await.unwrap_err();
        assert!(matches!(Error::of(&begun), Some(Error::Closed { .. })), "{begun}");
        wait_until("no session is left", async || {
            sessions_of(cluster.primary(), "again").await == 0
        })
        .await;
    }
}

#[tokio::test]
async fn two_concurrent_closes_both_end_and_one_reports_the_work() {
    let Lab { cluster, engine, .. } = Lab::named("close_close").start().await;
    let (one, two) = tokio::join!(engine.close(), engine.close());
    assert!(one.was_open ^ two.was_open, "{one:?} {two:?}");
    until_sessions(cluster.primary(), "close_close", 0).await;
}

#[tokio::test]
async fn an_engine_dropped_without_close_leaves_no_session() {
    let Lab { cluster, engine, .. } = Lab::named("dropped").start().await;
    assert_eq!(select_1(&engine).await.unwrap(), 1);
    drop(engine);
    wait_until("no session is left", async || sessions_of(cluster.primary(), "dropped").await == 0)
        .await;
}
