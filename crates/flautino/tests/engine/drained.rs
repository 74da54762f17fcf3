//! A statement that nobody waits for any more is cancelled, the rest of its answer is read, and its
//! session serves again.

use std::time::Duration;

use flautino::EngineConfig;
use flautino_lab::{Proxied, has_session, pid, running, sessions_begun, until_running, wait_until};
use futures_util::StreamExt;

const SLEEP: &str = "SELECT pg_sleep(30)";
/// Far less than the statements would take, and far more than cancelling them should.
const SOON: Duration = Duration::from_secs(10);

fn one_connection(config: &mut EngineConfig) {
    config.pool.max_connections = 1;
    config.pool.acquire_timeout = Duration::from_secs(60);
    // The server finds nothing out by itself.
    config.main.client_check_interval = Some(Duration::ZERO);
}

#[tokio::test]
async fn the_same_session_serves_the_next_statement_and_the_server_runs_the_old_one_no_more() {
    let server = Proxied::start("drained", one_connection).await;
    let before = pid(&server.db).await;
    for _ in 0..5 {
        let db = server.db.clone();
        let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await });
        until_running(server.node(), "drained", SLEEP).await;
        sleep.abort();
        let next = tokio::time::timeout(SOON, pid(&server.db)).await;
        assert_eq!(next.expect("the statement was cancelled"), before);
        assert_eq!(running(server.node(), "drained", SLEEP).await, 0);
    }
    assert!(has_session(server.node(), before).await);
    assert_eq!(server.engine.status().nodes[0].in_flight, 0);
    server.engine.close().await;
}

#[tokio::test]
async fn its_place_is_taken_until_the_session_is_whole_again() {
    let server = Proxied::start("place", one_connection).await;
    let before = pid(&server.db).await;
    {
        let mut sleep = std::pin::pin!(sqlx::query(SLEEP).execute(&server.db));
        tokio::select! {
            _ = &mut sleep => panic!("it sleeps for long"),
            () = until_running(server.node(), "place", SLEEP) => {}
        }
    }
    // Nothing was waited for since it was dropped.
    let pool = server.pool();
    assert_eq!((pool.in_use, pool.idle, pool.size), (1, 0, 1), "{pool:?}");
    assert_eq!(pid(&server.db).await, before);
    wait_until("its place is free", async || server.pool().in_use == 0).await;
    server.engine.close().await;
}

#[tokio::test]
async fn what_cannot_be_cancelled_yet_holds_its_place_and_no_other_connection_is_made_in_it() {
    let server = Proxied::start("cut_off", one_connection).await;
    let before = pid(&server.db).await;
    let db = server.db.clone();
    let sql = "SELECT pg_sleep(0.3)";
    let sleep = tokio::spawn(async move { sqlx::query(sql).execute(&db).await });
    until_running(server.node(), "cut_off", sql).await;
    server.proxy.stall();
    sleep.abort();
    assert!(sleep.await.unwrap_err().is_cancelled());
    assert_eq!(server.pool().in_use, 1);
    assert_eq!(flautino_lab::sessions_of(server.node(), "cut_off").await, 1);
    server.proxy.heal().unwrap();
    let next = tokio::time::timeout(SOON, pid(&server.db)).await.expect("the network is back");
    // Where the network stood still for too long it was given up.
    println!("the same session: {}", next == before);
    wait_until("one session is left", async || {
        flautino_lab::sessions_of(server.node(), "cut_off").await == 1
    })
    .await;
    server.engine.close().await;
}

#[tokio::test]
async fn a_large_answer_dropped_half_way_is_read_to_its_end() {
    let server = Proxied::start("large", one_connection).await;
    let before = pid(&server.db).await;
    for rows_read in [0, 1, 3, 1000] {
        {
            let sql = "SELECT generate_series(1, 100000000)";
            let mut rows = sqlx::query_scalar::<_, i32>(sql).fetch(&server.db);
            for expected in 1..=rows_read {
                assert_eq!(rows.next().await.unwrap().unwrap(), expected);
            }
            if rows_read == 0 {
                // Sent, and no row taken.
                let _ = flautino_lab::polled_at_most(3, rows.next()).await;
            }
        }
        let answer = sqlx::query_as::<_, (i32, i32)>("SELECT -7, pg_backend_pid()");
        let answer = tokio::time::timeout(SOON, answer.fetch_one(&server.db)).await;
        assert_eq!(answer.expect("it was cancelled").unwrap(), (-7, before), "{rows_read} rows");
    }
    server.engine.close().await;
}

#[tokio::test]
async fn wide_rows_dropped_half_way_are_read_to_their_end_too() {
    let server = Proxied::start("wide", one_connection).await;
    let before = pid(&server.db).await;
    for _ in 0..3 {
        {
            let sql = "SELECT repeat('x', 1000000) FROM generate_series(1, 10000)";
            let mut rows = sqlx::query_scalar::<_, String>(sql).fetch(&server.db);
            assert_eq!(rows.next().await.unwrap().unwrap().len(), 1_000_000);
        }
        let next = tokio::time::timeout(SOON, pid(&server.db)).await;
        assert_eq!(next.expect("it was cancelled"), before);
    }
    server.engine.close().await;
}

#[tokio::test]
async fn a_lease_with_a_statement_under_way_is_drained_as_well() {
    let server = Proxied::start("lease", one_connection).await;
    let before = pid(&server.db).await;
    for bare in [false, true] {
        let mut lease = server.db.acquire().await.unwrap();
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
                () = until_running(server.node(), "lease", SLEEP) => {}
            }
        }
        drop(lease);
        let next = tokio::time::timeout(SOON, pid(&server.db)).await;
        assert_eq!(next.expect("it was cancelled"), before, "bare: {bare}");
    }
    server.engine.close().await;
}

#[tokio::test]
async fn an_answer_that_was_under_way_already_needs_no_session_anew() {
    let server = Proxied::start("answered", one_connection).await;
    let before = pid(&server.db).await;
    let begun = sessions_begun(server.node(), "answered");
    for polls in 1..50 {
        let query = sqlx::query("SELECT 1").execute(&server.db);
        let _ = flautino_lab::polled_at_most(1 + polls % 4, query).await;
        assert_eq!(pid(&server.db).await, before);
    }
    println!("{} sessions beside", sessions_begun(server.node(), "answered") - begun);
    server.engine.close().await;
}
