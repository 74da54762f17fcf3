//! A statement that nobody waits for any more is cancelled, the rest of its answer is read, and its
//! session serves again.

use std::time::Duration;

use flautino_lab::{Lab, has_session, pid, running, sessions_begun, until_running, wait_until};
use futures_util::StreamExt;

const SLEEP: &str = "SELECT pg_sleep(30)";
/// Far less than the statements would take, and far more than cancelling them should.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_same_session_serves_the_next_statement_and_the_server_runs_the_old_one_no_more() {
    let lab =
        Lab::named("drained").behind_proxy().one_connection().without_client_check().start().await;
    let before = pid(&lab.db).await;
    for _ in 0..5 {
        let db = lab.db.clone();
        let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await });
        until_running(lab.primary(), "drained", SLEEP).await;
        sleep.abort();
        let next = tokio::time::timeout(SOON, pid(&lab.db)).await;
        assert_eq!(next.expect("the statement was cancelled"), before);
        assert_eq!(running(lab.primary(), "drained", SLEEP).await, 0);
    }
    assert!(has_session(lab.primary(), before).await);
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn its_place_is_taken_until_the_session_is_whole_again() {
    let lab =
        Lab::named("place").behind_proxy().one_connection().without_client_check().start().await;
    let before = pid(&lab.db).await;
    {
        let mut sleep = std::pin::pin!(sqlx::query(SLEEP).execute(&lab.db));
        tokio::select! {
            _ = &mut sleep => panic!("it sleeps for long"),
            () = until_running(lab.primary(), "place", SLEEP) => {}
        }
    }
    // Nothing was waited for since it was dropped.
    let pool = lab.pool();
    assert_eq!((pool.in_use, pool.idle, pool.size), (1, 0, 1), "{pool:?}");
    assert_eq!(pid(&lab.db).await, before);
    wait_until("its place is free", async || lab.pool().in_use == 0).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn what_cannot_be_cancelled_yet_holds_its_place_and_no_other_connection_is_made_in_it() {
    let lab =
        Lab::named("cut_off").behind_proxy().one_connection().without_client_check().start().await;
    let before = pid(&lab.db).await;
    let db = lab.db.clone();
    let sql = "SELECT pg_sleep(0.3)";
    let sleep = tokio::spawn(async move { sqlx::query(sql).execute(&db).await });
    until_running(lab.primary(), "cut_off", sql).await;
    lab.proxy().stall();
    sleep.abort();
    assert!(sleep.await.unwrap_err().is_cancelled());
    assert_eq!(lab.pool().in_use, 1);
    assert_eq!(flautino_lab::sessions_of(lab.primary(), "cut_off").await, 1);
    lab.proxy().heal().unwrap();
    let next = tokio::time::timeout(SOON, pid(&lab.db)).await.expect("the network is back");
    // Where the network stood still for too long it was given up.
    println!("the same session: {}", next == before);
    wait_until("one session is left", async || {
        flautino_lab::sessions_of(lab.primary(), "cut_off").await == 1
    })
    .await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_large_answer_dropped_half_way_is_read_to_its_end() {
    let lab =
        Lab::named("large").behind_proxy().one_connection().without_client_check().start().await;
    for rows_read in [0, 1, 3, 1000] {
        let mut is_kept = false;
        // The rest has a second to come. On a busy machine that may be too short, and the session is
        // replaced.
        for _ in 0..5 {
            let before = pid(&lab.db).await;
            leave_half_read(&lab, rows_read).await;
            let answer = sqlx::query_as::<_, (i32, i32)>("SELECT -7, pg_backend_pid()");
            let answer = tokio::time::timeout(SOON, answer.fetch_one(&lab.db)).await;
            let (answer, after) = answer.expect("it was cancelled").unwrap();
            assert_eq!(answer, -7, "{rows_read} rows");
            is_kept = after == before;
            if is_kept {
                break;
            }
        }
        assert!(is_kept, "the session is never kept after {rows_read} rows");
    }
    lab.engine.close().await;
}

async fn leave_half_read(lab: &Lab, rows_read: i32) {
    let sql = "SELECT generate_series(1, 100000000)";
    let mut rows = sqlx::query_scalar::<_, i32>(sql).fetch(&lab.db);
    for expected in 1..=rows_read {
        assert_eq!(rows.next().await.unwrap().unwrap(), expected);
    }
    if rows_read == 0 {
        // Sent, and no row taken.
        let _ = flautino_lab::polled_at_most(3, rows.next()).await;
    }
}

#[tokio::test]
async fn wide_rows_dropped_half_way_are_read_to_their_end_too() {
    let lab =
        Lab::named("wide").behind_proxy().one_connection().without_client_check().start().await;
    let before = pid(&lab.db).await;
    for _ in 0..3 {
        {
            let sql = "SELECT repeat('x', 1000000) FROM generate_series(1, 10000)";
            let mut rows = sqlx::query_scalar::<_, String>(sql).fetch(&lab.db);
            assert_eq!(rows.next().await.unwrap().unwrap().len(), 1_000_000);
        }
        let next = tokio::time::timeout(SOON, pid(&lab.db)).await;
        assert_eq!(next.expect("it was cancelled"), before);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_lease_with_a_statement_under_way_is_drained_as_well() {
    let lab =
        Lab::named("lease").behind_proxy().one_connection().without_client_check().start().await;
    let before = pid(&lab.db).await;
    for bare in [false, true] {
        let mut lease = lab.db.acquire().await.unwrap();
        {
            let mut sleep = std::pin::pin!(async {
                if bare {
                    sqlx::query(SLEEP).execute(&mut *lease).await
                } else {
                    sqlx::query(SLEEP).execute(&mut lease).await
                }
            });
            tokio::select! {
                _ = &mut sleep => panic!("it sleeps for long"),
                () = until_running(lab.primary(), "lease", SLEEP) => {}
            }
        }
        drop(lease);
        let next = tokio::time::timeout(SOON, pid(&lab.db)).await;
        assert_eq!(next.expect("it was cancelled"), before, "bare: {bare}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn an_answer_that_was_under_way_already_needs_no_session_anew() {
    let lab =
        Lab::named("answered").behind_proxy().one_connection().without_client_check().start().await;
    let before = pid(&lab.db).await;
    let begun = sessions_begun(lab.primary(), "answered");
    for polls in 1..50 {
        let query = sqlx::query("SELECT 1").execute(&lab.db);
        let _ = flautino_lab::polled_at_most(1 + polls % 4, query).await;
        assert_eq!(pid(&lab.db).await, before);
    }
    println!("{} sessions beside", sessions_begun(lab.primary(), "answered") - begun);
    lab.engine.close().await;
}
