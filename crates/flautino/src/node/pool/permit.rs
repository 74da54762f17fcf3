//! The right to have a connection of a pool.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::NodePool;

/// The right to have a connection out.
pub(crate) struct Permit {
    pub(super) pool: Arc<NodePool>,
    /// Kept for as long as the permit.
    pub(super) budget: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// For a permit of the semaphore that was forgotten.
    pub(super) fn of(pool: Arc<NodePool>) -> Self {
        Self { pool, budget: None }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.return_permit();
    }
}
