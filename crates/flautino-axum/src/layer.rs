//! The layer: puts a handle into each request, and finishes the request before its response leaves.

mod failure;
mod future;
mod repeats;
mod server_timing;

use std::fmt;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use flautino::Engine;
use http::request::Parts;
use http::{HeaderName, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use self::failure::{EmptyError, ErrorResponse, LayerError};
use self::future::Failing;
pub use self::future::ResponseFuture;
use self::repeats::Repeats;
use crate::context::RequestContext;
use crate::token::RequestTokens;

/// The longest deadline there is, so that it can be added to a clock.
const MAX_DEADLINE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The header in which a gRPC client says how long it waits, in units of its own.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Gives every request a handle of the engine, for [`Db`](crate::Db) and [`Tx`](crate::Tx).
///
/// A request costs nothing until its handler queries. The layer works over any tower service of
/// `http::Request`, also tonic's: there [`Db::from_extensions`](crate::Db::from_extensions) gives
/// the handle, as in `examples/grpc`. ([`Tx`](crate::Tx) commits by the HTTP status, which gRPC does not use.)
///
/// As a response passes through, it gets a token for what its request wrote. So put layers that
/// respond in the handler's place, as those for panics and time limits do, *below* this one:
/// a response that is made above it carries no token for what the handler wrote before. What is
/// written while a body is streamed has no token either.
///
/// ```
/// use axum::{Router, routing::get};
/// use flautino::{Engine, EngineConfig};
/// use flautino_axum::{Db, EngineLayer};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new(EngineConfig::from_url("postgres://localhost/my_app")?)?;
/// let app: Router = Router::new()
///     .route("/", get(|db: Db| async move { format!("{db:?}") }))
///     .layer(EngineLayer::new(engine));
/// # Ok(()) }
/// ```
///
/// `E` makes the responses that are the layer's own; see [`on_error`](Self::on_error).
#[derive(Clone)]
pub struct EngineLayer<E = EmptyError> {
    engine: Engine,
    server_timing: bool,
    deadline: Option<Deadline>,
    on_error: E,
}

/// How long a request's statements may take.
#[derive(Debug, Clone)]
struct Deadline {
    after: Duration,
    /// The header in which the client says how long it waits, if that is less.
    header: Option<HeaderName>,
}

impl Deadline {
    fn of<B>(&self, request: &Request<B>) -> Instant {
        let told = self.header.as_ref().and_then(|name| {
            let text = request.headers().get(name)?.to_str().ok()?.trim();
            if *name == GRPC_TIMEOUT { grpc_timeout(text) } else { millis(text) }
        });
        Instant::now() + told.map_or(self.after, |told| self.after.min(told))
    }
}

fn millis(text: &str) -> Option<Duration> {
    Some(Duration::from_millis(text.parse().ok()?))
}

/// What gRPC's header says: a number and its unit, such as `250m`.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(60 * 60)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

impl EngineLayer {
    /// Makes a layer over the engine, which need not be open yet.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { engine, server_timing: false, deadline: None, on_error: EmptyError }
    }
}

impl<E> EngineLayer<E> {
    /// Whether responses say in `Server-Timing` which node ran each of the first eight statements,
    /// why, and how long it took. Default: `false`, because it tells strangers about the servers
    /// behind the app.
    #[must_use]
    pub fn server_timing(mut self, on: bool) -> Self {
        self.server_timing = on;
        self
    }

