//! The signals that a pool wants to send to its backends. All that are requested at about the same
//! time are sent together, by one task.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::node::backend::{Backend, Signal};

/// The requests of one pool.
#[derive(Default)]
pub(super) struct SignalQueue {
    state: Mutex<QueueState>,
    /// Notified of each request.
    arrived: Notify,
}

#[derive(Default)]
struct QueueState {
    requests: Vec<SignalRequest>,
    /// Whether a task takes the requests.
    has_worker: bool,
}

/// The request to signal one backend.
pub(super) struct SignalRequest {
    pub(super) backend: Backend,
    pub(super) signal: Signal,
    done: oneshot::Sender<Delivery>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Delivered,
    NotSent,
    /// It was sent, but the server did not answer, so the signal may still come.
    Unknown,
}

/// The right of one task to take a pool's requests.
pub(super) struct SignalWorker<'a> {
    queue: &'a SignalQueue,
    /// The queue was empty for long enough; the next request needs a new worker.
    is_finished: bool,
}

impl SignalQueue {
    /// Adds a request. Returns what will tell of its delivery, and whether the caller has to start a
    /// worker, because there is none.
    pub(super) fn push(
        &self,
        backend: Backend,
        signal: Signal,
    ) -> (oneshot::Receiver<Delivery>, bool) {
        let (done, delivered) = oneshot::channel();
        let needs_worker = {
            let mut state = self.state.lock();
            state.requests.push(SignalRequest { backend, signal, done });
            !std::mem::replace(&mut state.has_worker, true)
        };
        self.arrived.notify_one();
        (delivered, needs_worker)
    }

    /// For the task that [`push`](Self::push) wants to be started.
    pub(super) fn worker(&self) -> SignalWorker<'_> {
        SignalWorker { queue: self, is_finished: false }
    }
}

impl SignalRequest {
    /// Whether somebody still waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.done.is_closed()
    }

    pub(super) fn report(self, delivery: Delivery) {
        // Fails where nobody waits any more.
        let _ = self.done.send(delivery);
    }
}

impl SignalWorker<'_> {
    /// Takes all requests of the queue. Returns `None` when none came for as long as `linger`; the
    /// worker is finished then.
    pub(super) async fn next(&mut self, linger: Duration) -> Option<Vec<SignalRequest>> {
        let SignalQueue { state, arrived } = self.queue;
        loop {
            let arrived = arrived.notified();
            let batch = std::mem::take(&mut state.lock().requests);
            if !batch.is_empty() {
                return Some(batch);
            }
            if tokio::time::timeout(linger, arrived).await.is_err() {
                let mut state = state.lock();
                if state.requests.is_empty() {
                    state.has_worker = false;
                    self.is_finished = true;
                    return None;
                }
            }
        }
    }
}

impl Drop for SignalWorker<'_> {
    fn drop(&mut self) {
        // The task was dropped half-way, because the runtime ends. Dropping the requests wakes those who
        // wait for them.
        if !self.is_finished {
            let mut state = self.queue.state.lock();
            state.has_worker = false;
            state.requests.clear();
        }
    }
}
