//! What one user leaves behind in a session, the next user of the connection never sees.

use flautino::{Error, Handle};
use flautino_lab::{Lab, end_sessions};

const PID: &str = "SELECT pg_backend_pid()";
const NO_WORK_MEM: &str = "SELECT current_setting('work_mem') <> '9MB'";
const NO_TABLE: &str = "SELECT to_regclass('pg_temp.left_behind') IS NULL";
const NO_LOCK: &str = "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')";

/// What is done, and what must hold for the next user.
const COMMON: &[(&str, &str)] = &[
    ("SET work_mem = '9MB'", NO_WORK_MEM),
    ("SELECT set_config('work_mem', '9MB', false)", NO_WORK_MEM),
    ("DO $$ BEGIN PERFORM set_config('work_mem', '9MB', false); END $$", NO_WORK_MEM),
    ("SET ROLE plain", "SELECT current_user = 'postgres'"),
    ("SET SESSION AUTHORIZATION plain", "SELECT session_user = 'postgres'"),
    ("SET application_name = 'x'", "SELECT current_setting('application_name') <> 'x'"),
    ("SELECT pg_advisory_lock(1)", NO_LOCK),
    ("SELECT pg_try_advisory_lock_shared(1, 2)", NO_LOCK),
    ("CREATE TEMP TABLE left_behind (a int)", NO_TABLE),
    ("SELECT 1 AS a INTO TEMP left_behind", NO_TABLE),
    ("LISTEN news", "SELECT NOT EXISTS (SELECT FROM pg_listening_channels())"),
    (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT NOT EXISTS (SELECT FROM pg_cursors WHERE name = 'c')",
    ),
];

const PREPARED: &[(&str, &str)] = &[(
    "PREPARE left_behind AS SELECT 1",
    "SELECT NOT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'left_behind')",
)];

/// Less usual ways to the same.
const UNUSUAL: &[(&str, &str)] = &[
    ("UPDATE pg_settings SET setting = '9216' WHERE name = 'work_mem'", NO_WORK_MEM),
    ("CREATE TABLE pg_temp.left_behind (a int)", NO_TABLE),
    ("SELECT 1 AS a INTO pg_temp.left_behind", NO_TABLE),
    (
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = pg_my_temp_schema())",
    ),
    ("SELECT \"set_config\"('work_mem', '9MB', false)", NO_WORK_MEM),
    ("EXPLAIN ANALYZE CREATE TEMP TABLE left_behind AS SELECT 1", NO_TABLE),
    ("SET \"app.who\" = local", "SELECT coalesce(current_setting('app.who', true), '') = ''"),
];

async fn start() -> Lab {
    Lab::named("state")
        .sql("CREATE ROLE plain")
        .one_connection()
        .config(|config| {
            config.pool.sqlx_connections = 1;
            // Generic code waits for the connection until it is back in sqlx's pool.
            config.pool.warm_time = std::time::Duration::from_millis(50);
        })
        .start()
        .await
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Handle,
    Raw,
    Lease,
    Bare,
    Transaction,
    /// Code that is generic over sqlx.
    Generic,
}

async fn leave(db: &Handle, way: Way, sql: &'static str) -> Result<(), sqlx::Error> {
    match way {
        Way::Handle => sqlx::query(sql).execute(db).await.map(drop),
        Way::Raw => sqlx::raw_sql(sql).execute(db).await.map(drop),
        Way::Lease => sqlx::query(sql).execute(&mut db.acquire().await?).await.map(drop),
        Way::Bare => sqlx::query(sql).execute(&mut *db.acquire().await?).await.map(drop),
        Way::Transaction => {
            let mut tx = db.begin().await?;
            sqlx::query(sql).execute(&mut tx).await?;
            tx.commit().await
        }
        Way::Generic => {
            let mut tx = sqlx::Acquire::begin(db).await?;
            sqlx::query(sql).execute(&mut *tx).await?;
            tx.commit().await
        }
    }
}

fn is_refused(way: Way, error: &sqlx::Error) -> bool {
    matches!(way, Way::Handle | Way::Raw)
        && matches!(Error::of(error), Some(Error::NeedsLease { .. }))
}

