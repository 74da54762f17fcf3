//! An API that documents itself, with the problems that its database may cause. `main.rs` runs it.

use axum::extract::{Json, Path};
use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use utoipa::{IntoResponses, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

#[derive(serde::Serialize, ToSchema, sqlx::FromRow)]
struct Note {
    id: i64,
    title: String,
}

/// A problem detail (RFC 9457), as `DbError` and `LayerError` answer. Nothing of the database shows in it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what flautino-axum writes")]
struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
}

/// What every handler that returns a `DbError` may answer. With a deadline there is a 504 too.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents what flautino-axum writes")]
enum Problems {
    /// The database is not available. The request had no effect: try again.
    #[response(status = 503, content_type = "application/problem+json", headers(("retry-after" = u32)))]
    Unavailable(Problem),
    /// The request could not be served.
    #[response(status = 500, content_type = "application/problem+json")]
    Failed(Problem),
}

/// The notes.
#[utoipa::path(get, path = "/notes", responses((status = 200, body = Vec<Note>), Problems))]
async fn list(db: Db) -> Result<Json<Vec<Note>>, DbError> {
    Ok(Json(sqlx::query_as("SELECT id, title FROM notes ORDER BY id").fetch_all(&db).await?))
}

/// One note.
#[utoipa::path(get, path = "/notes/{id}", params(("id" = i64, Path)), responses(
    (status = 200, body = Note),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "No such note"),
    Problems,
))]
async fn one(db: Db, Path(id): Path<i64>) -> Result<Json<Note>, DbError> {
    let note = sqlx::query_as("SELECT id, title FROM notes WHERE id = $1").bind(id);
    Ok(Json(note.fetch_one(&db).await?))
}

/// Stores notes with these titles, all or none.
#[utoipa::path(post, path = "/notes", request_body = Vec<String>, responses(
    (status = 201, description = "All are stored"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "One of them exists already"),
    Problems,
))]
async fn add(mut tx: Tx, Json(titles): Json<Vec<String>>) -> Result<StatusCode, DbError> {
    for title in titles {
        let insert = sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title);
        insert.execute(&mut tx).await?;
    }
    Ok(StatusCode::CREATED)
}

#[derive(OpenApi)]
#[openapi(info(title = "Notes"))]
struct Api;

/// The app. Where a transaction cannot be committed, the layer answers with a problem detail too.
pub fn app(engine: &Engine) -> Router {
    let documented = OpenApiRouter::with_openapi(Api::openapi());
    let (router, api) =
        documented.routes(routes!(list, add)).routes(routes!(one)).split_for_parts();
    let layer = EngineLayer::new(engine.clone()).on_error(|error, _| error.into_response());
    router.layer(layer).route("/openapi.json", get(async || Json(api)))
}
