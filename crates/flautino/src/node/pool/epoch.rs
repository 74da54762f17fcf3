//! Epochs: a connection is checked out only in the epoch in which it was made.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// A time during which a node is the same server in the same role.
///
/// The next epoch begins when the node's connections are renewed, because its role or identity
/// changed, and when everything that runs on the node is ended.
#[derive(Debug)]
pub(crate) struct Epoch {
    id: u64,
    began: Instant,
    /// Renewing connections begins an epoch that shares the end of the one before, so that what still
    /// runs on an older connection is ended together with the rest.
    end: Arc<EpochEnd>,
}

/// Whether the work of an epoch is ended, and why.
#[derive(Debug, Default)]
struct EpochEnd {
    /// Wakes the work that is under way.
    cancelled: CancellationToken,
    reason: OnceLock<EndReason>,
}

/// Why everything that runs on a node is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The node does not answer any more, or is not a node of the engine any more.
    Down,
    /// Another node is the primary now, so what this one acknowledges from now on is lost.
    Superseded,
    /// The engine closes, and the drain time is over.
    Closed,
}

impl Epoch {
    pub(super) fn first() -> Arc<Self> {
        Arc::new(Self { id: 0, began: Instant::now(), end: Arc::default() })
    }

    /// The next epoch, when connections are renewed. What runs in this one goes on.
    pub(super) fn renewed(&self) -> Arc<Self> {
        Arc::new(Self { id: self.id + 1, began: Instant::now(), end: Arc::clone(&self.end) })
    }

    /// The next epoch, when this one is ended.
    pub(super) fn replaced(&self) -> Arc<Self> {
        Arc::new(Self { id: self.id + 1, began: Instant::now(), end: Arc::default() })
    }

    /// Ends everything that runs in this epoch.
    pub(super) fn end(&self, reason: EndReason) {
        // Fails where it was ended before; the first reason stays.
        let _ = self.end.reason.set(reason);
        self.end.cancelled.cancel();
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.end_reason().is_some()
    }

    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.end.reason.get().copied()
    }

    /// Runs the work. Returns `None` when the epoch is ended first.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut ended = pin!(self.end.cancelled.cancelled());
        poll_fn(|context| {
            // Polling the work once more might send a statement.
            if self.is_ended() {
                return Poll::Ready(None);
            }
            // Polling the token takes a lock, so do it only when the work has to wait.
            match work.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending => ended.as_mut().poll(context).map(|()| None),
            }
        })
        .await
    }

    /// The error of a statement on `node` that was ended with this epoch. `sent` says that it may have
    /// run.
    pub(crate) fn error(&self, node: &str, sent: bool) -> sqlx::Error {
        let node = node.to_owned();
        match (self.end_reason(), sent) {
            (Some(EndReason::Closed), true) => Error::Cut { node }.into(),
            (Some(EndReason::Closed), false) => Error::Closed { node }.into(),
            (_, sent) => Error::NodeDown { node, sent }.into(),
        }
    }
}
