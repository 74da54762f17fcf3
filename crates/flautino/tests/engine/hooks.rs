//! Hooks: after a connection is made, before it is lent, after it was used.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use flautino::{Engine, EngineConfig, Handle};
use flautino_lab::{Proxied, has_session, pid, sqlstate, until_sessions, wait_until};
use futures_util::future::try_join_all;
use sqlx::PgConnection;

const GREETING: &str = "SELECT coalesce(current_setting('app.greeting', true), '')";
const WHO: &str = "SELECT coalesce(current_setting('app.who', true), '')";

fn one_connection(config: &mut EngineConfig) {
    config.pool.max_connections = 1;
    config.pool.warm_time = Duration::from_secs(60);
    config.pool.acquire_timeout = Duration::from_secs(60);
}

/// An open engine with these hooks.
async fn start(
    name: &str,
    adjust: impl FnOnce(&mut EngineConfig),
    build: impl FnOnce(Engine) -> Engine,
) -> Proxied {
    let server = Proxied::start_closed(name, adjust, build).await;
    server.engine.open().await.unwrap();
    server
}

async fn text(db: &Handle, sql: &'static str) -> String {
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

#[tokio::test]
async fn after_connect_runs_once_for_each_session_and_again_after_a_wash() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let runs = || RUNS.load(Ordering::SeqCst);
    let hook = async |connection: &mut PgConnection| -> Result<(), sqlx::Error> {
        RUNS.fetch_add(1, Ordering::SeqCst);
        sqlx::query("SET app.greeting = 'hello'").execute(connection).await.map(drop)
    };
    let adjust = |config: &mut EngineConfig| {
        config.pool.max_connections = 3;
        config.pool.warm_time = Duration::from_secs(60);
    };
    let server = start("connect", adjust, |engine| engine.after_connect(hook)).await;
    let opened = runs();
    assert!(opened >= 1, "{opened}");
    for _ in 0..10 {
        assert_eq!(text(&server.db, GREETING).await, "hello");
    }
    assert_eq!(runs(), opened, "statements that leave nothing behind need no hook");

    // Two new sessions, and none is lent before the hook ran.
    let mut leases = try_join_all((0..3).map(|_| server.db.acquire())).await.unwrap();
    assert_eq!(runs(), opened + 2);
    for lease in &mut leases {
        let greeting: String = sqlx::query_scalar(GREETING).fetch_one(&mut *lease).await.unwrap();
        assert_eq!(greeting, "hello");
        sqlx::query("SET app.greeting = 'bye'").execute(&mut *lease).await.unwrap();
    }
    let mut pids = Vec::new();
    for lease in &mut leases {
        let pid: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(lease).await.unwrap();
        pids.push(pid);
    }
    drop(leases);
    let mut leases = try_join_all((0..3).map(|_| server.db.acquire())).await.unwrap();
    assert_eq!(runs(), opened + 5, "each of the three was washed");
    for lease in &mut leases {
        let greeting: String = sqlx::query_scalar(GREETING).fetch_one(&mut *lease).await.unwrap();
        assert_eq!(greeting, "hello");
        let pid: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(lease).await.unwrap();
        assert!(pids.contains(&pid));
    }
    drop(leases);
    server.engine.close().await;
}

#[tokio::test]
async fn after_connect_runs_after_an_abandoned_statement_too() {
    let hook = async |connection: &mut PgConnection| -> Result<(), sqlx::Error> {
        sqlx::query("SET app.greeting = 'hello'").execute(connection).await.map(drop)
    };
    let server = start("again", one_connection, |engine| engine.after_connect(hook)).await;
    let before = pid(&server.db).await;
    for patience in [0, 1, 5, 20, 100].map(Duration::from_millis) {
        let sleep = sqlx::query("SELECT set_config('app.greeting', 'bye', false), pg_sleep(30)");
        assert!(tokio::time::timeout(patience, sleep.execute(&server.db)).await.is_err());
        assert_eq!(text(&server.db, GREETING).await, "hello");
        assert_eq!(pid(&server.db).await, before);
    }
    server.engine.close().await;
}

tokio::task_local! {
    static ASKER: &'static str;
}

