//! Epochs: a connection is lent only in the epoch in which it was made.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// A time during which a node is the same server in the same role.
///
/// The next one begins when its connections are renewed (its role or identity changed), and when what
/// runs on it is ended.
#[derive(Debug)]
pub(crate) struct Epoch {
    id: u64,
    began: Instant,
    /// Shared with the epochs before, as long as only connections were renewed: what still runs on
    /// theirs is ended together.
    ending: Arc<Ending>,
}

#[derive(Debug, Default)]
struct Ending {
    /// For who waits.
    cancelled: CancellationToken,
    why: OnceLock<EndReason>,
}

/// Why all that runs on a node is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// It does not answer any more, or has left the engine.
    Down,
    /// Another node is the primary: whatever this one acknowledges from now on is lost.
    Superseded,
    /// The engine closes, and the drain time is over.
    Closed,
}

impl Epoch {
    pub(super) fn first() -> Arc<Self> {
        Arc::new(Self { id: 0, began: Instant::now(), ending: Arc::default() })
    }

    /// The next one. What runs in this one goes on.
    pub(super) fn renewed(&self) -> Arc<Self> {
        Arc::new(Self { id: self.id + 1, began: Instant::now(), ending: Arc::clone(&self.ending) })
    }

    /// The next one, after this one is ended.
    pub(super) fn replaced(&self) -> Arc<Self> {
        Arc::new(Self { id: self.id + 1, began: Instant::now(), ending: Arc::default() })
    }

    /// Ends all that runs in it.
    pub(super) fn end(&self, why: EndReason) {
        // Only the first reason counts.
        let _ = self.ending.why.set(why);
        self.ending.cancelled.cancel();
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
        self.ending.why.get().copied()
    }

    /// The work's result; `None` when the epoch is ended first.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut ended = pin!(self.ending.cancelled.cancelled());
        poll_fn(|context| {
            // Not polled once more: that might send a statement.
            if self.is_ended() {
                return Poll::Ready(None);
            }
            // Listened to only where the work has to wait, since listening takes a lock.
            match work.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending => ended.as_mut().poll(context).map(|()| None),
            }
        })
        .await
    }

    /// What is told to a statement on `node` that the end of this epoch ends. `sent` tells whether it
    /// may have run.
    pub(crate) fn error(&self, node: &str, sent: bool) -> sqlx::Error {
        let node = node.to_owned();
        match (self.end_reason(), sent) {
            (Some(EndReason::Closed), true) => Error::Cut { node }.into(),
            (Some(EndReason::Closed), false) => Error::Closed { node }.into(),
            (_, sent) => Error::NodeDown { node, sent }.into(),
        }
    }
}
