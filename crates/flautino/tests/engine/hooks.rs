//! Hooks: after a connection is made, before it is lent, after it was used.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use flautino::{EngineConfig, Handle};
use flautino_lab::{Lab, has_session, pid, sqlstate, until_sessions, wait_until};
use futures_util::future::try_join_all;
use sqlx::PgConnection;

const GREETING: &str = "SELECT coalesce(current_setting('app.greeting', true), '')";
const WHO: &str = "SELECT coalesce(current_setting('app.who', true), '')";

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
    let lab = Lab::named("connect")
        .behind_proxy()
        .config(adjust)
        .engine(|engine| engine.after_connect(hook))
        .start()
        .await;
    let opened = runs();
    assert!(opened >= 1, "{opened}");
    for _ in 0..10 {
        assert_eq!(text(&lab.db, GREETING).await, "hello");
    }
    assert_eq!(runs(), opened, "statements that leave nothing behind need no hook");

    // Two new sessions, and none is lent before the hook ran.
    let mut leases = try_join_all((0..3).map(|_| lab.db.acquire())).await.unwrap();
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
    let mut leases = try_join_all((0..3).map(|_| lab.db.acquire())).await.unwrap();
    assert_eq!(runs(), opened + 5, "each of the three was washed");
    for lease in &mut leases {
        let greeting: String = sqlx::query_scalar(GREETING).fetch_one(&mut *lease).await.unwrap();
        assert_eq!(greeting, "hello");
        let pid: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(lease).await.unwrap();
        assert!(pids.contains(&pid));
    }
    drop(leases);
    lab.engine.close().await;
}

#[tokio::test]
async fn after_connect_runs_after_an_abandoned_statement_too() {
    let hook = async |connection: &mut PgConnection| -> Result<(), sqlx::Error> {
        sqlx::query("SET app.greeting = 'hello'").execute(connection).await.map(drop)
    };
    let lab = Lab::named("again")
        .behind_proxy()
        .one_connection()
        .always_warm()
        .engine(|engine| engine.after_connect(hook))
        .start()
        .await;
    let before = pid(&lab.db).await;
    for patience in [0, 1, 5, 20, 100].map(Duration::from_millis) {
        let sleep = sqlx::query("SELECT set_config('app.greeting', 'bye', false), pg_sleep(30)");
        assert!(tokio::time::timeout(patience, sleep.execute(&lab.db)).await.is_err());
        assert_eq!(text(&lab.db, GREETING).await, "hello");
        assert_eq!(pid(&lab.db).await, before);
    }
    lab.engine.close().await;
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
    let lab = Lab::named("acquire")
        .behind_proxy()
        .one_connection()
        .always_warm()
        .engine(|engine| engine.before_acquire(hook))
        .start()
        .await;
    let before = pid(&lab.db).await;
    for who in ["ann", "ben", "ann"] {
        let then = runs();
        assert_eq!(ASKER.scope(who, text(&lab.db, WHO)).await, who);
        assert_eq!(runs(), then + 1);
    }
    assert_eq!(text(&lab.db, WHO).await, "nobody");

    // Also where the connection is one that somebody else gives back.
    let held = lab.db.acquire().await.unwrap();
    let db = lab.db.clone();
    let waiting = tokio::spawn(ASKER.scope("cleo", async move { text(&db, WHO).await }));
    tokio::task::yield_now().await;
    drop(held);
    assert_eq!(waiting.await.unwrap(), "cleo");

    // A lease and a transaction are lent once.
    let then = runs();
    let mut lease = ASKER.scope("dan", lab.db.acquire()).await.unwrap();
    for _ in 0..3 {
        let who: String = sqlx::query_scalar(WHO).fetch_one(&mut lease).await.unwrap();
        assert_eq!(who, "dan");
    }
    drop(lease);
    assert_eq!(runs(), then + 1);
    let mut tx = ASKER.scope("eve", lab.db.begin()).await.unwrap();
    let who: String = sqlx::query_scalar(WHO).fetch_one(&mut tx).await.unwrap();
    assert_eq!(who, "eve");
    tx.commit().await.unwrap();
    assert_eq!(runs(), then + 2);
    assert_eq!(pid(&lab.db).await, before);
    lab.engine.close().await;
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
    let lab = Lab::named("fresh")
        .behind_proxy()
        .config(adjust)
        .engine(|engine| engine.before_acquire(hook))
        .start()
        .await;
    let held = lab.db.acquire().await.unwrap();
    assert_eq!(ASKER.scope("ann", text(&lab.db, WHO)).await, "ann");
    drop(held);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_connection_that_before_acquire_refuses_is_closed_and_another_taken() {
    static REFUSE: AtomicBool = AtomicBool::new(false);
    let hook = async |_: &mut PgConnection| -> Result<bool, sqlx::Error> {
        Ok(!REFUSE.swap(false, Ordering::SeqCst))
    };
    let lab = Lab::named("refused")
        .behind_proxy()
        .one_connection()
        .always_warm()
        .engine(|engine| engine.before_acquire(hook))
        .start()
        .await;
    let before = pid(&lab.db).await;
    assert_eq!(pid(&lab.db).await, before);
    REFUSE.store(true, Ordering::SeqCst);
    let after = pid(&lab.db).await;
    assert_ne!(after, before);
    wait_until("its session is gone", async || !has_session(lab.primary(), before).await).await;
    assert_eq!(pid(&lab.db).await, after);
    until_sessions(lab.primary(), "refused", 1).await;
    assert_eq!(lab.pool().size, 1);
    lab.engine.close().await;
}

/// Ready when the hook is through with the connection that was given back last.
async fn until_rests(lab: &Lab) {
    wait_until("the connection rests", async || lab.pool().idle == 1).await;
}

#[tokio::test]
async fn a_connection_that_after_release_refuses_is_closed() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    static REFUSE: AtomicBool = AtomicBool::new(false);
    let hook = async |_: &mut PgConnection| -> Result<bool, sqlx::Error> {
        RUNS.fetch_add(1, Ordering::SeqCst);
        Ok(!REFUSE.swap(false, Ordering::SeqCst))
    };
    let lab = Lab::named("released")
        .behind_proxy()
        .one_connection()
        .always_warm()
        .engine(|engine| engine.after_release(hook))
        .start()
        .await;
    let before = pid(&lab.db).await;
    until_rests(&lab).await;
    let then = RUNS.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(pid(&lab.db).await, before);
    }
    drop(lab.db.acquire().await.unwrap());
    wait_until("it ran after each use", async || RUNS.load(Ordering::SeqCst) == then + 4).await;
    until_rests(&lab).await;
    REFUSE.store(true, Ordering::SeqCst);
    assert_eq!(pid(&lab.db).await, before);
    let after = pid(&lab.db).await;
    assert_ne!(after, before);
    wait_until("its session is gone", async || !has_session(lab.primary(), before).await).await;
    assert_eq!(pid(&lab.db).await, after);
    lab.engine.close().await;
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
    let lab = Lab::named("failing")
        .behind_proxy()
        .one_connection()
        .always_warm()
        .engine(|engine| engine.after_release(hook))
        .start()
        .await;
    let before = pid(&lab.db).await;
    until_rests(&lab).await;
    FAIL.store(true, Ordering::SeqCst);
    assert_eq!(pid(&lab.db).await, before);
    let after = pid(&lab.db).await;
    assert_ne!(after, before);
    assert_eq!(pid(&lab.db).await, after);
    lab.engine.close().await;
}

