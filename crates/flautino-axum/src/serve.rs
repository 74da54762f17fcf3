//! `serve`: open, accept, signal, drain, close, in that order.

mod activity;
mod connections;
mod service;
mod signals;

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use axum::serve::Listener;
use axum_core::body::Body;
use axum_core::response::Response;
use flautino::{CloseReport, Engine, OpenError};
use futures_core::future::BoxFuture;
use futures_util::future::{join, join_all, try_join_all};
use http::Request;
#[cfg(feature = "migrate")]
use sqlx::migrate::{MigrateError, Migrator};
use tower_service::Service;

use self::activity::Patience;
use self::connections::Connections;
use self::service::App;
use self::signals::Signals;

/// How long a connection is kept without a request, by default. A balancer that closes its own idle
/// connections sooner, most after 60 s, never sends a request on one that is just being closed here.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long the head of a request may take, by default.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest times there are, so that they can be added to a clock.
const MAX_PATIENCE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long aborted connections may take to end.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Opens the engine, serves the app, and on SIGTERM or Ctrl-C shuts down in order: readiness
/// turns false, accepting stops, requests in flight get the drain time, the engine closes.
///
/// A second signal ends the drain time at once. A handler that blocks its thread cannot be
/// interrupted: its statement is cancelled when the engine closes, and `serve` waits for nothing else
/// that it does. A handler that panics is answered with a 500, unless a layer of the app's own catches
/// the panic. Handlers find the client's address in [`ConnectInfo`](axum::extract::ConnectInfo).
/// HTTP/1 is spoken, and with the feature `http2`, which is on by default, HTTP/2 too. Upgraded
/// connections, such as WebSockets, belong to the app from then on: they are neither counted nor drained.
/// A connection without a request is closed after [`keep_alive_timeout`](Serve::keep_alive_timeout).
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
    let patience = Patience { idle: KEEP_ALIVE, head: HEADER_TIMEOUT };
    Serve {
        listener,
        app,
        engine,
        others: Vec::new(),
        patience,
        drain_timeout,
        shutdown: None,
        #[cfg(feature = "migrate")]
        migrator: None,
    }
}

/// A server about to start; see [`serve`].
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, S> {
    listener: L,
    app: S,
    engine: Engine,
    others: Vec<Engine>,
    patience: Patience,
    drain_timeout: Duration,
    shutdown: Option<BoxFuture<'static, ()>>,
    #[cfg(feature = "migrate")]
    migrator: Option<&'static Migrator>,
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
    /// How the other engines closed, in the order of [`with_engine`](Serve::with_engine).
    pub others: Vec<CloseReport>,
}

/// Why [`serve`] did not start.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The engine could not be opened.
    #[error("cannot open the database: {0}")]
    Open(#[from] OpenError),
    /// A migration failed, or the database was migrated otherwise. Nothing was served.
    #[cfg(feature = "migrate")]
    #[error("cannot migrate the database, so nothing is served: {0}")]
    Migrate(#[from] MigrateError),
    /// The signal handlers could not be installed.
    #[error("cannot listen for the signals that end the server: {0}")]
    Signals(#[source] io::Error),
}

/// The message: a `main` that returns an error prints it with `Debug`.
impl fmt::Debug for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<L, S> Serve<L, S> {
    /// Shuts down when `signal` is ready, instead of on SIGTERM and Ctrl-C.
    pub fn with_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Some(Box::pin(signal));
        self
    }

    /// Opens another engine before the first request, and closes it together with the first one. If one of them
    /// cannot be opened, nothing is served, and those that are open are closed.
    ///
    /// An engine may be open already, for migrations of its own say.
    pub fn with_engine(mut self, engine: Engine) -> Self {
        self.others.push(engine);
        self
    }

    /// Runs these migrations before the first request is accepted, as
    /// [`Engine::migrate`](flautino::Engine::migrate) does: on the primary, and once, however many instances of
    /// the app start at a time. No read of a request goes to a replica that has not replayed them, but those at
    /// the level [`Eventual`](flautino::Consistency::Eventual). If one
    /// fails, `serve` closes the engine and returns its error. It needs the feature `migrate`.
    ///
    /// ```no_run
    /// # async fn f(
    /// #     listener: tokio::net::TcpListener, app: axum::Router, engine: flautino::Engine,
    /// #     migrator: &'static sqlx::migrate::Migrator,
    /// # ) -> Result<(), flautino_axum::ServeError> {
    /// // static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();
    /// flautino_axum::serve(listener, app, engine).migrate(migrator).await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "migrate")]
    pub fn migrate(mut self, migrator: &'static Migrator) -> Self {
        self.migrator = Some(migrator);
        self
    }

    /// How long requests in flight, and then statements of background tasks, may go on after the
    /// signal. Default: the engine's `drain_timeout`. Cutting what is left takes up to a few
    /// seconds more.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long a connection is kept open without a request, from the end of the last response on.
    /// Default: 75 s, a little more than the 60 s of usual balancers: one that keeps a connection for
    /// longer than this server does sends a request now and then just as it is closed, and answers 502.
    ///
    /// A connection of HTTP/2 is told to go away then, and streams that are open may end.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.patience.idle = timeout.min(MAX_PATIENCE);
        self
    }

    /// How long the head of an HTTP/1 request may take, from its first byte on; a connection whose request
    /// takes longer is closed. Default: 30 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.patience.head = timeout.min(MAX_PATIENCE);
        self
    }
}

