//! A gRPC service beside axum's routes: one app, one layer, one port. `main.rs` runs it.

use axum::{Router, http::HeaderName, routing::get};
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer};
use tonic::{Request, Response, Status, async_trait, service::Routes};

pub use self::generated::notes_client::NotesClient;
use self::generated::notes_server::{Notes, NotesServer};

mod generated {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/notes.Notes.rs"));
}

/// A note, as it is stored and sent.
#[derive(Clone, PartialEq, prost::Message, sqlx::FromRow)]
pub struct Note {
    /// Given by the database.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// No two notes have the same.
    #[prost(string, tag = "2")]
    pub title: String,
}

struct Service;

#[async_trait]
impl Notes for Service {
    async fn add(&self, request: Request<String>) -> Result<Response<Note>, Status> {
        let db = db(&request)?;
        let sql = "INSERT INTO notes (title) VALUES ($1) RETURNING id, title";
        let note = sqlx::query_as(sql).bind(request.into_inner()).fetch_one(&db).await;
        note.map(Response::new).map_err(status)
    }

    async fn get(&self, request: Request<i64>) -> Result<Response<Note>, Status> {
        let db = db(&request)?;
        let sql = "SELECT id, title FROM notes WHERE id = $1";
        let note = sqlx::query_as(sql).bind(request.into_inner()).fetch_one(&db).await;
        note.map(Response::new).map_err(status)
    }
}

/// The handle of a call. Its transactions are `db.transaction(…)`: `Tx` goes by the HTTP status, which is 200 here.
fn db<T>(request: &Request<T>) -> Result<Db, Status> {
    Db::from_extensions(request.extensions())
        .map_err(|missing| Status::internal(missing.to_string()))
}

/// An error as gRPC words it. What is `Unavailable` had no effect, so that a client may call again.
fn status(error: sqlx::Error) -> Status {
    let error = DbError::from(error);
    let status = match error.status().as_u16() {
        404 => Status::not_found("there is no such note"),
        409 => Status::already_exists("there is such a note already"),
        503 => Status::unavailable("the database is not available, try again"),
        504 => Status::deadline_exceeded("the database took too long"),
        _ => Status::internal("the call could not be served"),
    };
    tracing::warn!(%error, code = ?status.code(), "a call failed"); // the client is not told the cause
    status
}

async fn count(db: Db) -> Result<String, DbError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&db).await?;
    Ok(count.to_string())
}

/// The app. No call is worked at for longer than its client waits, as `grpc-timeout` says.
pub fn app(engine: &Engine) -> Router {
    let layer = EngineLayer::new(engine.clone()).server_timing(true); // for `main.rs` to show
    let layer = layer.deadline_header(HeaderName::from_static("grpc-timeout"));
    // Without tonic's fallback, which would answer 200 to every path that is not there.
    let grpc = Routes::new(NotesServer::new(Service)).into_axum_router().reset_fallback();
    Router::new().route("/count", get(count)).merge(grpc).layer(layer)
}
