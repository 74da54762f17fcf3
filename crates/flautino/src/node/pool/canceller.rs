//! Who waits for what to be cancelled at the server. All that is wanted at one time is carried out
//! together, by one task.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::node::backend::{Backend, Stop};

/// The orders of one pool.
#[derive(Default)]
pub(super) struct Canceller {
    orders: Mutex<Orders>,
    arrived: Notify,
}

#[derive(Default)]
struct Orders {
    waiting: Vec<Order>,
    /// Whether a task carries them out.
    is_served: bool,
}

/// Stops what one process of the server runs.
pub(super) struct Order {
    pub(super) backend: Backend,
    pub(super) stop: Stop,
    done: oneshot::Sender<Ordered>,
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ordered {
    Done,
    NotSent,
    /// It was sent, and may still be carried out.
    Unanswered,
}

/// The right to carry out the orders of a pool.
pub(super) struct Serving<'a> {
    canceller: &'a Canceller,
    /// Nobody waits, and the next order begins another task.
    is_over: bool,
}

impl Canceller {
    /// Adds an order. Returns what will tell of its end, and whether a task has to be started that
    /// carries it out.
    pub(super) fn push(&self, backend: Backend, stop: Stop) -> (oneshot::Receiver<Ordered>, bool) {
        let (done, is_done) = oneshot::channel();
        let is_first = {
            let mut orders = self.orders.lock();
            orders.waiting.push(Order { backend, stop, done });
            !std::mem::replace(&mut orders.is_served, true)
        };
        self.arrived.notify_one();
        (is_done, is_first)
    }

    /// For the task that [`push`](Self::push) asks for.
    pub(super) fn serve(&self) -> Serving<'_> {
        Serving { canceller: self, is_over: false }
    }
}

impl Order {
    /// Whether somebody still waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.done.is_closed()
    }

    pub(super) fn tell(self, ordered: Ordered) {
        // Fails where nobody waits any more.
        let _ = self.done.send(ordered);
    }
}

impl Serving<'_> {
    /// The orders that wait now. `None` when none came for this long; the serving is over then.
    pub(super) async fn next(&mut self, patience: Duration) -> Option<Vec<Order>> {
        let Canceller { orders, arrived } = self.canceller;
        loop {
            let arrived = arrived.notified();
            let batch = std::mem::take(&mut orders.lock().waiting);
            if !batch.is_empty() {
                return Some(batch);
            }
            if tokio::time::timeout(patience, arrived).await.is_err() {
                let mut orders = orders.lock();
                if orders.waiting.is_empty() {
                    orders.is_served = false;
                    self.is_over = true;
                    return None;
                }
            }
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        // The task ended before its time, because the runtime ends. Those who wait are told by this.
        if !self.is_over {
            let mut orders = self.canceller.orders.lock();
            orders.is_served = false;
            orders.waiting.clear();
        }
    }
}