/// Leaves each behind in each way; fails with a list of what the next user found.
async fn check(cases: &[(&'static str, &'static str)]) {
    let Lab { cluster, engine, db, .. } = start().await;
    let mut found = Vec::new();
    for (sql, must_hold) in cases.iter().copied() {
        for way in [Way::Handle, Way::Raw, Way::Lease, Way::Bare, Way::Transaction, Way::Generic] {
            let before: i32 = sqlx::query_scalar(PID).fetch_one(&db).await.unwrap();
            match leave(&db, way, sql).await {
                Ok(()) => {}
                // What says that it is held, and would not be.
                Err(err) if is_refused(way, &err) => continue,
                Err(err) => panic!("{sql}: {err}"),
            }
            let looked = sqlx::query_scalar(must_hold);
            // `begin` through sqlx takes its connection from the pool beside.
            let clean: bool = match way {
                Way::Generic => looked.fetch_one(&engine.pool("main").unwrap()).await.unwrap(),
                _ => looked.fetch_one(&db).await.unwrap(),
            };
            let after: i32 = sqlx::query_scalar(PID).fetch_one(&db).await.unwrap();
            if !clean {
                found.push(format!("{way:?}: {sql} (same session: {})", before == after));
                end_sessions(cluster.primary(), &format!("pid = {after}")).await;
                let _ = sqlx::query(PID).execute(&db).await;
            }
        }
    }
    engine.close().await;
    assert!(found.is_empty(), "the next user found {found:#?}");
}

#[tokio::test]
async fn settings_locks_temporary_tables_channels_and_cursors_do_not_leak() {
    check(COMMON).await;
}

#[tokio::test]
async fn statements_prepared_in_sql_do_not_leak() {
    check(PREPARED).await;
}

#[tokio::test]
async fn what_is_left_in_unusual_ways_does_not_leak() {
    check(UNUSUAL).await;
}

#[tokio::test]
async fn a_seed_does_not_leak() {
    let lab = start().await;
    let mut lease = lab.db.acquire().await.unwrap();
    sqlx::query("SELECT setseed(0.5)").execute(&mut lease).await.unwrap();
    let seeded: f64 = sqlx::query_scalar("SELECT random()").fetch_one(&mut lease).await.unwrap();
    drop(lease);
    sqlx::query("SELECT setseed(0.5)").execute(&lab.db).await.unwrap();
    let next: f64 = sqlx::query_scalar("SELECT random()").fetch_one(&lab.db).await.unwrap();
    assert!((seeded - next).abs() > 0.0, "{next}");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_washed_connection_serves_again_instead_of_a_new_one() {
    let lab = start().await;
    let before: i32 = sqlx::query_scalar(PID).fetch_one(&lab.db).await.unwrap();
    for (sql, _) in COMMON {
        leave(&lab.db, Way::Lease, sql).await.unwrap();
        let after: i32 = sqlx::query_scalar(PID).fetch_one(&lab.db).await.unwrap();
        assert_eq!(after, before, "{sql}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_session_of_a_replica_is_washed_too_and_stays_read_only() {
    let lab = Lab::named("state")
        .replicas(1)
        .one_connection()
        .config(|config| config.pool.sqlx_connections = 1)
        .start()
        .await;
    let db = lab.engine.handle().node("read_replica_1").unwrap();
    let before: i32 = sqlx::query_scalar(PID).fetch_one(&db).await.unwrap();
    for sql in ["SET work_mem = '9MB'", "SET default_transaction_read_only = off"] {
        leave(&db, Way::Lease, sql).await.unwrap();
        let after: i32 = sqlx::query_scalar(PID).fetch_one(&db).await.unwrap();
        assert_eq!(after, before, "{sql}");
    }
    assert!(sqlx::query_scalar::<_, bool>(NO_WORK_MEM).fetch_one(&db).await.unwrap());
    let show = sqlx::query_scalar("SHOW default_transaction_read_only");
    let read_only: String = show.fetch_one(&db).await.unwrap();
    assert_eq!(read_only, "on");
    lab.engine.close().await;
}
