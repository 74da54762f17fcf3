//! The connections of a server: accepts them, and drains them at shutdown.

use std::pin::pin;
use std::time::{Duration, Instant};

use axum::serve::Listener;
use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::task::coop::unconstrained;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Expired, Patience, Watched};
use super::service::{App, ConnectionService, RequestCount};

/// How many connections may wait in the system's queue, as tokio sets it for its listeners.
const ACCEPT_BACKLOG: u32 = 1024;
/// How long after its acceptance a connection may still bring its first request while draining.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(250);
/// The shortest time that tokio's timers know.
const TIMER_TICK: Duration = Duration::from_millis(1);

/// The open connections. Dropping this ends them at once.
pub(super) struct Connections<S> {
    app: S,
    patience: Patience,
    requests: RequestCount,
    draining: CancellationToken,
    tasks: JoinSet<()>,
}

impl<S: App> Connections<S> {
    pub(super) fn new(app: S, patience: Patience) -> Self {
        Self {
            app,
            patience,
            requests: RequestCount::default(),
            draining: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Serves whoever connects, until `stop` is ready.
    pub(super) async fn accept_until<L>(
        &mut self,
        stop: &mut BoxFuture<'static, ()>,
        listener: &mut L,
    ) where
        L: Listener<Addr: Clone + Sync + 'static>,
    {
        loop {
            // Pinned outside of the inner loop, because a listener may be in the middle of a TLS
            // handshake when another connection ends.
            let mut accept = pin!(listener.accept());
            let (io, address) = loop {
                tokio::select! {
                    accepted = &mut accept => break accepted,
                    () = &mut *stop => return,
                    Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                }
            };
            self.serve(io, address);
        }
    }

    /// Serves those who wait in the system's queue: to these clients the connection is open already.
    pub(super) async fn accept_queued<L>(&mut self, listener: &mut L)
    where
        L: Listener<Addr: Clone + Sync + 'static>,
    {
        // The runtime learns of new connections when it asks the system, which it does between two
        // polls of a task.
        tokio::task::yield_now().await;
        for _ in 0..ACCEPT_BACKLOG {
            let Some((io, address)) = unconstrained(listener.accept()).now_or_never() else {
                return;
            };
            self.serve(io, address);
        }
    }

    fn serve<I, A>(&mut self, io: I, address: A)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Clone + Send + Sync + 'static,
    {
        let activity = Activity::new();
        let io = Watched::new(io, activity.clone());
        let (app, requests) = (self.app.clone(), self.requests.clone());
        let service = ConnectionService::new(app, requests, activity, address);
        self.tasks.spawn(serve_connection(io, service, self.patience, self.draining.clone()));
    }

    /// Ends each connection as soon as its requests in flight have their responses.
    pub(super) fn start_draining(&self) {
        self.draining.cancel();
    }

    /// Ends all connections, each at its task's next `.await`.
    pub(super) fn abort(&mut self) {
        self.tasks.abort_all();
    }

    /// Waits until all connections have ended.
    pub(super) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn requests_in_flight(&self) -> usize {
        self.requests.get()
    }
}

/// Serves one connection until it ends or has waited too long, or until its requests in flight have their
/// responses once `draining` is cancelled.
async fn serve_connection<I, A, S>(
    io: I,
    service: ConnectionService<S, A>,
    patience: Patience,
    draining: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Clone + Send + Sync + 'static,
    S: App,
{
    let mut builder = Builder::new(TokioExecutor::new());
    // hyper's own limit for a request's head runs from the end of the request before. The one that begins
    // with the head's first byte is kept here.
    let head_limit = patience.idle.saturating_add(patience.head);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head_limit);
    #[cfg(feature = "http2")]
    builder.http2().timer(TokioTimer::new()).enable_connect_protocol();
    let first_request = service.first_request();
    let activity = service.activity();
    let accepted = Instant::now();
    let service = TowerToHyperService::new(service);
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    let may_end = async {
        draining.cancelled().await;
        // At its graceful shutdown hyper drops a connection of which it has not read a byte, so a
        // new one gets time for its first request.
        let grace = FIRST_REQUEST_GRACE.saturating_sub(accepted.elapsed());
        let _ = tokio::time::timeout(grace, first_request.cancelled()).await;
        // Nor does hyper read the socket again then. The runtime reports what has arrived on it before
        // it fires a timer, so after one tick a request that was in the socket has been read.
        tokio::time::sleep(TIMER_TICK).await;
    };
    let ended = tokio::select! {
        // `serving` comes first, so that it reads before it is ended. `may_end` has its turn all the
        // same: under a flood of requests `serving` is pending now and then too, by hyper's limit of
        // rounds and tokio's budget.
        biased;
        ended = serving.as_mut() => ended,
        expired = activity.expired(patience) => {
            tracing::trace!(?expired, "a connection has waited too long for a request");
            if expired == Expired::Head {
                return;
            }
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = may_end => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended early");
    }
}
