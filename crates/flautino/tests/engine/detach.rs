//! A lease taken out of the pool for good, and one whose session is ended.

use std::time::Duration;

use flautino::EngineConfig;
use flautino_lab::{Proxied, has_session, pid, until_sessions, wait_until};
use futures_util::StreamExt;
use sqlx::{Connection, PgConnection};

const PID: &str = "SELECT pg_backend_pid()";
/// Far less than the pool would wait.
const SOON: Duration = Duration::from_secs(10);

fn one_connection(config: &mut EngineConfig) {
    config.pool.max_connections = 1;
    config.pool.acquire_timeout = Duration::from_secs(60);
}

#[tokio::test]
async fn a_detached_connection_is_its_owner_s_and_its_place_is_free_at_once() {
    let server = Proxied::start("detached", one_connection).await;
    let lease = server.db.acquire().await.unwrap();
    let mut own: PgConnection = lease.detach();
    assert_eq!(server.pool().in_use, 0);
    assert_eq!(server.engine.status().nodes[0].in_flight, 0);
    let theirs: i32 = sqlx::query_scalar(PID).fetch_one(&mut own).await.unwrap();
    let next = tokio::time::timeout(SOON, pid(&server.db)).await.expect("the place is free");
    assert_ne!(next, theirs);
    until_sessions(server.node(), "detached", 2).await;
    assert_eq!(server.pool().size, 1);

    // Neither the pool nor its end touches it.
    sqlx::query("SET work_mem = '9MB'").execute(&mut own).await.unwrap();
    let report = server.engine.close().await;
    assert_eq!((report.drained, report.cancelled, report.still_held), (0, 0, 0), "{report:?}");
    let show = sqlx::query_scalar("SELECT current_setting('work_mem')");
    let set: String = show.fetch_one(&mut own).await.unwrap();
    assert_eq!(set, "9MB");
    own.close().await.unwrap();
    until_sessions(server.node(), "detached", 0).await;
}

#[tokio::test]
async fn who_waits_for_a_connection_has_the_place_of_one_that_is_detached() {
    let server = Proxied::start("waiting", one_connection).await;
    let lease = server.db.acquire().await.unwrap();
    let db = server.db.clone();
    let waiting = tokio::spawn(async move { pid(&db).await });
    tokio::task::yield_now().await;
    let own = lease.detach();
    tokio::time::timeout(SOON, waiting).await.expect("the place is free").unwrap();
    drop(own);
    server.engine.close().await;
}

#[tokio::test]
async fn before_open_a_lease_can_be_detached_too() {
    let server = Proxied::start_closed("unopened", one_connection, |engine| engine).await;
    let mut own = server.db.acquire().await.unwrap().detach();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut own).await.unwrap();
    assert_eq!(one, 1);
    own.close().await.unwrap();
    until_sessions(server.node(), "unopened", 0).await;
}

#[tokio::test]
async fn closing_a_lease_ends_its_session_and_frees_its_place() {
    let server = Proxied::start("closed", one_connection).await;
    let mut lease = server.db.acquire().await.unwrap();
    let before: i32 = sqlx::query_scalar(PID).fetch_one(&mut lease).await.unwrap();
    lease.close().await.unwrap();
    assert_eq!((server.pool().in_use, server.pool().size), (0, 0));
    wait_until("its session is gone", async || !has_session(server.node(), before).await).await;
    let next = tokio::time::timeout(SOON, pid(&server.db)).await.expect("the place is free");
    assert_ne!(next, before);
    server.engine.close().await;
}

#[tokio::test]
async fn a_lease_with_rows_half_read_is_closed_too() {
    let server = Proxied::start("half_read", one_connection).await;
    let mut lease = server.db.acquire().await.unwrap();
    let before: i32 = sqlx::query_scalar(PID).fetch_one(&mut lease).await.unwrap();
    {
        let sql = "SELECT generate_series(1, 100000000)";
        let mut rows = sqlx::query_scalar::<_, i32>(sql).fetch(&mut lease);
        rows.next().await.unwrap().unwrap();
    }
    // With an answer that long it may say that it could not be polite.
    let _ = tokio::time::timeout(SOON, lease.close()).await.expect("bounded");
    wait_until("its session is gone", async || !has_session(server.node(), before).await).await;
    let next = tokio::time::timeout(SOON, pid(&server.db)).await.expect("the place is free");
    assert_ne!(next, before);
    server.engine.close().await;
}
