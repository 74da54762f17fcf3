//! The server went away or was full: a 503 says that nothing was done, a 500 that something may have been.

use std::time::Duration;

use axum::response::IntoResponse;
use flautino::{Engine, Error, Handle};
use flautino_axum::DbError;
use flautino_cluster::{Cluster, Node};
use flautino_lab::{Bouncer, ask, cluster, engine, open, sqlstate, until_running, wait_until};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, ConnectOptions};

const NAME: &str = "gone";
const ENDS_ALL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                        WHERE application_name = 'gone' AND pid <> pg_backend_pid()";

/// Status and `Retry-After` of the response.
fn told(error: sqlx::Error) -> (u16, Option<String>) {
    let response = DbError::from(error).into_response();
    let retry = response.headers().get("retry-after");
    (response.status().as_u16(), retry.map(|value| value.to_str().unwrap().to_owned()))
}

fn try_again() -> (u16, Option<String>) {
    (503, Some("1".to_owned()))
}

async fn tables(cluster: &Cluster) {
    let sql = "CREATE TABLE t (a int); \
               CREATE PROCEDURE half() LANGUAGE plpgsql AS $$ BEGIN \
                   INSERT INTO t VALUES (1); COMMIT; PERFORM pg_sleep(60); END $$";
    cluster.primary().execute(sql).await.unwrap();
}

/// Ends the sessions of the engine while the statement runs and the table has so many rows; answers the
/// statement's error.
async fn ended(
    node: &Node,
    sql: &str,
    rows: i64,
    statement: impl Future<Output = Result<(), sqlx::Error>>,
) -> sqlx::Error {
    let end = async {
        until_running(node, NAME, sql).await;
        wait_until("the rows are committed", async || count(node).await == rows).await;
        ask::<i64>(node, ENDS_ALL).await;
    };
    tokio::join!(statement, end).0.unwrap_err()
}

async fn count(node: &Node) -> i64 {
    ask(node, "SELECT count(*) FROM t").await
}

const SLOW_INSERT: &str = "INSERT INTO t SELECT 1 FROM pg_sleep(60)";
const SLOW_RETURNING: &str = "INSERT INTO t SELECT 1 FROM pg_sleep(60) RETURNING a";

#[tokio::test]
async fn a_statement_that_the_server_ended_is_a_503_since_it_did_nothing() {
    let cluster = cluster(0).await;
    tables(&cluster).await;
    let engine = engine(&cluster, NAME).await;
    let (db, node) = (engine.handle(), cluster.primary());
    let by_handle = async { sqlx::query(SLOW_INSERT).execute(&db).await.map(drop) };
    let by_lease = async {
        let mut lease = db.acquire().await?;
        sqlx::query(SLOW_INSERT).execute(&mut lease).await.map(drop)
    };
    let in_transaction = async {
        let mut tx = db.begin().await?;
        sqlx::query(SLOW_INSERT).execute(&mut tx).await.map(drop)
    };
    let as_stream =
        async { sqlx::query(SLOW_RETURNING).fetch(&db).try_for_each(async |_| Ok(())).await };
    for error in [
        ended(node, SLOW_INSERT, 0, by_handle).await,
        Box::pin(ended(node, SLOW_INSERT, 0, by_lease)).await,
        Box::pin(ended(node, SLOW_INSERT, 0, in_transaction)).await,
        ended(node, SLOW_RETURNING, 0, as_stream).await,
    ] {
        assert_eq!(sqlstate(&error), "57P01");
        assert_eq!(told(error), try_again());
    }
    assert_eq!(count(node).await, 0);
    engine.close().await;
}

