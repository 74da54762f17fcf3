//! A lease taken out of the pool for good, and one whose session is ended.

use std::time::Duration;

use flautino_lab::{Lab, has_session, pid, until_sessions, wait_until};
use futures_util::StreamExt;
use sqlx::{Connection, PgConnection};

const PID: &str = "SELECT pg_backend_pid()";
/// Far less than the pool would wait.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_detached_connection_is_its_owner_s_and_its_place_is_free_at_once() {
    let lab = Lab::named("detached").behind_proxy().one_connection().start().await;
    let lease = lab.db.acquire().await.unwrap();
    let mut own: PgConnection = lease.detach();
    assert_eq!(lab.pool().in_use, 0);
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    let theirs: i32 = sqlx::query_scalar(PID).fetch_one(&mut own).await.unwrap();
    let next = tokio::time::timeout(SOON, pid(&lab.db)).await.expect("the place is free");
    assert_ne!(next, theirs);
    until_sessions(lab.primary(), "detached", 2).await;
    assert_eq!(lab.pool().size, 1);

    // Neither the pool nor its end touches it.
    sqlx::query("SET work_mem = '9MB'").execute(&mut own).await.unwrap();
    let report = lab.engine.close().await;
    assert_eq!((report.drained, report.cancelled, report.still_held), (0, 0, 0), "{report:?}");
    let show = sqlx::query_scalar("SELECT current_setting('work_mem')");
    let set: String = show.fetch_one(&mut own).await.unwrap();
    assert_eq!(set, "9MB");
    own.close().await.unwrap();
    until_sessions(lab.primary(), "detached", 0).await;
}

#[tokio::test]
async fn who_waits_for_a_connection_has_the_place_of_one_that_is_detached() {
    let lab = Lab::named("waiting").behind_proxy().one_connection().start().await;
    let lease = lab.db.acquire().await.unwrap();
    let db = lab.db.clone();
    let waiting = tokio::spawn(async move { pid(&db).await });
    tokio::task::yield_now().await;
    let own = lease.detach();
    tokio::time::timeout(SOON, waiting).await.expect("the place is free").unwrap();
    drop(own);
    lab.engine.close().await;
}

#[tokio::test]
async fn before_open_a_lease_can_be_detached_too() {
    let lab = Lab::named("unopened").behind_proxy().one_connection().start_closed().await;
    let mut own = lab.db.acquire().await.unwrap().detach();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut own).await.unwrap();
    assert_eq!(one, 1);
    own.close().await.unwrap();
    until_sessions(lab.primary(), "unopened", 0).await;
}

#[tokio::test]
async fn closing_a_lease_ends_its_session_and_frees_its_place() {
    let lab = Lab::named("closed").behind_proxy().one_connection().start().await;
    let mut lease = lab.db.acquire().await.unwrap();
    let before: i32 = sqlx::query_scalar(PID).fetch_one(&mut lease).await.unwrap();
    lease.close().await.unwrap();
    assert_eq!((lab.pool().in_use, lab.pool().size), (0, 0));
    wait_until("its session is gone", async || !has_session(lab.primary(), before).await).await;
    let next = tokio::time::timeout(SOON, pid(&lab.db)).await.expect("the place is free");
    assert_ne!(next, before);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_lease_with_rows_half_read_is_closed_too() {
    let lab = Lab::named("half_read").behind_proxy().one_connection().start().await;
    let mut lease = lab.db.acquire().await.unwrap();
    let before: i32 = sqlx::query_scalar(PID).fetch_one(&mut lease).await.unwrap();
    {
        let sql = "SELECT generate_series(1, 100000000)";
        let mut rows = sqlx::query_scalar::<_, i32>(sql).fetch(&mut lease);
        rows.next().await.unwrap().unwrap();
    }
    // With an answer that long it may say that it could not be polite.
    let _ = tokio::time::timeout(SOON, lease.close()).await.expect("bounded");
    wait_until("its session is gone", async || !has_session(lab.primary(), before).await).await;
    let next = tokio::time::timeout(SOON, pid(&lab.db)).await.expect("the place is free");
    assert_ne!(next, before);
    lab.engine.close().await;
}
