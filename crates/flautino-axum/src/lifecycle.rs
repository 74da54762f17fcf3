//! `serve`: open, accept, signal, drain, close, in that order.

use std::convert::Infallible;
use std::future::{Future, IntoFuture};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::ConnectInfo;
use axum::serve::Listener;
use axum_core::body::Body;
use axum_core::response::Response;
use flautino::{CloseReport, Engine, OpenError};
use futures_core::future::BoxFuture;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio::task::coop::unconstrained;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// How many connections may wait in the system's queue; as many as tokio lets it have.
const BACKLOG: u32 = 1024;
/// A connection that is no older may still bring its first request.
const FIRST_REQUEST: Duration = Duration::from_millis(250);
/// The shortest time that the runtime's timers know.
const A_TURN: Duration = Duration::from_millis(1);
/// How long connections that are cut may take to end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Opens the engine, serves the app, and on SIGTERM or Ctrl-C shuts down in order: readiness
/// turns false, accepting stops, requests in flight get the drain time, the engine closes.
///
/// A second signal ends the drain time at once. A handler that blocks its thread cannot be cut: its
/// statement is, when the engine closes, and whatever else it waits for is not waited for here. A
/// handler that panics is answered with a 500, unless a layer of the app's own catches it. Handlers
/// find the client's address in [`ConnectInfo`]. HTTP/1 and HTTP/2 are spoken. Upgraded connections,
/// such as WebSockets, are the app's own from then on: they are neither counted nor drained.
///
/// ```no_run
/// # async fn f(app: axum::Router, engine: flautino::Engine) -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// let report = flautino_axum::serve(listener, app, engine).await?;
/// println!("{report:?}");
/// # Ok(()) }
/// ```
///
/// # Cancellation
///
/// Dropping the future ends the connections at once and leaves the engine open.
pub fn serve<L, S>(listener: L, app: S, engine: Engine) -> Serve<L, S> {
    let drain_timeout = engine.drain_timeout();
    Serve { listener, app, engine, drain_timeout, shutdown: None }
}

/// A server about to start; see [`serve`].
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, S> {
    listener: L,
    app: S,
    engine: Engine,
    drain_timeout: Duration,
    shutdown: Option<BoxFuture<'static, ()>>,
}

/// What [`serve`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeReport {
    /// Connections that were open at the signal and ended within the drain time.
    pub connections_drained: usize,
    /// Connections that were cut when the drain time was over.
    pub connections_cut: usize,
    /// Requests without a response at that moment; their handlers were dropped.
    pub requests_cut: usize,
    /// From the signal to the end.
    pub elapsed: Duration,
    /// How the engine closed.
    pub close: CloseReport,
}

/// Why [`serve`] did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The engine could not be opened.
    #[error("cannot open the database: {0}")]
    Open(#[from] OpenError),
    /// The signal handlers could not be installed.
    #[error("cannot listen for the signals that end the server: {0}")]
    Signals(#[source] io::Error),
}

impl<L, S> Serve<L, S> {
    /// Shuts down when `signal` is ready, instead of on SIGTERM and Ctrl-C.
    pub fn with_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Some(Box::pin(signal));
        self
    }

    /// How long requests in flight, and then statements of background tasks, may go on after the
    /// signal. Default: the engine's `drain_timeout`. Cutting what is left takes up to a few
    /// seconds more.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }
}

