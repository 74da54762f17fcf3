//! Closing ends within its bound, whatever the app does, and reports what it met.

use std::time::Duration;

use flautino::Error;
use flautino_lab::{Lab, cluster, sessions_of, until_running, wait_until};

const SLEEP: &str = "SELECT pg_sleep(60)";

#[tokio::test]
async fn a_running_statement_is_cancelled_at_the_drain_timeout() {
    let Lab { cluster, engine, db, .. } = Lab::named("running").start().await;
    let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await });
    until_running(cluster.primary(), "running", SLEEP).await;

    let report = engine.close_within(Duration::from_millis(300)).await;
    assert!(report.elapsed >= Duration::from_millis(300), "{report:?}");
    assert!(report.elapsed < Duration::from_secs(3), "{report:?}");
    assert_eq!((report.cancelled, report.still_held), (1, 0), "{report:?}");
    let err = sleep.await.unwrap().unwrap_err();
    assert!(matches!(Error::of(&err), Some(Error::Cut { .. })), "{err:?}");
    let gone = wait_until("the statement is gone", async || {
        sessions_of(cluster.primary(), "running").await == 0
    });
    assert!(gone.await < Duration::from_secs(3));
}

#[tokio::test]
async fn a_statement_that_ends_within_the_drain_time_is_let_go_on() {
    let Lab { cluster, engine, db, .. } = Lab::named("draining").start().await;
    let sql = "SELECT 7 FROM pg_sleep(2)";
    let query = tokio::spawn(async move { sqlx::query_scalar::<_, i32>(sql).fetch_one(&db).await });
    until_running(cluster.primary(), "draining", sql).await;
    let report = engine.close_within(Duration::from_secs(20)).await;
    assert_eq!((report.drained, report.cancelled, report.still_held), (1, 0, 0), "{report:?}");
    assert!(report.elapsed < Duration::from_secs(5), "{report:?}");
    assert_eq!(query.await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn a_lease_that_is_held_does_not_hold_up_close_and_its_session_ends_with_it() {
    let Lab { cluster, engine, .. } = Lab::named("held").start().await;
    let mut lease = engine.handle().acquire().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
    let report = engine.close_within(Duration::from_millis(200)).await;
    assert_eq!((report.cancelled, report.still_held), (0, 1), "{report:?}");
    assert!(report.elapsed < Duration::from_secs(5), "{report:?}");
    let late = sqlx::query("SELECT 1").execute(&mut lease).await.unwrap_err();
    assert!(matches!(Error::of(&late), Some(Error::Closed { .. })), "{late:?}");
    drop(lease);
    wait_until("the session is gone", async || sessions_of(cluster.primary(), "held").await == 0)
        .await;
}

#[tokio::test]
async fn a_transaction_open_at_the_drain_timeout_is_rolled_back() {
    let Lab { cluster, engine, .. } = Lab::named("open_tx").table("t (a int)").start().await;
    let mut tx = engine.handle().begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    engine.close_within(Duration::from_millis(100)).await;
    tx.commit().await.unwrap_err();
    wait_until("the session is gone", async || {
        sessions_of(cluster.primary(), "open_tx").await == 0
    })
    .await;
    let rows: i64 = flautino_lab::ask(cluster.primary(), "SELECT count(*) FROM t").await;
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn who_waits_for_a_connection_while_the_engine_closes_is_told_that_it_is_closed() {
    let cluster = cluster(0).await;
    let mut config = flautino_lab::config(&cluster, "waiting");
    config.pool.max_connections = 1;
    let engine = flautino::Engine::new(config).unwrap();
    engine.open().await.unwrap();
    let db = engine.handle();
    let lease = db.acquire().await.unwrap();
    let waiting = tokio::spawn(async move { sqlx::query("SELECT 1").execute(&db).await });
    tokio::task::yield_now().await;
    let closing = engine.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    tokio::task::yield_now().await;
    drop(lease);
    let err = waiting.await.unwrap().unwrap_err();
    assert!(matches!(Error::of(&err), Some(Error::Closed { .. })), "{err:?}");
    assert!(closing.await.unwrap().elapsed < Duration::from_secs(5));
}
