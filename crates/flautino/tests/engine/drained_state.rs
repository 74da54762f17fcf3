//! What an abandoned statement's session had is not there for its next user.

use std::time::Duration;

use flautino::Lease;
use flautino_lab::{Lab, polled_at_most, until_running};

const SLEEP: &str = "SELECT pg_sleep(30)";
const SOON: Duration = Duration::from_secs(10);

/// What is done, and what must hold for the next user.
const LEFT: [(&str, &str); 5] = [
    ("SET work_mem = '9MB'", "SELECT current_setting('work_mem') <> '9MB'"),
    (
        "SELECT pg_advisory_lock(1)",
        "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')",
    ),
    ("CREATE TEMP TABLE left_behind (a int)", "SELECT to_regclass('pg_temp.left_behind') IS NULL"),
    ("LISTEN news", "SELECT NOT EXISTS (SELECT FROM pg_listening_channels())"),
    ("SET app.who = 'me'", "SELECT coalesce(current_setting('app.who', true), '') = ''"),
];

async fn leave(lease: &mut Lease) -> i32 {
    for (sql, _) in LEFT {
        sqlx::query(sql).execute(&mut *lease).await.unwrap();
    }
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *lease).await.unwrap()
}

/// The same process serves, and knows nothing of it.
async fn check(lab: &Lab, expected: i32) {
    let next = tokio::time::timeout(SOON, flautino_lab::pid(&lab.db)).await;
    assert_eq!(next.expect("the connection came free"), expected);
    for (sql, must_hold) in LEFT {
        let clean: bool = sqlx::query_scalar(must_hold).fetch_one(&lab.db).await.unwrap();
        assert!(clean, "{sql}");
    }
}

#[tokio::test]
async fn a_session_whose_last_statement_was_abandoned_is_washed() {
    let lab =
        Lab::named("washed").behind_proxy().one_connection().without_client_check().start().await;
    let mut lease = lab.db.acquire().await.unwrap();
    let before = leave(&mut lease).await;
    {
        let mut sleep = std::pin::pin!(sqlx::query(SLEEP).execute(&mut lease));
        tokio::select! {
            _ = &mut sleep => panic!("it sleeps for long"),
            () = until_running(lab.primary(), "washed", SLEEP) => {}
        }
    }
    drop(lease);
    check(&lab, before).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn what_the_abandoned_statement_itself_did_is_washed_off() {
    let lab =
        Lab::named("itself").behind_proxy().one_connection().without_client_check().start().await;
    let before = flautino_lab::pid(&lab.db).await;
    // The lock outlives the transaction that is rolled back.
    for sql in [
        "SELECT pg_advisory_lock(1), pg_sleep(30)",
        "SELECT set_config('app.who', 'me', false), pg_advisory_lock(1), pg_sleep(30)",
        "DO $$ BEGIN PERFORM set_config('work_mem', '9MB', false); COMMIT; \
             PERFORM pg_advisory_lock(1); PERFORM pg_sleep(30); END $$",
    ] {
        let mut lease = lab.db.acquire().await.unwrap();
        let abandoned = tokio::spawn(async move { sqlx::query(sql).execute(&mut lease).await });
        until_running(lab.primary(), "itself", sql).await;
        abandoned.abort();
        check(&lab, before).await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_statement_of_a_handle_dropped_before_its_answer_is_washed_off() {
    let lab =
        Lab::named("unread").behind_proxy().one_connection().without_client_check().start().await;
    let before = flautino_lab::pid(&lab.db).await;
    for polls in 1..8 {
        for (sql, _) in LEFT {
            let _ = polled_at_most(polls, sqlx::query(sql).execute(&lab.db)).await;
        }
        check(&lab, before).await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn the_session_s_own_settings_are_in_force_again() {
    let lab = Lab::named("own")
        .behind_proxy()
        .one_connection()
        .without_client_check()
        .config(|config| config.main.statement_timeout = Some(Duration::from_secs(25)))
        .start()
        .await;
    let mut lease = lab.db.acquire().await.unwrap();
    sqlx::query("SET statement_timeout = 0").execute(&mut lease).await.unwrap();
    {
        let mut sleep = std::pin::pin!(sqlx::query(SLEEP).execute(&mut lease));
        tokio::select! {
            _ = &mut sleep => panic!("it sleeps for long"),
            () = until_running(lab.primary(), "own", SLEEP) => {}
        }
    }
    drop(lease);
    let show = sqlx::query_scalar("SELECT current_setting('statement_timeout')");
    let timeout: String = show.fetch_one(&lab.db).await.unwrap();
    assert_eq!(timeout, "25s");
    lab.engine.close().await;
}
