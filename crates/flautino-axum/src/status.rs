//! Routes for load balancers and people: whether the app is alive and ready, and how its database is.

#[cfg(feature = "status-page")]
mod page;

use axum::Router;
use axum::routing::get;
use axum_core::response::{IntoResponse, Response};
use flautino::Engine;
use http::{HeaderValue, StatusCode, header};

/// Returns the routes `/livez` (200 while the process runs), `/readyz` (200 while the engine is open
/// and not shutting down, else 503) and `/status.json` (the engine's [status](Engine::status)).
///
/// With the feature `status-page` also `/status`, a page that shows the same to people, live: the nodes, where
/// statements went and why, what happened, which statements are slow. It is one document without outside
/// resources, fed by `/status/events` each second. Only while somebody looks are statements counted for it,
/// and the status is made. The stream ends when the engine begins to shut down, as [`serve`](crate::serve) has
/// it do; with axum's own `serve`, call [`Engine::start_draining`] at the signal.
///
/// None of them asks the database. The status names hosts and ports and shows statements without their
/// values, so keep it from strangers: put a layer before these routes, or serve them on a port of their own.
///
/// ```
/// # fn f(engine: flautino::Engine) {
/// use axum::Router;
/// use axum::extract::Request;
/// use axum::http::StatusCode;
/// use axum::middleware::{Next, from_fn};
/// use axum::response::Response;
///
/// async fn guard(request: Request, next: Next) -> Result<Response, StatusCode> {
///     match request.headers().get("x-operator") {
///         Some(_) => Ok(next.run(request).await), // whom your proxy let through
///         None => Err(StatusCode::NOT_FOUND),
///     }
/// }
///
/// let status: Router = flautino_axum::status_routes(engine);
/// let app: Router = Router::new().merge(status.layer(from_fn(guard)));
/// # }
/// ```
pub fn status_routes<S>(engine: Engine) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let ready = engine.clone();
    let routes = Router::new();
    #[cfg(feature = "status-page")]
    let routes = routes.merge(page::routes(engine.clone()));
    routes
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
