//! The right to have one connection of a pool checked out.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::NodePool;

/// One permit of the pool's semaphore, given back when this is dropped. It is held for as long as a
/// connection is waited for, checked out, or recovered after that.
pub(crate) struct Permit {
    pub(super) pool: Arc<NodePool>,
    /// A permit of the budget for reads on the primary, given back together with this one.
    pub(super) budget: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Stands for a permit of the semaphore that the caller has acquired and forgotten.
    pub(super) fn of(pool: Arc<NodePool>) -> Self {
        Self { pool, budget: None }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.return_permit();
    }
}
