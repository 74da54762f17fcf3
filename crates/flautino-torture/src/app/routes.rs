//! What the app does: the operations of [`Kind`](crate::history::Kind), each as a handler would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flautino::{Consistency, Error, IsolationLevel, TransactionOptions};
use flautino_axum::{Db, DbError, Tx};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use sqlx::Executor;

pub(super) fn routes() -> Router {
    Router::new()
        .route("/insert", post(insert))
        .route("/pair", post(pair))
        .route("/import", post(import))
        .route("/rollback", post(rollback))
        .route("/tx-rollback", post(tx_rollback))
        .route("/dropped", post(dropped))
        .route("/spoiled", post(spoiled))
        .route("/abandoned", post(pair))
        .route("/dirty", post(dirty))
        .route("/read", get(read))
        .route("/session-read", get(session_read))
        .route("/read-transaction", get(read_transaction))
        .route("/tasks", get(async || alive_tasks().to_string()))
}

/// What to write, and how long to sleep in the middle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) key: i64,
    pub(crate) ids: Vec<i64>,
    pub(crate) seconds: f64,
}

/// What to read, and how slowly.
#[derive(Debug, Deserialize)]
struct Ask {
    key: i64,
    seconds: f64,
}

/// As [`DbError`], with the cause, which an app would not show.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    #[serde(skip)]
    status: u16,
    /// Whether what failed may have been committed all the same.
    pub(crate) unknown: bool,
    pub(crate) error: String,
    /// The rows that a read had been given before it failed.
    pub(crate) rows: Vec<u64>,
}

impl From<sqlx::Error> for Failure {
    fn from(err: sqlx::Error) -> Self {
        // The server answered the statement itself, so it did not commit.
        let answered = matches!(&err, sqlx::Error::Database(answer) if !ends_session(&**answer));
        let unknown = matches!(Error::of(&err), Some(Error::CommitUnknown(_))) || !answered;
        let code =
            err.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
        let error = format!("{err} {code}");
        let status = DbError::from(err).status().as_u16();
        Self { status, unknown, error, rows: Vec::new() }
    }
}