#[tokio::test]
async fn an_error_of_before_acquire_is_the_asker_s_and_nobody_else_s() {
    let hook = async |connection: &mut PgConnection| -> Result<bool, sqlx::Error> {
        if ASKER.try_with(|who| *who == "fails").unwrap_or(false) {
            sqlx::query("SELECT 1 / 0").execute(connection).await?;
        }
        Ok(true)
    };
    let lab = Lab::named("error")
        .behind_proxy()
        .one_connection()
        .always_warm()
        .engine(|engine| engine.before_acquire(hook))
        .start()
        .await;
    let select = || sqlx::query("SELECT 1").execute(&lab.db);
    let error = ASKER.scope("fails", select()).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    let error = ASKER.scope("fails", lab.db.acquire()).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    let error = ASKER.scope("fails", lab.db.begin()).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    ASKER.scope("works", select()).await.unwrap();
    select().await.unwrap();
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    lab.engine.close().await;
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
    let lab = Lab::named("broken")
        .behind_proxy()
        .config(adjust)
        .engine(|engine| engine.after_connect(hook))
        .start()
        .await;
    let held = lab.db.acquire().await.unwrap();
    FAIL.store(true, Ordering::SeqCst);
    let error = sqlx::query("SELECT 1").execute(&lab.db).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    let error = lab.db.acquire().await.unwrap_err();
    assert_eq!(sqlstate(&error), "22012", "{error}");
    until_sessions(lab.primary(), "broken", 1).await;
    FAIL.store(false, Ordering::SeqCst);
    sqlx::query("SELECT 1").execute(&lab.db).await.unwrap();
    drop(held);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_hook_whose_asker_goes_away_meanwhile_leaves_a_whole_pool() {
    let hook = async |connection: &mut PgConnection| -> Result<bool, sqlx::Error> {
        if ASKER.try_with(|who| *who == "slow").unwrap_or(false) {
            sqlx::query("SELECT pg_sleep(30)").execute(connection).await?;
        }
        Ok(true)
    };
    let lab = Lab::named("hanging")
        .behind_proxy()
        .one_connection()
        .always_warm()
        .engine(|engine| engine.before_acquire(hook))
        .start()
        .await;
    for _ in 0..3 {
        let db = lab.db.clone();
        let asker = tokio::spawn(ASKER.scope("slow", async move { pid(&db).await }));
        flautino_lab::until_running(lab.primary(), "hanging", "SELECT pg_sleep(30)").await;
        asker.abort();
        let _ = asker.await;
        let next = tokio::time::timeout(Duration::from_secs(10), pid(&lab.db)).await;
        next.expect("its place came free");
    }
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    until_sessions(lab.primary(), "hanging", 1).await;
    lab.engine.close().await;
}
