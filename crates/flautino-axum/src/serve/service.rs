//! The app as one connection calls it: requests are counted, and a panic becomes a response.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use axum_core::body::Body;
use axum_core::response::Response;
use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::activity::Activity;

/// An app that can be served, such as a `Router`.
pub(super) trait App:
    Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> App for S where
    S: Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// How many requests of all connections wait for their response.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestCount(Arc<AtomicUsize>);

impl RequestCount {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    fn begin(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }
}

/// One request that waits for its response, until this is dropped.
struct InFlight(RequestCount);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The service of one connection.
#[derive(Clone)]
pub(super) struct ConnectionService<S, A> {
    app: S,
    requests: RequestCount,
    activity: Activity,
    address: A,
    /// Cancelled by the connection's first request.
    first_request: CancellationToken,
}

impl<S, A> ConnectionService<S, A> {
    pub(super) fn new(app: S, requests: RequestCount, activity: Activity, address: A) -> Self {
        Self { app, requests, activity, address, first_request: CancellationToken::new() }
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Returns the token that the connection's first request cancels.
    pub(super) fn first_request(&self) -> CancellationToken {
        self.first_request.clone()
    }
}

impl<S, A> Service<Request<Incoming>> for ConnectionService<S, A>
where
    A: Clone + Send + Sync + 'static,
    S: App,
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
        self.first_request.cancel();
        let in_flight = self.requests.begin();
        let under_way = self.activity.begin_request();
        let called = catch_unwind(AssertUnwindSafe(|| self.app.call(request)));
        Box::pin(async move {
            let response = match called {
                Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let response = response.unwrap_or_else(|_| Ok(panic_response()));
            drop(in_flight);
            response.map(|response| under_way.until_sent(response))
        })
    }
}

fn panic_response() -> Response {
    tracing::error!("a handler panicked; responding with 500");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
