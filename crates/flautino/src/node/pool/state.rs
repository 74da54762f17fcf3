//! What a pool knows of its connections and of those who wait for one, under one lock.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::epoch::Epoch;
use super::managed::{Idle, ManagedConnection};
use crate::node::backend::Backend;

pub(super) struct PoolState {
    pub(super) epoch: Arc<Epoch>,
    /// A stack: the connection that was used last is on top.
    pub(super) idle: Vec<Idle>,
    /// Callers who have a permit and no connection yet, the longest waiting one first.
    pub(super) waiting: VecDeque<oneshot::Sender<Result<Box<ManagedConnection>, sqlx::Error>>>,
    /// All connections of the pool: idle, checked out, and pending.
    pub(super) size: u32,
    /// How many connections tasks are making, or will make when `connect_permits` allows it.
    pub(super) pending: u32,
    /// The server processes behind the connections.
    pub(super) backends: BTreeSet<Backend>,
    /// The server said that it takes no more connections; it is not asked again before this, as long as
    /// the pool has connections that its callers can share.
    pub(super) full_until: Option<Instant>,
    /// What the server said so with, while it is not known whether the pool gets any connection at all.
    pub(super) refusals: Vec<sqlx::Error>,
    pub(super) closed: bool,
}

impl PoolState {
    pub(super) fn new() -> Self {
        Self {
            epoch: Epoch::first(),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            size: 0,
            pending: 0,
            backends: BTreeSet::new(),
            full_until: None,
            refusals: Vec::new(),
            closed: false,
        }
    }

    /// Whether the pool has a connection that may be given back.
    pub(super) fn has_any(&self) -> bool {
        self.size > self.pending
    }

    /// Whether to make do with the connections that there are, because the server takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.has_any() && self.full_until.is_some_and(|until| Instant::now() < until)
    }

    /// Gives an error to the longest waiting caller. Returns it if nobody waits.
    pub(super) fn fail_next(&mut self, error: sqlx::Error) -> Option<sqlx::Error> {
        let mut result = Err(error);
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.send(result) {
                Ok(()) => return None,
                Err(unclaimed) => result = unclaimed,
            }
        }
        result.err()
    }

    /// Hands a clean connection to the longest waiting caller, else puts it on the stack.
    ///
    /// Returns the connection if it must not be kept: it is of an older epoch or too old, or the pool is
    /// closed.
    pub(super) fn accept(
        &mut self,
        mut managed: Box<ManagedConnection>,
        now: Instant,
    ) -> Option<Box<ManagedConnection>> {
        let expired = managed.expires.is_some_and(|expires| expires <= now);
        if self.closed || expired || !managed.epoch.is(&self.epoch) {
            return Some(managed);
        }
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.send(Ok(managed)) {
                Err(Ok(unclaimed)) => managed = unclaimed,
                Ok(()) | Err(Err(_)) => return None,
            }
        }
        self.idle.push(Idle { managed, since: now });
        None
    }

    /// Takes out the idle connections that `matches` selects. The caller must drop them only after it
    /// has unlocked the state, since each unregisters itself there.
    pub(super) fn take_idle(&mut self, mut matches: impl FnMut(&Idle) -> bool) -> Vec<Idle> {
        self.idle.extract_if(.., |idle| matches(idle)).collect()
    }
}