impl<L, S> IntoFuture for Serve<L, S>
where
    L: Listener,
    L::Addr: Clone + Sync + 'static,
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Output = Result<ServeReport, ServeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<L, S> Serve<L, S>
where
    L: Listener,
    L::Addr: Clone + Sync + 'static,
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    async fn run(self) -> Result<ServeReport, ServeError> {
        let Self { mut listener, app, engine, drain_timeout, shutdown } = self;
        let mut stop: BoxFuture<'static, ()> = match shutdown {
            Some(shutdown) => shutdown,
            None => {
                let mut signals = Signals::install().map_err(ServeError::Signals)?;
                Box::pin(async move { signals.next().await })
            }
        };

        tokio::select! {
            opened = engine.open() => drop(opened?),
            () = &mut stop => return Ok(stopped_early(&engine).await),
        }

        let draining = CancellationToken::new();
        let requests = Requests::default();
        let mut connections = JoinSet::new();
        loop {
            // Not dropped when a connection ends: a listener may be in the middle of a handshake.
            let mut accept = pin!(listener.accept());
            let accepted = loop {
                tokio::select! {
                    accepted = &mut accept => break Some(accepted),
                    () = &mut stop => break None,
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                }
            };
            let Some((io, address)) = accepted else { break };
            let app = Counted::new(&app, &requests, address);
            connections.spawn(connection(io, app, draining.clone()));
        }

        let signalled = Instant::now();
        // Before anybody can see that it shuts down; these see only what comes from now on.
        let signals = Signals::install();
        // Clients that wait in the system's queue already believe that they are served. The runtime
        // learns of them when it comes to ask.
        tokio::task::yield_now().await;
        for _ in 0..BACKLOG {
            let Some((io, address)) = now_or_never(unconstrained(listener.accept())).await else {
                break;
            };
            let app = Counted::new(&app, &requests, address);
            connections.spawn(connection(io, app, draining.clone()));
        }
        engine.start_draining();
        drop(listener);
        draining.cancel();
        let open = connections.len();
        tracing::info!(connections = open, requests = requests.count(), "shutting down");
        let mut again = pin!(async {
            match signals {
                Ok(mut signals) => signals.next().await,
                Err(_) => std::future::pending().await,
            }
            tracing::warn!("a second signal: shutting down at once");
        });
        let mut in_a_hurry = tokio::select! {
            _ = tokio::time::timeout(drain_timeout, all_ended(&mut connections)) => false,
            () = &mut again => true,
        };
        let (cut, requests_cut) = (connections.len(), requests.count());
        connections.abort_all();
        // A handler that blocks its thread keeps its task, maybe until its statement is cut below.
        tokio::select! {
            _ = tokio::time::timeout(LAST_WORDS, all_ended(&mut connections)) => {}
            () = &mut again, if !in_a_hurry => in_a_hurry = true,
        }
        let left = if in_a_hurry { Duration::ZERO } else { drain_timeout };
        let left = left.saturating_sub(signalled.elapsed());
        let close = tokio::select! {
            close = engine.close_within(left) => close,
            () = again, if !in_a_hurry => engine.close_within(Duration::ZERO).await,
        };
        Ok(ServeReport {
            connections_drained: open.saturating_sub(cut),
            connections_cut: cut,
            requests_cut,
            elapsed: signalled.elapsed(),
            close,
        })
    }
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// What the work answers at once, if it does.
async fn now_or_never<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What the work answers, unless it panics.
async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Some),
        // It is not polled again.
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// The signal came before the database did.
async fn stopped_early(engine: &Engine) -> ServeReport {
    let started = Instant::now();
    let close = engine.close_within(Duration::ZERO).await;
    ServeReport {
        connections_drained: 0,
        connections_cut: 0,
        requests_cut: 0,
        elapsed: started.elapsed(),
        close,
    }
}

/// Serves one connection until it ends, or until its request in flight is answered once
/// `draining` is cancelled.
async fn connection<I, A, S>(io: I, app: Counted<S, A>, draining: CancellationToken)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    A: Clone + Send + Sync + 'static,
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut builder = Builder::new(TokioExecutor::new());
    // With a timer hyper ends clients that begin a request and never finish its headers, after 30 s.
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).enable_connect_protocol();
    let begun = app.begun.clone();
    let accepted = Instant::now();
    let service = TowerToHyperService::new(app);
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    let over = async {
        draining.cancelled().await;
        // hyper would drop one of which it has not read a byte.
        let left = FIRST_REQUEST.saturating_sub(accepted.elapsed());
        let _ = tokio::time::timeout(left, begun.cancelled()).await;
        // Nor would it look into the socket again. The runtime asks what is there before timers fire.
        tokio::time::sleep(A_TURN).await;
    };
    let ended = tokio::select! {
        // First to read, then to end. Under a flood of requests it is pending now and then too, by
        // hyper's limit of rounds and tokio's budget, so that `over` has its turn.
        biased;
        ended = serving.as_mut() => ended,
        () = over => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended early");
    }
}

/// Counts the requests that wait for their response.
#[derive(Debug, Clone, Default)]
struct Requests(Arc<AtomicUsize>);

impl Requests {
    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    fn begin(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }
}

/// One request in flight; over when it is dropped.
struct InFlight(Requests);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The app of one connection.
#[derive(Clone)]
struct Counted<S, A> {
    app: S,
    requests: Requests,
    address: A,
    /// Cancelled by the connection's first request.
    begun: CancellationToken,
}

impl<S: Clone, A> Counted<S, A> {
    fn new(app: &S, requests: &Requests, address: A) -> Self {
        let (app, requests) = (app.clone(), requests.clone());
        Self { app, requests, address, begun: CancellationToken::new() }
    }
}

impl<S, A> Service<Request<Incoming>> for Counted<S, A>
where
    A: Clone + Send + Sync + 'static,
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.address.clone()));
        self.begun.cancel();
        let in_flight = self.requests.begin();
        let app = &mut self.app;
        let response = catch_unwind(AssertUnwindSafe(|| app.call(request)));
        Box::pin(async move {
            let response = caught(async move {
                match response {
                    Ok(response) => response.await,
                    Err(panic) => resume_unwind(panic),
                }
            });
            let response = response.await.unwrap_or_else(|| {
                tracing::error!("a handler panicked; its client gets a 500");
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                Ok(response)
            });
            drop(in_flight);
            response
        })
    }
}

/// SIGTERM and Ctrl-C, listened to from the start so that none is missed.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ctrl-C, where there is no SIGTERM.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn install() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

impl<L, S> std::fmt::Debug for Serve<L, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serve")
            .field("engine", &self.engine)
            .field("drain_timeout", &self.drain_timeout)
            .finish_non_exhaustive()
    }
}
