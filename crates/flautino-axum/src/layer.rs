//! The layer: puts a handle into each request, and finishes the request before its response leaves.

mod failure;
mod future;
mod repeats;
mod server_timing;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
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
use crate::name::Main;
use crate::settings::{RequestSettings, SettingsOf};
use crate::token::{InvalidTokenPath, RequestTokens, TokenNames};

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
/// `E` makes the responses that are the layer's own; see [`on_error`](Self::on_error). `N` is the name of the
/// engine; see [`named`](Self::named).
pub struct EngineLayer<E = EmptyError, N = Main> {
    engine: Engine,
    server_timing: bool,
    deadline: Option<Deadline>,
    token_names: Arc<TokenNames>,
    settings: Option<SettingsOf>,
    on_error: E,
    name: PhantomData<fn() -> N>,
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
        Self {
            engine,
            server_timing: false,
            deadline: None,
            token_names: Arc::default(),
            settings: None,
            on_error: EmptyError,
            name: PhantomData,
        }
    }
}

impl<E, N> EngineLayer<E, N> {
    /// Names the engine, in an app with several of them: handlers ask for `Db<Reports>` and `Tx<Reports>`. Any type
    /// of the app's own is a name. Its tokens get names of their own, `reports-flautino-token` and
    /// `reports_flautino_token`, unless [`token_name`](Self::token_name) is called afterwards.
    ///
    /// ```
    /// # fn f(engine: flautino::Engine, reports: flautino::Engine) -> axum::Router {
    /// use axum::{Router, routing::get};
    /// use flautino_axum::{Db, EngineLayer};
    ///
    /// struct Reports;
    ///
    /// async fn both(db: Db, reports: Db<Reports>) {}
    ///
    /// Router::new()
    ///     .route("/", get(both))
    ///     .layer(EngineLayer::new(engine))
    ///     .layer(EngineLayer::new(reports).named::<Reports>())
    /// # }
    /// ```
    #[must_use]
    pub fn named<M: 'static>(self) -> EngineLayer<E, M> {
        let Self { engine, server_timing, deadline, token_names, settings, on_error, .. } = self;
        let token_names = Arc::new(Arc::unwrap_or_clone(token_names).named_after::<M>());
        let name = PhantomData;
        EngineLayer { engine, server_timing, deadline, token_names, settings, on_error, name }
    }

    /// The header that carries this layer's tokens. Their cookie is named alike, with `_` in place of `-`.
    /// Default: [`TOKEN_HEADER`](crate::TOKEN_HEADER) and [`TOKEN_COOKIE`](crate::TOKEN_COOKIE).
    ///
    /// Two apps under one host name share its cookies, whatever their ports. If they have databases of their own,
    /// give them names of their own, or [paths](Self::token_path): else each takes the other's token for one that
    /// it cannot read, and reads from its primary.
    ///
    /// ```
    /// # fn f(engine: flautino::Engine) {
    /// use http::HeaderName;
    ///
    /// let name = HeaderName::from_static("shop-token"); // and the cookie `shop_token`
    /// let layer = flautino_axum::EngineLayer::new(engine).token_name(name);
    /// # }
    /// ```
    #[must_use]
    pub fn token_name(mut self, header: HeaderName) -> Self {
        self.token_names = Arc::new(Arc::unwrap_or_clone(self.token_names).named(header));
        self
    }

    /// The path of the token's cookies: browsers send them for what is below it. Default: `/`.
    ///
    /// # Errors
    ///
    /// [`InvalidTokenPath`], for what cannot be the path of a cookie.
    pub fn token_path(mut self, path: &str) -> Result<Self, InvalidTokenPath> {
        self.token_names = Arc::new(Arc::unwrap_or_clone(self.token_names).at(path)?);
        Ok(self)
    }

    /// Settings of PostgreSQL that follow from the request, such as its tenant for row-level security:
    /// [`Db`](crate::Db) and [`Tx`](crate::Tx) have them in force, as
    /// [`Handle::with_settings`](flautino::Handle::with_settings) says.
    ///
    /// They are asked for when a handler or a middleware extracts its handle, with the request's extensions as they
    /// are then: what an authentication that ran before has put there is seen. An authentication that needs a
    /// handle itself gets one with what is known by then.
    ///
    /// ```
    /// # #[derive(Clone)] struct User { tenant: i64 }
    /// # fn f(engine: flautino::Engine) {
    /// let layer = flautino_axum::EngineLayer::new(engine).settings(|request| {
    ///     let user = request.extensions.get::<User>(); // by a middleware of the app's own
    ///     user.map(|user| ("app.tenant", user.tenant.to_string()))
    /// });
    /// # }
    /// ```
    #[must_use]
    pub fn settings<F, I, K, V>(mut self, settings: F) -> Self
    where
        F: Fn(&Parts) -> I + Send + Sync + 'static,
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        self.settings = Some(Arc::new(move |request| {
            let settings = settings(request).into_iter();
            settings.map(|(name, value)| (name.into(), value.into())).collect()
        }));
        self
    }

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
    /// The response's body is of the type that the service within this layer has. So layers that change it, such as
    /// tower-http's `TraceLayer`, go around this one: with `.layer(…)` calls after it, in a `ServiceBuilder` before it.
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
    pub fn on_error<F, R>(self, respond: F) -> EngineLayer<F, N>
    where
        F: Fn(LayerError, Parts) -> Response<R> + Clone,
    {
        let Self { engine, server_timing, deadline, token_names, settings, on_error: _, name } =
            self;
        let on_error = respond;
        EngineLayer { engine, server_timing, deadline, token_names, settings, on_error, name }
    }
}

