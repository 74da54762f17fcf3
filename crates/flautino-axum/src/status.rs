//! Routes for load balancers and people: whether the app is alive and ready, and how its database is.

use axum::Router;
use axum::routing::get;
use axum_core::response::{IntoResponse, Response};
use flautino::Engine;
use http::{HeaderValue, StatusCode, header};

/// Returns the routes `/livez` (200 while the process runs), `/readyz` (200 while the engine is open
/// and not shutting down, else 503) and `/status.json` (the engine's [status](Engine::status)).
///
/// None of them asks the database. `status.json` names hosts and ports, so keep it from strangers.
///
/// ```
/// # fn f(engine: flautino::Engine) {
/// use axum::Router;
///
/// let app: Router = Router::new().merge(flautino_axum::status_routes(engine));
/// # }
/// ```
pub fn status_routes<S>(engine: Engine) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let ready = engine.clone();
    Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(async move || readiness(&ready)))
        .route("/status.json", get(async move || status(&engine)))
}

fn readiness(engine: &Engine) -> Response {
    if engine.is_ready() {
        "ready".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready").into_response()
    }
}

fn status(engine: &Engine) -> Response {
    match serde_json::to_vec(&engine.status()) {
        Ok(json) => {
            let json_type = HeaderValue::from_static("application/json");
            let no_store = HeaderValue::from_static("no-store");
            ([(header::CONTENT_TYPE, json_type), (header::CACHE_CONTROL, no_store)], json)
                .into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the status could not be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