#[tokio::test]
async fn before_acquire_runs_in_the_asker_s_task_each_time_a_connection_is_lent() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let runs = || RUNS.load(Ordering::SeqCst);
    let hook = async |connection: &mut PgConnection| -> Result<bool, sqlx::Error> {
        RUNS.fetch_add(1, Ordering::SeqCst);
        let who = ASKER.try_with(|who| *who).unwrap_or("nobody");
        sqlx::query("SELECT set_config('app.who', $1, false)")
            .bind(who)
            .execute(connection)
            .await?;
        Ok(true)
    };
    let server = start("acquire", one_connection, |engine| engine.before_acquire(hook)).await;
    let before = pid(&server.db).await;
    for who in ["ann", "ben", "ann"] {
        let then = runs();
        assert_eq!(ASKER.scope(who, text(&server.db, WHO)).await, who);
        assert_eq!(runs(), then + 1);
    }
    assert_eq!(text(&server.db, WHO).await, "nobody");

    // Also where the connection is one that somebody else gives back.
    let held = server.db.acquire().await.unwrap();
    let db = server.db.clone();
    let waiting = tokio::spawn(ASKER.scope("cleo", async move { text(&db, WHO).await }));
    tokio::task::yield_now().await;
    drop(held);
    assert_eq!(waiting.await.unwrap(), "cleo");

    // A lease and a transaction are lent once.
    let then = runs();
    let mut lease = ASKER.scope("dan", server.db.acquire()).await.unwrap();
    for _ in 0..3 {
        let who: String = sqlx::query_scalar(WHO).fetch_one(&mut lease).await.unwrap();
        assert_eq!(who, "dan");
    }
    drop(lease);
    assert_eq!(runs(), then + 1);
    let mut tx = ASKER.scope("eve", server.db.begin()).await.unwrap();
    let who: String = sqlx::query_scalar(WHO).fetch_one(&mut tx).await.unwrap();
    assert_eq!(who, "eve");
    tx.commit().await.unwrap();
    assert_eq!(runs(), then + 2);
    assert_eq!(pid(&server.db).await, before);
    server.engine.close().await;
}

#[tokio::test]
async fn before_acquire_sees_the_asker_also_where_the_connection_is_new() {
    let hook = async |connection: &mut PgConnection| -> Result<bool, sqlx::Error> {
        let who = ASKER.try_with(|who| *who).unwrap_or("nobody");
        sqlx::query("SELECT set_config('app.who', $1, false)")
            .bind(who)
            .execute(connection)
            .await?;
        Ok(true)
    };
    let adjust = |config: &mut EngineConfig| config.pool.max_connections = 2;
    let server = start("fresh", adjust, |engine| engine.before_acquire(hook)).await;
    let held = server.db.acquire().await.unwrap();
    assert_eq!(ASKER.scope("ann", text(&server.db, WHO)).await, "ann");
    drop(held);
    server.engine.close().await;
}

#[tokio::test]
async fn a_connection_that_before_acquire_refuses_is_closed_and_another_taken() {
    static REFUSE: AtomicBool = AtomicBool::new(false);
    let hook = async |_: &mut PgConnection| -> Result<bool, sqlx::Error> {
        Ok(!REFUSE.swap(false, Ordering::SeqCst))
    };
    let server = start("refused", one_connection, |engine| engine.before_acquire(hook)).await;
    let before = pid(&server.db).await;
    assert_eq!(pid(&server.db).await, before);
    REFUSE.store(true, Ordering::SeqCst);
    let after = pid(&server.db).await;
    assert_ne!(after, before);
    wait_until("its session is gone", async || !has_session(server.node(), before).await).await;
    assert_eq!(pid(&server.db).await, after);
    until_sessions(server.node(), "refused", 1).await;
    assert_eq!(server.pool().size, 1);
    server.engine.close().await;
}

/// Ready when the hook is through with the connection that was given back last.
async fn until_rests(server: &Proxied) {
    wait_until("the connection rests", async || server.pool().idle == 1).await;
}

#[tokio::test]
async fn a_connection_that_after_release_refuses_is_closed() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    static REFUSE: AtomicBool = AtomicBool::new(false);
    let hook = async |_: &mut PgConnection| -> Result<bool, sqlx::Error> {
        RUNS.fetch_add(1, Ordering::SeqCst);
        Ok(!REFUSE.swap(false, Ordering::SeqCst))
    };
    let server = start("released", one_connection, |engine| engine.after_release(hook)).await;
    let before = pid(&server.db).await;
    until_rests(&server).await;
    let then = RUNS.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(pid(&server.db).await, before);
    }
    drop(server.db.acquire().await.unwrap());
    wait_until("it ran after each use", async || RUNS.load(Ordering::SeqCst) == then + 4).await;
    until_rests(&server).await;
    REFUSE.store(true, Ordering::SeqCst);
    assert_eq!(pid(&server.db).await, before);
    let after = pid(&server.db).await;
    assert_ne!(after, before);
    wait_until("its session is gone", async || !has_session(server.node(), before).await).await;
    assert_eq!(pid(&server.db).await, after);
    server.engine.close().await;
}

