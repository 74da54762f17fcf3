//! The layer: puts a handle into each request, and ends the request's transaction.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flautino::{Engine, Handle, Timing, Token, Transaction};
use futures_core::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::scope::{AtEnd, Scope};
use crate::token::Carried;

/// Gives every request a handle of the engine, for [`Db`](crate::Db) and [`Tx`](crate::Tx).
///
/// It costs a request nothing until a handler queries. Any tower service over `http::Request`
/// will do, tonic's too: there [`Db::from_extensions`](crate::Db::from_extensions) gives the
/// handle. ([`Tx`](crate::Tx) judges by the HTTP status, which gRPC does not use.)
///
/// A response gets the token of what its request wrote as it passes through here. Layers that answer
/// themselves when a handler panics or takes too long belong below this one, else what the handler
/// wrote before has no token. Nor has what is written while a body is streamed.
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
#[derive(Debug, Clone)]
pub struct EngineLayer {
    engine: Engine,
    server_timing: bool,
}

impl EngineLayer {
    /// A layer over the engine, which need not be open yet.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { engine, server_timing: false }
    }

    /// Whether responses say in `Server-Timing` which node ran each statement, why, and how
    /// long it took: the first eight statements. Default: `false`, since it tells strangers
    /// about the servers behind the app.
    #[must_use]
    pub fn server_timing(mut self, on: bool) -> Self {
        self.server_timing = on;
        self
    }
}

impl<S> Layer<S> for EngineLayer {
    type Service = EngineService<S>;

    fn layer(&self, service: S) -> EngineService<S> {
        EngineService { service, layer: self.clone() }
    }
}

/// The service that [`EngineLayer`] makes.
#[derive(Debug, Clone)]
pub struct EngineService<S> {
    service: S,
    layer: EngineLayer,
}

impl<S, B, R> Service<Request<B>> for EngineService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let EngineLayer { engine, server_timing } = &self.layer;
        let handle = engine.handle();
        let handle = if *server_timing { handle.recorded() } else { handle };
        let carried = Carried::observe(request.headers(), request.uri(), &handle, engine);
        let scope = Scope::new(handle);
        request.extensions_mut().insert(scope.clone());
        let tokens = (carried, engine.clone());
        ResponseFuture { state: State::Inner { future: self.service.call(request) }, scope, tokens }
    }
}

pin_project! {
    /// The response of an [`EngineService`]: the inner one, once its transaction is over and its
    /// token is made.
    pub struct ResponseFuture<F, R> {
        #[pin]
        state: State<F, R>,
        scope: Scope,
        tokens: (Carried, Engine),
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R> {
        Inner { #[pin] future: F },
        Ending { ending: BoxFuture<'static, Ended>, response: Option<Response<R>> },
        Token { making: Option<BoxFuture<'static, Option<Token>>>, response: Option<Response<R>> },
    }
}

/// How the request's transaction ended.
enum Ended {
    AsAsked,
    Failed,
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Inner { future } => {
                    // An error has no response to speak for it: the transaction rolls back.
                    let response = ready!(future.poll(cx))?;
                    let ending = match this.scope.end() {
                        AtEnd::Nothing => {
                            this.state.set(State::token(&this.scope.handle, response));
                            continue;
                        }
                        AtEnd::Transaction(transaction) => {
                            end(*transaction, keeps(response.status()))
                        }
                        AtEnd::StillHeld if keeps(response.status()) => {
                            tracing::error!(
                                "the request's transaction is still held when the response is \
                                 made, so it is rolled back; hand `Tx` back before responding"
                            );
                            Box::pin(std::future::ready(Ended::Failed))
                        }
                        AtEnd::StillHeld => Box::pin(std::future::ready(Ended::AsAsked)),
                    };
                    this.state.set(State::Ending { ending, response: Some(response) });
                }
                StateProjection::Ending { ending, response } => {
                    let ended = ready!(ending.as_mut().poll(cx));
                    let response = match (ended, response.take()) {
                        (Ended::AsAsked, Some(response)) => response,
                        (Ended::Failed, _) | (Ended::AsAsked, None) => internal_error(),
                    };
                    this.state.set(State::token(&this.scope.handle, response));
                }
                StateProjection::Token { making, response } => {
                    let token = match making {
                        Some(making) => ready!(making.as_mut().poll(cx)),
                        None => None,
                    };
                    let mut response = response.take().unwrap_or_else(internal_error);
                    if let Some(token) = token {
                        let (carried, engine) = this.tokens;
                        carried.give(token, response.headers_mut(), engine);
                    }
                    add_timings(&mut response, &this.scope.handle.timings());
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

impl<F, R> State<F, R> {
    /// The last step: the token for what the request wrote, if it did.
    fn token(handle: &Handle, response: Response<R>) -> Self {
        let making = handle.owes_token().then(|| {
            let handle = handle.clone();
            let making: BoxFuture<'static, _> = Box::pin(async move { handle.token().await });
            making
        });
        Self::Token { making, response: Some(response) }
    }
}

/// Whether a response of this status keeps what the request's transaction did.
fn keeps(status: StatusCode) -> bool {
    status.as_u16() < 400
}

fn end(transaction: Transaction, keep: bool) -> BoxFuture<'static, Ended> {
    Box::pin(async move {
        if !keep {
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(%error, "rollback failed; the connection is closed");
            }
            return Ended::AsAsked;
        }
        match transaction.commit().await {
            Ok(()) => Ended::AsAsked,
            Err(error) => {
                tracing::error!(%error, "the request's transaction was not committed; answering 500");
                Ended::Failed
            }
        }
    })
}

/// The body is empty: this layer cannot write into a body whose type it does not know.
fn internal_error<R: Default>() -> Response<R> {
    let mut response = Response::new(R::default());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn add_timings<R>(response: &mut Response<R>, timings: &[Timing]) {
    if timings.is_empty() {
        return;
    }
    let entries: Vec<_> = timings
        .iter()
        .map(|timing| {
            let millis = timing.elapsed.as_secs_f64() * 1000.0;
            let unfit = |c: char| !c.is_ascii_graphic() || c == '"' || c == '\\';
            let node = timing.node.replace(unfit, "_");
            format!("db;dur={millis:.1};desc=\"{node} {}\"", timing.reason.as_str())
        })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&entries.join(", ")) {
        response.headers_mut().append(SERVER_TIMING, value);
    }
}

const SERVER_TIMING: header::HeaderName = header::HeaderName::from_static("server-timing");

impl<F, R> std::fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