impl<L, S> IntoFuture for Serve<L, S>
where
    L: Listener<Addr: Clone + Sync + 'static>,
    S: Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    type Output = Result<ServeReport, ServeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

async fn run<L, S>(serve: Serve<L, S>) -> Result<ServeReport, ServeError>
where
    L: Listener<Addr: Clone + Sync + 'static>,
    S: App,
{
    let Serve { mut listener, app, engine, others, patience, drain_timeout, shutdown, .. } = serve;
    #[cfg(feature = "migrate")]
    let migrator = serve.migrator;
    let mut stop = match shutdown {
        Some(shutdown) => shutdown,
        None => first_signal()?,
    };
    let start = async {
        engine.open().await?;
        #[cfg(feature = "migrate")]
        if let Some(migrator) = migrator {
            engine.migrate(migrator).await?;
        }
        try_join_all(others.iter().map(Engine::open)).await?;
        Ok(())
    };
    let started = tokio::select! {
        started = start => started,
        () = &mut stop => return Ok(close_unserved(&engine, &others).await),
    };
    if let Err(error) = started {
        close_unserved(&engine, &others).await;
        return Err(error);
    }
    let mut connections = Connections::new(app, patience);
    connections.accept_until(&mut stop, &mut listener).await;
    Ok(shut_down(connections, listener, (engine, others), drain_timeout).await)
}

async fn shut_down<L, S>(
    mut connections: Connections<S>,
    mut listener: L,
    (engine, others): (Engine, Vec<Engine>),
    drain_timeout: Duration,
) -> ServeReport
where
    L: Listener<Addr: Clone + Sync + 'static>,
    S: App,
{
    let started = Instant::now();
    // Installed before anybody can see that the server shuts down, so that a second signal which
    // follows is not missed.
    let mut second_signal = pin!(second_signal(Signals::install()));
    connections.accept_queued(&mut listener).await;
    engine.start_draining();
    others.iter().for_each(Engine::start_draining);
    drop(listener);
    connections.start_draining();
    let open = connections.len();
    let requests = connections.requests_in_flight();
    tracing::info!(connections = open, requests, "shutting down");

    let mut forced = tokio::select! {
        _ = tokio::time::timeout(drain_timeout, connections.ended()) => false,
        () = &mut second_signal => true,
    };
    let connections_cut = connections.len();
    let requests_cut = connections.requests_in_flight();
    connections.abort();
    // The task of a handler that blocks its thread does not end here, but when its statement is
    // cancelled: that is when the engine closes, so it is not waited for without a bound.
    tokio::select! {
        _ = tokio::time::timeout(CLOSE_GRACE, connections.ended()) => {}
        () = &mut second_signal, if !forced => forced = true,
    }
    let drain_timeout = if forced { Duration::ZERO } else { drain_timeout };
    let left = drain_timeout.saturating_sub(started.elapsed());
    let (close, others) = tokio::select! {
        closed = close_all(&engine, &others, left) => closed,
        () = second_signal, if !forced => close_all(&engine, &others, Duration::ZERO).await,
    };
    ServeReport {
        connections_drained: open.saturating_sub(connections_cut),
        connections_cut,
        requests_cut,
        elapsed: started.elapsed(),
        close,
        others,
    }
}

/// Closes the engines at the same time.
async fn close_all(
    engine: &Engine,
    others: &[Engine],
    drain: Duration,
) -> (CloseReport, Vec<CloseReport>) {
    let others = join_all(others.iter().map(|other| other.close_within(drain)));
    join(engine.close_within(drain), others).await
}

/// Closes the engines before anything was served.
async fn close_unserved(engine: &Engine, others: &[Engine]) -> ServeReport {
    let started = Instant::now();
    let (close, others) = close_all(engine, others, Duration::ZERO).await;
    ServeReport {
        connections_drained: 0,
        connections_cut: 0,
        requests_cut: 0,
        elapsed: started.elapsed(),
        close,
        others,
    }
}

/// Listens from now on, and is ready at the first signal.
fn first_signal() -> Result<BoxFuture<'static, ()>, ServeError> {
    let mut signals = Signals::install().map_err(ServeError::Signals)?;
    Ok(Box::pin(async move { signals.next().await }))
}

/// Is ready at the next signal, and never where signals cannot be listened to.
async fn second_signal(signals: io::Result<Signals>) {
    match signals {
        Ok(mut signals) => signals.next().await,
        Err(_) => std::future::pending().await,
    }
    tracing::warn!("a second signal: shutting down at once");
}

impl<L, S> fmt::Debug for Serve<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("engine", &self.engine)
            .field("drain_timeout", &self.drain_timeout)
            .field("keep_alive_timeout", &self.patience.idle)
            .field("header_timeout", &self.patience.head)
            .finish_non_exhaustive()
    }
}