/// Whether the server ended the session with this error, perhaps after it had committed.
fn ends_session(err: &dyn sqlx::error::DatabaseError) -> bool {
    use sqlx::postgres::{PgDatabaseError, PgSeverity};
    let err = err.try_downcast_ref::<PgDatabaseError>();
    err.is_none_or(|err| matches!(err.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

impl Failure {
    /// The response of a handler that rolls back on purpose.
    fn on_purpose() -> Self {
        let error = "rolled back on purpose".to_owned();
        Self { status: 422, unknown: false, error, rows: Vec::new() }
    }

    /// For a transaction whose `COMMIT` was not sent, so that nothing is unknown.
    fn before_commit(err: sqlx::Error) -> Self {
        Self { unknown: false, ..Self::from(err) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::IM_A_TEAPOT);
        (status, Json(self)).into_response()
    }
}

const INSERT: &str = "INSERT INTO entries (key, id) VALUES ($1, $2)";
const SLOW_INSERT: &str = "INSERT INTO entries (key, id) SELECT $1, $2 FROM pg_sleep($3)";
const READ: &str = "SELECT id FROM entries WHERE key = $1";
const SLOW_READ: &str = "SELECT id FROM entries, pg_sleep($2) WHERE key = $1";
const SLEEP: &str = "SELECT pg_sleep($1)";

async fn insert(db: Db, Json(work): Json<Work>) -> Result<(), Failure> {
    for id in work.ids {
        if work.seconds > 0.0 {
            let insert = sqlx::query(SLOW_INSERT).bind(work.key).bind(id).bind(work.seconds);
            insert.execute(&db).await?;
        } else {
            sqlx::query(INSERT).bind(work.key).bind(id).execute(&db).await?;
        }
    }
    Ok(())
}

async fn pair(db: Db, Json(work): Json<Work>) -> Result<(), Failure> {
    // The error of the closure form does not tell whether `COMMIT` was sent; this flag does.
    let written = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&written);
    let outcome = db.transaction(async move |tx| {
        write(tx, &work).await?;
        done.store(true, Ordering::Relaxed);
        Ok::<_, sqlx::Error>(())
    });
    outcome.await.map_err(|err| match written.load(Ordering::Relaxed) {
        true => err.into(),
        false => Failure::before_commit(err),
    })
}

async fn import(mut tx: Tx, Json(work): Json<Work>) -> Result<(), Failure> {
    write(tx.begin().await.map_err(Failure::before_commit)?, &work)
        .await
        .map_err(Failure::before_commit)
}

async fn rollback(db: Db, Json(work): Json<Work>) -> Result<(), Failure> {
    db.transaction(async move |tx| {
        write(tx, &work).await.map_err(Failure::before_commit)?;
        Err(Failure::on_purpose())
    })
    .await
}

async fn tx_rollback(mut tx: Tx, Json(work): Json<Work>) -> Result<(), Failure> {
    let transaction = tx.begin().await.map_err(Failure::before_commit)?;
    write(transaction, &work).await.map_err(Failure::before_commit)?;
    Err(Failure::on_purpose())
}

async fn dropped(db: Db, Json(work): Json<Work>) -> Result<(), Failure> {
    let mut transaction = db.begin().await.map_err(Failure::before_commit)?;
    write(&mut transaction, &work).await.map_err(Failure::before_commit)?;
    Err(Failure::on_purpose())
}

async fn spoiled(mut tx: Tx, Json(work): Json<Work>) -> Result<(), Failure> {
    let transaction = tx.begin().await.map_err(Failure::before_commit)?;
    write(transaction, &work).await.map_err(Failure::before_commit)?;
    // The error is ignored, as a careless handler would.
    let _ = sqlx::query("SELECT 1 / 0").execute(&mut *transaction).await;
    Ok(())
}

/// Leaves a lock and a setting in its session, which the next user of the connection must not have.
async fn dirty(db: Db, Json(work): Json<Work>) -> Result<(), Failure> {
    let mut lease = db.acquire().await?;
    let lock = sqlx::query("SELECT pg_advisory_lock_shared($1)").bind(work.key);
    lock.execute(&mut lease).await?;
    (&mut lease).execute("SET search_path TO decoy, public").await?;
    if work.seconds > 0.0 {
        sqlx::query(SLEEP).bind(work.seconds).execute(&mut lease).await?;
    }
    Ok(())
}

async fn write(tx: &mut flautino::Transaction, work: &Work) -> Result<(), sqlx::Error> {
    for (number, id) in work.ids.iter().enumerate() {
        sqlx::query(INSERT).bind(work.key).bind(*id).execute(&mut *tx).await?;
        if number == 0 && work.seconds > 0.0 {
            sqlx::query(SLEEP).bind(work.seconds).execute(&mut *tx).await?;
        }
    }
    Ok(())
}

async fn read(db: Db, Query(ask): Query<Ask>) -> Result<Json<Vec<u64>>, Failure> {
    read_with(&db, &ask).await
}

async fn session_read(db: Db, Query(ask): Query<Ask>) -> Result<Json<Vec<u64>>, Failure> {
    read_with(&db.with_consistency(Consistency::Session), &ask).await
}

/// Reads row by row, to know what had arrived when the read failed.
async fn read_with(db: &flautino::Handle, ask: &Ask) -> Result<Json<Vec<u64>>, Failure> {
    let slow = ask.seconds > 0.0;
    let query = sqlx::query_scalar::<_, i64>(if slow { SLOW_READ } else { READ }).bind(ask.key);
    let query = if slow { query.bind(ask.seconds) } else { query };
    let mut answers = query.fetch(db);
    let mut rows = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(id) => rows.push(u64::try_from(id).unwrap_or(u64::MAX)),
            Err(err) => return Err(Failure { rows, ..err.into() }),
        }
    }
    Ok(Json(rows))
}

async fn read_transaction(db: Db, Query(ask): Query<Ask>) -> Result<Json<Vec<i64>>, Failure> {
    let options = TransactionOptions {
        read_only: true,
        isolation: Some(IsolationLevel::RepeatableRead),
        retries: 2,
        ..TransactionOptions::default()
    };
    let key = ask.key;
    let seconds = ask.seconds;
    let (one, other) = db
        .transaction_with(options, async move |tx| {
            let one = sqlx::query_scalar(READ).bind(key).fetch_all(&mut *tx).await?;
            sqlx::query(SLEEP).bind(seconds).execute(&mut *tx).await?;
            let other = sqlx::query_scalar(READ).bind(key).fetch_all(&mut *tx).await?;
            Ok::<(Vec<i64>, Vec<i64>), sqlx::Error>((one, other))
        })
        .await?;
    if one == other {
        return Ok(Json(one));
    }
    let error = format!("one transaction read {one:?} and then {other:?}");
    Err(Failure { status: 418, unknown: false, error, rows: Vec::new() })
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}
