//! Epochs: a connection is checked out only in the epoch in which it was made.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

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
    reason: OnceLock<EndReason>,
    listeners: Mutex<Listeners>,
}

/// Whom the end wakes.
#[derive(Debug, Default)]
struct Listeners {
    wakers: BTreeMap<u64, Arc<AtomicWaker>>,
    next: u64,
}

/// Runs one piece of work after the other, each until the epoch is ended. A connection keeps one for all
/// its statements, so that a statement which waits takes no lock: it leaves its waker here.
#[derive(Debug)]
pub(crate) struct EndListener {
    end: Arc<EpochEnd>,
    id: u64,
    waker: Arc<AtomicWaker>,
}

/// Why everything that runs on a node is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The node does not answer any more.
    Down,
    /// It is not a node of the engine any more, and the drain time is over. Its server answers.
    Removed,
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
        let listeners = std::mem::take(&mut self.end.listeners.lock().wakers);
        listeners.values().for_each(|waker| waker.wake());
    }

    pub(super) fn listener(&self) -> EndListener {
        let waker = Arc::new(AtomicWaker::new());
        let mut listeners = self.end.listeners.lock();
        let id = listeners.next;
        listeners.next += 1;
        listeners.wakers.insert(id, Arc::clone(&waker));
        EndListener { end: Arc::clone(&self.end), id, waker }
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
        self.listener().run(work).await
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

impl EndListener {
    /// Runs the work. Returns `None` when the epoch is ended first.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let is_ended = || self.end.reason.get().is_some();
        let mut is_waiting = false;
        poll_fn(|context| {
            // Polling the work once more might send a statement.
            if is_ended() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = work.as_mut().poll(context) {
                if is_waiting {
                    // Else it would keep the memory of a task that has ended.
                    self.waker.take();
                }
                return Poll::Ready(Some(output));
            }
            is_waiting = true;
            self.waker.register(context.waker());
            // It may have been ended before the waker was there.
            if is_ended() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

impl Drop for EndListener {
    fn drop(&mut self) {
        self.end.listeners.lock().wakers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::Pin;

    use tokio::sync::oneshot;

    use super::*;

    async fn is_pending<T>(mut work: Pin<&mut impl Future<Output = T>>) -> bool {
        poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn the_end_of_an_epoch_ends_the_work_that_waits_and_all_that_comes_after() {
        let epoch = Epoch::first();
        let listener = epoch.listener();
        // One after the other, as statements of a connection; the second is dropped half-way.
        assert_eq!(listener.run(async { 1 }).await, Some(1));
        let (begins, begun) = oneshot::channel();
        let working = tokio::spawn(async move {
            {
                let mut given_up = pin!(listener.run(pending::<i32>()));
                assert!(is_pending(given_up.as_mut()).await);
            }
            let mut work = pin!(listener.run(pending::<i32>()));
            assert!(is_pending(work.as_mut()).await);
            begins.send(()).unwrap();
            (work.await, listener.run(async { 2 }).await)
        });
        begun.await.unwrap();
        // Renewed connections share the end with older ones.
        epoch.renewed().end(EndReason::Down);
        assert_eq!(working.await.unwrap(), (None, None));
        assert_eq!(epoch.run(async { 3 }).await, None);
        assert_eq!(epoch.replaced().run(async { 4 }).await, Some(4));
    }

    #[tokio::test]
    async fn nobody_is_remembered_who_listens_no_more() {
        let epoch = Epoch::first();
        let listener = epoch.listener();
        for _ in 0..1_000 {
            assert_eq!(epoch.run(async { 1 }).await, Some(1));
        }
        assert_eq!(epoch.end.listeners.lock().wakers.len(), 1);
        drop(listener);
        assert_eq!(epoch.end.listeners.lock().wakers.len(), 0);
    }

    #[tokio::test]
    async fn a_statement_that_has_ended_keeps_no_task_alive() {
        let listener = Epoch::first().listener();
        listener.run(tokio::task::yield_now()).await;
        assert!(listener.waker.take().is_none());
    }
}
