//! What would stay in a session that PgBouncer gives to others is refused, and what ends with its
//! transaction is not.

use flautino::{Engine, Error, Handle};
use flautino_cluster::Cluster;
use flautino_lab::{Bouncer, Capture, cluster, config, open};
use futures_util::TryStreamExt;
use sqlx::PgConnection;

/// Each with what the error tells to use instead.
const REFUSED: [(&str, &str); 16] = [
    ("SET work_mem = '9MB'", "SET LOCAL"),
    ("SELECT 1; SET search_path = public; SELECT 2", "SET LOCAL"),
    ("SET ROLE postgres", "SET LOCAL"),
    ("RESET work_mem", "SET LOCAL"),
    ("DISCARD ALL", "leave it out"),
    ("DEALLOCATE ALL", "leave it out"),
    ("LISTEN news", "engine.listen"),
    ("LOAD 'plpgsql'", "session_preload_libraries"),
    ("PREPARE p AS SELECT 1", "its values bound"),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "without `WITH HOLD`"),
    ("CREATE TEMP TABLE left_behind (a int)", "ON COMMIT DROP"),
    ("SELECT 1 AS a INTO TEMP left_too", "ON COMMIT DROP"),
    ("SELECT pg_advisory_lock(1)", "pg_advisory_xact_lock"),
    ("SELECT pg_try_advisory_lock_shared(1, 2)", "pg_try_advisory_xact_lock"),
    ("SELECT set_config('app.tenant', 'x', false)", "`true`"),
    ("UPDATE pg_settings SET setting = '9216' WHERE name = 'work_mem'", "SET LOCAL"),
];

/// In one transaction, one after the other.
const TAKEN: [&str; 9] = [
    "SET LOCAL work_mem = '9MB'",
    "SELECT set_config('app.tenant', 'x', true)",
    "SELECT pg_advisory_xact_lock(1)",
    "CREATE TEMP TABLE mine (a int) ON COMMIT DROP",
    "INSERT INTO mine VALUES (1)",
    "DECLARE c CURSOR FOR SELECT a FROM mine",
    "FETCH c",
    "SET CONSTRAINTS ALL DEFERRED",
    "SELECT a FROM pg_temp.mine",
];

/// What would still be there, on one of the servers.
const NOTHING_LEFT: &str = "SELECT current_setting('work_mem') <> '9MB' \
    AND coalesce(current_setting('app.tenant', true), '') = '' \
    AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory') \
    AND NOT EXISTS (SELECT FROM pg_class WHERE relpersistence = 't') \
    AND NOT EXISTS (SELECT FROM pg_cursors WHERE is_holdable) \
    AND NOT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql)";

fn is_refused(error: &sqlx::Error, instead: &str) -> bool {
    let text = error.to_string();
    matches!(Error::of(error), Some(Error::SharedSession { .. }))
        && text.contains(instead)
        && text.contains("`main`")
        && text.contains("pgbouncer = true")
}

async fn refuses_and_takes(db: &Handle) {
    for (sql, instead) in REFUSED {
        let mut lease = db.acquire().await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let errors = [
            sqlx::query(sql).execute(db).await.map(drop).unwrap_err(),
            sqlx::raw_sql(sql).execute(db).await.map(drop).unwrap_err(),
            sqlx::query(sql).fetch(db).try_next().await.map(drop).unwrap_err(),
            sqlx::query(sql).execute(&mut lease).await.map(drop).unwrap_err(),
            sqlx::query(sql).execute(&mut tx).await.map(drop).unwrap_err(),
        ];
        for error in &errors {
            assert!(is_refused(error, instead), "{sql}: {error}");
        }
        // It was not sent, so the transaction goes on.
        sqlx::query("SELECT $1::int4").bind(1).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        sqlx::query("SELECT $1::int4").bind(1).execute(&mut lease).await.unwrap();
    }
    let mut tx = db.begin().await.unwrap();
    for sql in TAKEN {
        sqlx::query(sql).execute(&mut tx).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    tx.commit().await.unwrap();
    for _ in 0..10 {
        let nothing: bool = sqlx::query_scalar(NOTHING_LEFT).fetch_one(db).await.unwrap();
        assert!(nothing);
    }
}

#[tokio::test]
async fn through_the_real_one() {
    let cluster = cluster(0).await;
    let Some(bouncer) = Bouncer::start(cluster.primary()).await else { return };
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", bouncer.port);
    let mut config = flautino::EngineConfig::from_url(&url).unwrap();
    config.main.pgbouncer = true;
    config.extensions.clear();
    let engine = open(config).await;
    refuses_and_takes(&engine.handle()).await;
    engine.close().await;
}

async fn engine(cluster: &Cluster, pgbouncer: bool) -> Engine {
    let mut config = config(cluster, "shared");
    config.main.pgbouncer = pgbouncer;
    open(config).await
}

#[tokio::test]
async fn hooks_that_may_set_something_are_warned_of() {
    let cluster = cluster(0).await;
    for (pgbouncer, warnings) in [(true, 1), (false, 0)] {
        let capture = Capture::start();
        let mut config = config(&cluster, "warned");
        config.main.pgbouncer = pgbouncer;
        let engine = Engine::new(config).unwrap();
        let engine = engine
            .after_connect(async |_: &mut PgConnection| -> Result<(), sqlx::Error> { Ok(()) });
        engine.open().await.unwrap();
        let said = capture.warnings().into_iter().filter(|text| text.contains("`after_connect`"));
        assert_eq!(said.count(), warnings);
        engine.close().await;
    }
}

#[tokio::test]
async fn without_it_nothing_is_refused() {
    let cluster = cluster(0).await;
    let engine = engine(&cluster, false).await;
    let mut lease = engine.handle().acquire().await.unwrap();
    for (sql, _) in REFUSED {
        sqlx::raw_sql(sql)
            .execute(&mut lease)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    drop(lease);
    engine.close().await;
}
