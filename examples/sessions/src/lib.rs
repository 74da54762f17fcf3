//! An app whose sessions are kept through each request's own handle. `main.rs` runs it.

mod store;

use std::convert::Infallible;

use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::routing::{get, post};
use axum::{Router, response::Response};
use flautino::Engine;
use flautino_axum::{Db, EngineLayer};
use tower::{Layer, ServiceExt, service_fn};
use tower_sessions::{Session, SessionManagerLayer};

pub use self::store::{Store, TABLE};

/// Gives the request a session over its own handle, so that its token covers what is saved. Without one, a replica that
/// lags knows no new session, and tower-sessions would have the browser forget its cookie.
///
/// A session is saved in a transaction of its own, on another connection than that of a handler's `Tx`, which is
/// committed after that.
async fn with_session(db: Db, request: Request, next: Next) -> Response {
    let inner = service_fn(move |request| {
        let next = next.clone();
        async { Ok::<_, Infallible>(next.run(request).await) }
    });
    let layer = SessionManagerLayer::new(Store(db.into())).with_secure(!cfg!(debug_assertions));
    let Ok(response) = layer.layer(inner).oneshot(request).await;
    response
}

async fn log_in(session: Session, Path(name): Path<String>) -> Result<(), StatusCode> {
    session.cycle_id().await.map_err(status)?; // nobody knows this one's id from before the login
    session.insert("name", name).await.map_err(status)
}

async fn log_out(session: Session) -> Result<(), StatusCode> {
    session.flush().await.map_err(status)
}

async fn greet(session: Session, db: Db) -> Result<String, StatusCode> {
    let name: Option<String> = session.get("name").await.map_err(status)?;
    let by = db.served_by().unwrap_or_else(|| "no node".into());
    Ok(format!("hello {}, says {by}\n", name.as_deref().unwrap_or("stranger")))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn status(error: tower_sessions::session::Error) -> StatusCode {
    tracing::error!(%error, "no session");
    StatusCode::INTERNAL_SERVER_ERROR
}

/// The app. Sessions are saved below `EngineLayer`, before it makes the token.
pub fn app(engine: &Engine) -> Router {
    let routes = Router::new().route("/", get(greet));
    let routes = routes.route("/login/{name}", post(log_in)).route("/logout", post(log_out));
    routes.layer(from_fn(with_session)).layer(EngineLayer::new(engine.clone()))
}