#[tokio::test]
async fn an_error_of_after_release_closes_the_connection_and_is_nobody_s() {
    static FAIL: AtomicBool = AtomicBool::new(false);
    let hook = async |connection: &mut PgConnection| -> Result<bool, sqlx::Error> {
        if FAIL.swap(false, Ordering::SeqCst) {
            sqlx::query("SELECT 1 / 0").execute(connection).await?;
        }
        Ok(true)
    };
    let server = start("failing", one_connection, |engine| engine.after_release(hook)).await;
    let before = pid(&server.db).await;
    until_rests(&server).await;
    FAIL.store(true, Ordering::SeqCst);
    assert_eq!(pid(&server.db).await, before);
    let after = pid(&server.db).await;
    assert_ne!(after, before);
    assert_eq!(pid(&server.db).await, after);
    server.engine.close().await;
}

#[tokio::test]
async fn an_error_of_before_acquire_is_the_asker_s_and_nobody_else_s() {
    let hook = async |connection: &mut PgConnection| -> Result<bool, sqlx::Error> {
        if ASKER.try_with(|who| *who == "fails").unwrap_or(false) {
            sqlx::query("SELECT 1 / 0").execute(connection).await?;
        }
        Ok(true)
    };
    let server = start("error", one_connection, |engine| engine.before_acquire(hook)).await;
    let select = || sqlx::query("SELECT 1").execute(&server.db);
    let error = ASKER.scope("fails", select()).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    let error = ASKER.scope("fails", server.db.acquire()).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    let error = ASKER.scope("fails", server.db.begin()).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    ASKER.scope("works", select()).await.unwrap();
    select().await.unwrap();
    assert_eq!(server.engine.status().nodes[0].in_flight, 0);
    server.engine.close().await;
}

#[tokio::test]
async fn an_error_of_after_connect_is_the_asker_s() {
    static FAIL: AtomicBool = AtomicBool::new(false);
    let hook = async |connection: &mut PgConnection| -> Result<(), sqlx::Error> {
        if FAIL.load(Ordering::SeqCst) {
            sqlx::query("SELECT 1 / 0").execute(connection).await?;
        }
        Ok(())
    };
    let adjust = |config: &mut EngineConfig| {
        config.pool.max_connections = 2;
        config.pool.acquire_timeout = Duration::from_secs(60);
    };
    let server = start("broken", adjust, |engine| engine.after_connect(hook)).await;
    let held = server.db.acquire().await.unwrap();
    FAIL.store(true, Ordering::SeqCst);
    let error = sqlx::query("SELECT 1").execute(&server.db).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    let error = server.db.acquire().await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    until_sessions(server.node(), "broken", 1).await;
    FAIL.store(false, Ordering::SeqCst);
    sqlx::query("SELECT 1").execute(&server.db).await.unwrap();
    drop(held);
    server.engine.close().await;
}

#[tokio::test]
async fn a_hook_whose_asker_goes_away_meanwhile_leaves_a_whole_pool() {
    let hook = async |connection: &mut PgConnection| -> Result<bool, sqlx::Error> {
        if ASKER.try_with(|who| *who == "slow").unwrap_or(false) {
            sqlx::query("SELECT pg_sleep(30)").execute(connection).await?;
        }
        Ok(true)
    };
    let server = start("hanging", one_connection, |engine| engine.before_acquire(hook)).await;
    for _ in 0..3 {
        let db = server.db.clone();
        let asker = tokio::spawn(ASKER.scope("slow", async move { pid(&db).await }));
        flautino_lab::until_running(server.node(), "hanging", "SELECT pg_sleep(30)").await;
        asker.abort();
        let _ = asker.await;
        let next = tokio::time::timeout(Duration::from_secs(10), pid(&server.db)).await;
        next.expect("its place came free");
    }
    assert_eq!(server.engine.status().nodes[0].in_flight, 0);
    until_sessions(server.node(), "hanging", 1).await;
    server.engine.close().await;
}
