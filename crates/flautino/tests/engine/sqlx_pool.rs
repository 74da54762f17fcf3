//! `Engine::pool`: a pool of sqlx's beside the engine's own, for code that wants one.

use std::time::Duration;

use flautino::{EngineConfig, PoolConfig};
use flautino_lab::{Lab, pid, until_sessions, wait_until};
use futures_util::future::try_join_all;

const PID: &str = "SELECT pg_backend_pid()";

fn small(config: &mut EngineConfig) {
    config.pool.max_connections = 2;
    config.pool.sqlx_connections = 2;
}

#[test]
fn it_has_ten_connections_unless_the_configuration_says_otherwise() {
    assert_eq!(PoolConfig::default().sqlx_connections, 10);
    let text = "url = 'postgres://u@localhost/d'\n[pool]\nsqlx_connections = 3";
    assert_eq!(EngineConfig::from_toml(text).unwrap().pool.sqlx_connections, 3);
}

#[tokio::test]
async fn there_is_none_before_open_nor_after_close_nor_of_an_unknown_node() {
    let lab = Lab::named("phases").start_closed().await;
    assert!(lab.engine.pool("main").is_none());
    lab.engine.open().await.unwrap();
    assert!(lab.engine.pool("nobody").is_none());
    let first = lab.engine.pool("main").unwrap();
    lab.engine.close().await;
    assert!(lab.engine.pool("main").is_none());
    assert!(first.is_closed());
    lab.engine.open().await.unwrap();
    let second = lab.engine.pool("main").unwrap();
    assert!(!second.is_closed());
    sqlx::query("SELECT 1").execute(&second).await.unwrap();
    lab.engine.close().await;
}

#[tokio::test]
async fn it_connects_when_it_is_used_and_its_sessions_come_on_top_of_the_engine_s() {
    let lab = Lab::named("beside").behind_proxy().config(small).start().await;
    until_sessions(lab.primary(), "beside", 1).await;
    let pool = lab.engine.pool("main").unwrap();
    assert_eq!(pool.size(), 0);
    until_sessions(lab.primary(), "beside", 1).await;
    // All of the engine's are taken, and then all of the pool's.
    let leases = try_join_all((0..2).map(|_| lab.db.acquire())).await.unwrap();
    let theirs = try_join_all((0..2).map(|_| pool.acquire())).await.unwrap();
    until_sessions(lab.primary(), "beside", 4).await;
    assert_eq!((lab.pool().size, lab.pool().max), (2, 2));
    assert_eq!(pool.options().get_max_connections(), 2);
    let third = tokio::time::timeout(Duration::from_millis(100), pool.acquire()).await;
    assert!(third.is_err(), "there are two");
    drop(leases);
    pid(&lab.db).await;
    drop(theirs);
    sqlx::query(PID).execute(&pool).await.unwrap();
    lab.engine.close().await;
    until_sessions(lab.primary(), "beside", 0).await;
}

#[tokio::test]
async fn it_is_the_same_at_each_call() {
    let lab = Lab::named("same").behind_proxy().config(small).start().await;
    let first = lab.engine.pool("main").unwrap();
    let second = lab.engine.clone().pool("main").unwrap();
    let held = first.acquire().await.unwrap();
    assert_eq!((first.size(), second.size()), (1, 1));
    drop(held);
    wait_until("it rests in both", async || (first.num_idle(), second.num_idle()) == (1, 1)).await;
    let one: i32 = sqlx::query_scalar(PID).fetch_one(&first).await.unwrap();
    wait_until("it rests again", async || first.num_idle() == 1).await;
    let two: i32 = sqlx::query_scalar(PID).fetch_one(&second).await.unwrap();
    assert_eq!(one, two);
    lab.engine.close().await;
}

#[tokio::test]
async fn closing_it_from_outside_does_not_touch_the_engine_s_own() {
    let lab = Lab::named("outside").behind_proxy().config(small).start().await;
    let pool = lab.engine.pool("main").unwrap();
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(10), pool.close()).await;
    closed.expect("nothing holds it up");
    pid(&lab.db).await;
    assert!(lab.engine.close().await.was_open);
    until_sessions(lab.primary(), "outside", 0).await;
}

#[tokio::test]
async fn close_is_bounded_also_where_a_connection_of_it_is_held() {
    let lab = Lab::named("kept").behind_proxy().config(small).start().await;
    let pool = lab.engine.pool("main").unwrap();
    let held = pool.acquire().await.unwrap();
    let report = lab.engine.close_within(Duration::from_millis(100)).await;
    assert!(report.elapsed < Duration::from_secs(10), "{report:?}");
    assert!(pool.is_closed());
    pool.acquire().await.unwrap_err();
    drop(held);
    until_sessions(lab.primary(), "kept", 0).await;
}

#[tokio::test]
async fn its_sessions_are_washed_between_users() {
    let lab = Lab::named("washed")
        .behind_proxy()
        .config(|config| config.pool.sqlx_connections = 1)
        .start()
        .await;
    let pool = lab.engine.pool("main").unwrap();
    let before: i32 = sqlx::query_scalar(PID).fetch_one(&pool).await.unwrap();
    for (sql, must_hold) in [
        ("SET work_mem = '9MB'", "SELECT current_setting('work_mem') <> '9MB'"),
        (
            "SELECT pg_advisory_lock(1)",
            "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')",
        ),
        (
            "CREATE TEMP TABLE left_behind (a int)",
            "SELECT to_regclass('pg_temp.left_behind') IS NULL",
        ),
    ] {
        let mut connection = pool.acquire().await.unwrap();
        sqlx::query(sql).execute(&mut *connection).await.unwrap();
        drop(connection);
        let clean: bool = sqlx::query_scalar(must_hold).fetch_one(&pool).await.unwrap();
        assert!(clean, "{sql}");
        sqlx::query(sql).execute(&pool).await.unwrap();
        let clean: bool = sqlx::query_scalar(must_hold).fetch_one(&pool).await.unwrap();
        assert!(clean, "{sql} without a connection of its own");
    }
    let after: i32 = sqlx::query_scalar(PID).fetch_one(&pool).await.unwrap();
    assert_eq!(after, before);
    lab.engine.close().await;
}

#[tokio::test]
async fn its_sessions_have_the_node_s_settings() {
    let lab = Lab::named("settings")
        .behind_proxy()
        .config(|config| config.main.statement_timeout = Some(Duration::from_secs(25)))
        .start()
        .await;
    let pool = lab.engine.pool("main").unwrap();
    for _ in 0..3 {
        let mut connection = pool.acquire().await.unwrap();
        let timeout: String = sqlx::query_scalar("SELECT current_setting('statement_timeout')")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(timeout, "25s");
        sqlx::query("SET statement_timeout = 0").execute(&mut *connection).await.unwrap();
    }
    lab.engine.close().await;
}