    /// By when, from the arrival of a request, all statements of its handle end; see
    /// [`Handle::with_deadline`](flautino::Handle::with_deadline). Default: none.
    ///
    /// A `Db` that outlives the request, in a task or a stream, keeps its deadline: such work gets a handle of its
    /// own from the engine.
    ///
    /// A [`DbError`](crate::DbError) is then a 503 for a statement that was not sent, and a 504 for one that was
    /// under way.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        let header = self.deadline.and_then(|deadline| deadline.header);
        self.deadline = Some(Deadline { after: after.min(MAX_DEADLINE), header });
        self
    }

    /// The header in which a client, such as another service, says how many milliseconds it waits for the
    /// response, as Envoy does in `x-envoy-expected-rq-timeout-ms`. It can shorten the
    /// [`deadline`](Self::deadline), and not prolong it. What is no number is ignored.
    ///
    /// `grpc-timeout`, in which gRPC clients say it, is read in gRPC's own format, such as `250m`.
    #[must_use]
    pub fn deadline_header(mut self, name: HeaderName) -> Self {
        let after = self.deadline.map_or(MAX_DEADLINE, |deadline| deadline.after);
        self.deadline = Some(Deadline { after, header: Some(name) });
        self
    }

    /// What the layer answers where the handler's response is a success and its transaction was not committed,
    /// instead of an empty 500. Where it is set, each request's head is kept until the response is made.
    ///
    /// ```
    /// # fn f(engine: flautino::Engine) -> axum::Router {
    /// use axum::response::IntoResponse;
    ///
    /// let layer = flautino_axum::EngineLayer::new(engine).on_error(|error, request| {
    ///     eprintln!("{} {}: {error}", request.method, request.uri);
    ///     error.into_response() // problem details, as those of `DbError`
    /// });
    /// # axum::Router::new().layer(layer) }
    /// ```
    #[must_use]
    pub fn on_error<F, R>(self, respond: F) -> EngineLayer<F>
    where
        F: Fn(LayerError, Parts) -> Response<R> + Clone,
    {
        let Self { engine, server_timing, deadline, on_error: _ } = self;
        EngineLayer { engine, server_timing, deadline, on_error: respond }
    }
}

impl<E> fmt::Debug for EngineLayer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineLayer")
            .field("engine", &self.engine)
            .field("server_timing", &self.server_timing)
            .finish_non_exhaustive()
    }
}

impl<S, E: Clone> Layer<S> for EngineLayer<E> {
    type Service = EngineService<S, E>;

    fn layer(&self, inner: S) -> EngineService<S, E> {
        EngineService { inner, layer: self.clone() }
    }
}

/// The service that [`EngineLayer`] makes.
#[derive(Debug, Clone)]
pub struct EngineService<S, E = EmptyError> {
    inner: S,
    layer: EngineLayer<E>,
}

impl<S, B, R, E> Service<Request<B>> for EngineService<S, E>
where
    S: Service<Request<B>, Response = Response<R>>,
    E: ErrorResponse<R> + Clone,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, E>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let EngineLayer { engine, server_timing, deadline, on_error } = &self.layer;
        let handle = engine.handle();
        let handle = if *server_timing { handle.recorded() } else { handle };
        let handle = match deadline {
            Some(deadline) => handle.with_deadline(deadline.of(&request)),
            None => handle,
        };
        let repeats = Repeats::watched(engine, &request);
        let handle = if repeats.is_some() { handle.counted() } else { handle };
        let tokens = RequestTokens::read(request.headers(), request.uri(), &handle, engine);
        let context = RequestContext::new(handle);
        let failing = Failing { on_error: on_error.clone(), parts: on_error.parts(&request) };
        request.extensions_mut().insert(context.clone());
        ResponseFuture::new(self.inner.call(request), context, tokens, repeats, failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_grpc_client_waits_is_a_number_and_a_unit() {
        for (text, told) in [
            ("250m", Some(Duration::from_millis(250))),
            ("2S", Some(Duration::from_secs(2))),
            ("3M", Some(Duration::from_secs(180))),
            ("1H", Some(Duration::from_secs(3600))),
            ("5000u", Some(Duration::from_millis(5))),
            ("7000n", Some(Duration::from_micros(7))),
            ("18446744073709551615H", Some(Duration::from_secs(u64::MAX))),
            ("250", None),
            ("m", None),
            ("", None),
            ("-1S", None),
            ("1.5S", None),
            ("1é", None),
            ("1s", None),
        ] {
            assert_eq!(grpc_timeout(text), told, "{text}");
        }
    }
}