impl<E: Clone, N> Clone for EngineLayer<E, N> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            server_timing: self.server_timing,
            deadline: self.deadline.clone(),
            token_names: Arc::clone(&self.token_names),
            settings: self.settings.clone(),
            on_error: self.on_error.clone(),
            name: PhantomData,
        }
    }
}

impl<E, N> fmt::Debug for EngineLayer<E, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineLayer")
            .field("engine", &self.engine)
            .field("server_timing", &self.server_timing)
            .finish_non_exhaustive()
    }
}

impl<S, E: Clone, N> Layer<S> for EngineLayer<E, N> {
    type Service = EngineService<S, E, N>;

    fn layer(&self, inner: S) -> EngineService<S, E, N> {
        EngineService { inner, layer: self.clone() }
    }
}

/// The service that [`EngineLayer`] makes.
#[derive(Debug)]
pub struct EngineService<S, E = EmptyError, N = Main> {
    inner: S,
    layer: EngineLayer<E, N>,
}

impl<S: Clone, E: Clone, N> Clone for EngineService<S, E, N> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S, B, R, E, N> Service<Request<B>> for EngineService<S, E, N>
where
    S: Service<Request<B>, Response = Response<R>>,
    E: ErrorResponse<R> + Clone,
    N: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, E>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let EngineLayer {
            engine, server_timing, deadline, token_names, settings, on_error, ..
        } = &self.layer;
        let handle = engine.handle();
        let handle = if *server_timing { handle.recorded() } else { handle };
        let handle = match deadline {
            Some(deadline) => handle.with_deadline(deadline.of(&request)),
            None => handle,
        };
        let repeats = Repeats::watched(engine, &request);
        let handle = if repeats.is_some() { handle.counted() } else { handle };
        let tokens =
            RequestTokens::read(request.headers(), request.uri(), &handle, engine, token_names);
        let settings = settings.as_ref().map(|settings| RequestSettings::new(settings, &request));
        let context = RequestContext::new(handle, settings);
        let failing = Failing { on_error: on_error.clone(), parts: on_error.parts(&request) };
        context.insert::<N>(request.extensions_mut());
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
