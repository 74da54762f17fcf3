//! A warning of a request that sends one statement again and again (`log_repeated`).

use axum::extract::MatchedPath;
use flautino::{Engine, Handle};
use http::{Method, Request};

/// What the warning says of the request.
pub(super) struct Repeats {
    limit: u32,
    method: Method,
    /// The route as the app wrote it; else the path.
    route: String,
    #[cfg(feature = "metrics")]
    is_path: bool,
}

impl Repeats {
    /// `None` where nobody wants to know.
    pub(super) fn watched<B>(engine: &Engine, request: &Request<B>) -> Option<Self> {
        let limit = Some(engine.log_repeated()).filter(|limit| *limit > 0)?;
        let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let route = matched.unwrap_or_else(|| request.uri().path()).to_owned();
        Some(Self {
            limit,
            method: request.method().clone(),
            route,
            #[cfg(feature = "metrics")]
            is_path: matched.is_none(),
        })
    }

    /// Warns if the request sent a statement more often than it may, and counts it.
    pub(super) fn warn(&self, handle: &Handle) {
        let Self { limit, method, route, .. } = self;
        if let Some((sql, count)) = handle.repeated_above(*limit) {
            tracing::warn!(
                target: "flautino::repeated", %method, route, count, sql,
                "a request sent one statement {count} times (`log_repeated`); one with a list of keys may do"
            );
            #[cfg(feature = "metrics")]
            self.count();
        }
    }

    #[cfg(feature = "metrics")]
    fn count(&self) {
        // Paths without a route would be without number.
        let route = if self.is_path { String::new() } else { self.route.clone() };
        let method = if is_standard(&self.method) { self.method.as_str() } else { "_OTHER" };
        let labels = [("http.request.method", method.to_owned()), ("http.route", route)];
        metrics::counter!(flautino::metrics::REQUEST_REPEATS, &labels).increment(1);
    }
}

/// A client may send any word for a method.
#[cfg(feature = "metrics")]
fn is_standard(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ]
    .contains(method)
}
