//! That a connection is in use.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::NodePool;
use super::managed::{DriverConnection, ManagedConnection};

/// Counts a connection as in use, for as long as it is checked out or recovered after that.
pub(crate) struct Slot {
    pub(super) pool: Arc<NodePool>,
    /// A permit of the budget for reads on the primary, given back together with this one.
    pub(super) budget: Option<OwnedSemaphorePermit>,
    /// Since when a caller has it. `None` until the checkout has succeeded.
    lent: Option<Instant>,
    /// `false` when the pool was told that the connection is not in use any more.
    is_counted: bool,
}

impl Slot {
    /// Stands for a connection that is counted as in use already.
    pub(super) fn counted(pool: &Arc<NodePool>) -> Self {
        Self { pool: Arc::clone(pool), budget: None, lent: None, is_counted: true }
    }

    /// The caller gets the connection now.
    pub(super) fn lend(&mut self, now: Instant) {
        self.lent = Some(now);
    }

    /// Gives a clean connection back: to the pool, or to the external pool that it came from.
    pub(super) fn give_back(mut self, managed: Box<ManagedConnection>) {
        let (pool, now) = (&self.pool, Instant::now());
        let refused = {
            let mut state = pool.state.lock();
            let refused = match managed.connection {
                DriverConnection::Own(_) => state.accept(managed, now),
                DriverConnection::External(_) => Some(managed),
            };
            if refused.is_none() {
                pool.leave(&mut state);
                self.is_counted = false;
            }
            refused
        };
        match refused {
            None => self.tell_use(|| now),
            // It counts until it is on its way out.
            Some(managed) => pool.retire(managed),
        }
    }

    /// Others can have the connection again.
    fn tell_use(&self, now: impl FnOnce() -> Instant) {
        if let Some(lent) = self.lent {
            self.pool.server.metrics.used(|| now().saturating_duration_since(lent));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_counted {
            self.pool.leave(&mut self.pool.state.lock());
            self.tell_use(Instant::now);
        }
    }
}
