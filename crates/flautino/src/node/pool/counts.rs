//! The numbers of a pool, for the status.

use std::sync::atomic::Ordering;

use super::managed::Idle;
use super::{Connector, NodePool};

/// The numbers of a pool's connections and callers, for the status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// All connections: idle, in use, and being made.
    pub(crate) size: u32,
    pub(crate) idle: usize,
    /// Idle connections that were used within `warm_time`, and so are checked out without a ping.
    pub(crate) warm: usize,
    /// Connections that are checked out, or are being recovered after that.
    pub(crate) in_use: u32,
    pub(crate) connecting: u32,
    /// Callers who wait for a connection.
    pub(crate) waiting: u32,
}

impl NodePool {
    pub(crate) fn counts(&self) -> Counts {
        let state = self.state.lock();
        let queued = u32::try_from(state.queue.len()).unwrap_or(u32::MAX);
        let free = u32::try_from(self.connect_permits.available_permits()).unwrap_or(u32::MAX);
        // Not `state.pending`, which counts also those that have no permit to connect yet.
        let connecting = self.config.connect_concurrency.saturating_sub(free);
        let is_warm = |idle: &&Idle| self.is_warm(idle.since);
        let mut counts = Counts {
            size: state.size.saturating_sub(state.pending) + connecting,
            idle: state.idle.len(),
            warm: state.idle.iter().filter(is_warm).count(),
            in_use: state.in_use,
            connecting,
            waiting: queued + self.waiting_outside.load(Ordering::Relaxed),
        };
        if let Connector::External(pool) = &self.connector {
            (counts.size, counts.idle) = (pool.size(), pool.num_idle());
        }
        counts
    }
}