#[tokio::test]
async fn one_that_had_committed_a_part_is_a_500_that_tells_so() {
    let cluster = cluster(0).await;
    tables(&cluster).await;
    let engine = engine(&cluster, NAME).await;
    let (db, node) = (engine.handle(), cluster.primary());
    const CALL: &str = "CALL half()";
    const BLOCK: &str =
        "DO $$ BEGIN INSERT INTO t VALUES (1); COMMIT; PERFORM pg_sleep(60); END $$";
    const SEVERAL: &str = "INSERT INTO t VALUES (1); COMMIT; SELECT pg_sleep(60)";
    let call = async |db: &Handle| sqlx::query(CALL).execute(db).await.map(drop);
    let on_lease = async {
        let mut lease = db.acquire().await?;
        sqlx::query(CALL).execute(&mut lease).await.map(drop)
    };
    let streamed = async {
        let mut lease = db.acquire().await?;
        sqlx::raw_sql(SEVERAL).fetch(&mut lease).try_for_each(async |_| Ok(())).await
    };
    for error in [
        ended(node, CALL, 1, call(&db)).await,
        ended(node, BLOCK, 2, async { sqlx::query(BLOCK).execute(&db).await.map(drop) }).await,
        ended(node, SEVERAL, 3, async { sqlx::raw_sql(SEVERAL).execute(&db).await.map(drop) })
            .await,
        Box::pin(ended(node, CALL, 4, on_lease)).await,
        Box::pin(ended(node, SEVERAL, 5, streamed)).await,
    ] {
        assert!(matches!(Error::of(&error), Some(Error::EffectUnknown(_))), "{error:?}");
        assert!(error.to_string().contains("look at the data"), "{error}");
        assert_eq!(told(error), (500, None));
    }
    assert_eq!(count(node).await, 5);
    engine.close().await;
}

#[tokio::test]
async fn a_connection_that_is_lost_without_a_word_is_a_500() {
    let lab = flautino_lab::Lab::named(NAME).table("t (a int)").behind_proxy().start().await;
    let writing = sqlx::query(SLOW_INSERT).execute(&lab.db);
    let cut = async {
        until_running(lab.primary(), NAME, SLOW_INSERT).await;
        lab.proxy().reset().await;
    };
    let error = tokio::join!(writing, cut).0.unwrap_err();
    assert_eq!(told(error), (500, None));
    lab.engine.close().await;
}

/// An engine through PgBouncer with these settings; `None` where it is not installed.
async fn through_bouncer(node: &Node, settings: &str) -> Option<(Bouncer, Engine)> {
    let bouncer = Bouncer::start_with(node, settings).await?;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", bouncer.port);
    let mut config = flautino::EngineConfig::from_url(&url).unwrap();
    config.main.pgbouncer = true;
    config.extensions.clear();
    config.pool.acquire_timeout = Duration::from_secs(30);
    Some((bouncer, open(config).await))
}

#[tokio::test]
async fn a_pooler_s_queue_that_took_too_long_is_a_503() {
    let cluster = cluster(0).await;
    tables(&cluster).await;
    let settings = "default_pool_size = 1\nquery_wait_timeout = 1\n";
    let Some((_bouncer, engine)) = through_bouncer(cluster.primary(), settings).await else {
        return;
    };
    let db = engine.handle();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut tx).await.unwrap();
    for sql in ["INSERT INTO t VALUES (1)", "CALL half()"] {
        let error = sqlx::query(sql).execute(&db).await.unwrap_err();
        assert_eq!(sqlstate(&error), "08P01", "{error:?}");
        assert_eq!(told(error), try_again());
    }
    let error = sqlx::raw_sql("INSERT INTO t VALUES (1); COMMIT").execute(&db).await.unwrap_err();
    assert_eq!(told(error), try_again());
    tx.rollback().await.unwrap();
    assert_eq!(count(cluster.primary()).await, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_pooler_with_too_many_clients_is_a_503() {
    let cluster = cluster(0).await;
    let Some((bouncer, engine)) = through_bouncer(cluster.primary(), "max_client_conn = 4\n").await
    else {
        return;
    };
    engine.close().await;
    let mut taken = Vec::new();
    let options = cluster.primary().connect_options().port(bouncer.port).extra_float_digits(None);
    let error = loop {
        assert!(taken.len() < 10, "PgBouncer takes more clients than it may");
        match options.connect().await {
            Ok(connection) => taken.push(connection),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("no more connections allowed"), "{error}");
    assert_eq!(told(error), try_again());
}

#[tokio::test]
async fn what_the_app_raises_itself_under_another_code_stays_a_500() {
    let cluster = cluster(0).await;
    let engine = engine(&cluster, NAME).await;
    for code in ["08P01", "57014", "08006", "58030", "XX000"] {
        let sql = format!("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$");
        let raised = sqlx::query(AssertSqlSafe(sql)).execute(&engine.handle()).await;
        assert_eq!(told(raised.unwrap_err()), (500, None), "{code}");
    }
    engine.close().await;
}
