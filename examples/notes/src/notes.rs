//! The routes: notes to list, read, write and import, and two that show what the engine does.

use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use flautino_axum::{Db, DbError, Tx};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::error::ApiError;

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/notes", get(list).post(create))
        .route("/notes/{id}", get(read).put(update).delete(delete))
        .route("/notes/import", post(import))
        .route("/notes/count", get(count))
        .route("/sleep", get(sleep))
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Note {
    id: i64,
    title: String,
    body: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct NewNote {
    title: String,
    #[serde(default)]
    body: String,
}

impl NewNote {
    fn check(&self) -> Result<(), ApiError> {
        if self.title.trim().is_empty() {
            return Err(ApiError::Invalid("`title` is empty".to_owned()));
        }
        for (key, text) in [("title", &self.title), ("body", &self.body)] {
            // PostgreSQL's `text` cannot hold this character.
            if text.contains('\0') {
                return Err(ApiError::Invalid(format!("`{key}` has a NUL character")));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default = "default_limit")]
    limit: u16,
}

fn default_limit() -> u16 {
    100
}

async fn list(db: Db, Query(query): Query<ListQuery>) -> Result<Json<Vec<Note>>, DbError> {
    let sql = "SELECT id, title, body, created_at FROM notes ORDER BY id LIMIT $1";
    let notes = sqlx::query_as(sql).bind(i64::from(query.limit)).fetch_all(&db).await?;
    Ok(Json(notes))
}

async fn read(db: Db, Path(id): Path<i64>) -> Result<Json<Note>, DbError> {
    let sql = "SELECT id, title, body, created_at FROM notes WHERE id = $1";
    Ok(Json(sqlx::query_as(sql).bind(id).fetch_one(&db).await?))
}

async fn create(db: Db, Json(new): Json<NewNote>) -> Result<(StatusCode, Json<Note>), ApiError> {
    new.check()?;
    let sql = "INSERT INTO notes (title, body) VALUES ($1, $2) \
               RETURNING id, title, body, created_at";
    let note = sqlx::query_as(sql).bind(new.title).bind(new.body).fetch_one(&db).await?;
    Ok((StatusCode::CREATED, Json(note)))
}

async fn update(
    db: Db,
    Path(id): Path<i64>,
    Json(new): Json<NewNote>,
) -> Result<Json<Note>, ApiError> {
    new.check()?;
    let sql = "UPDATE notes SET title = $2, body = $3 WHERE id = $1 \
               RETURNING id, title, body, created_at";
    let note = sqlx::query_as(sql).bind(id).bind(new.title).bind(new.body).fetch_one(&db).await?;
    Ok(Json(note))
}

async fn delete(db: Db, Path(id): Path<i64>) -> Result<StatusCode, DbError> {
    let done = sqlx::query("DELETE FROM notes WHERE id = $1").bind(id).execute(&db).await?;
    Ok(if done.rows_affected() == 0 { StatusCode::NOT_FOUND } else { StatusCode::NO_CONTENT })
}

/// Imports all notes or none: `Tx` commits when the response is a success, and else rolls back.
async fn import(
    mut tx: Tx,
    Json(new): Json<Vec<NewNote>>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let count = new.len();
    for note in new {
        note.check()?;
        sqlx::query("INSERT INTO notes (title, body) VALUES ($1, $2)")
            .bind(note.title)
            .bind(note.body)
            .execute(&mut tx)
            .await?;
    }
    Ok((StatusCode::CREATED, Json(json!({ "count": count }))))
}

#[derive(Debug, Deserialize)]
struct CountQuery {
    node: Option<String>,
}

async fn count(db: Db, Query(query): Query<CountQuery>) -> Result<Json<Value>, ApiError> {
    let db = match query.node {
        Some(node) => db.node(&node)?,
        None => db.into(),
    };
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&db).await?;
    Ok(Json(json!({ "count": count, "node": db.served_by() })))
}

#[derive(Debug, Deserialize)]
struct SleepQuery {
    seconds: f64,
}

async fn sleep(db: Db, Query(query): Query<SleepQuery>) -> Result<Json<Value>, ApiError> {
    if !(0.0..=3600.0).contains(&query.seconds) {
        return Err(ApiError::Invalid("`seconds` is not between 0 and 3600".to_owned()));
    }
    // A replica could run it too, but whoever looks for the statement looks at the primary first.
    sqlx::query("SELECT pg_sleep($1)").bind(query.seconds).execute(&db.primary()).await?;
    Ok(Json(json!({ "slept": query.seconds })))
}
