//! What a pool knows of its connections and of those who wait for one, under one lock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::demand::Demand;
use super::epoch::Epoch;
use super::managed::{Idle, ManagedConnection};
use super::queue::Queue;
use crate::node::backend::Backend;
use crate::node::settings::Settings;

pub(super) struct PoolState {
    pub(super) epoch: Arc<Epoch>,
    /// A stack: the connection that was used last is on top.
    pub(super) idle: Vec<Idle>,
    /// The most connections that the pool may have. It has more for a while after this was lowered.
    pub(super) max: u32,
    /// Empty while a connection is idle.
    pub(super) queue: Queue,
    /// All connections of the pool: idle, in use, and pending.
    pub(super) size: u32,
    /// How many connections are checked out, or recovered after that.
    pub(super) in_use: u32,
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
    pub(super) fn new(max: u32) -> Self {
        Self {
            epoch: Epoch::first(),
            idle: Vec::new(),
            max,
            queue: Queue::default(),
            size: 0,
            in_use: 0,
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

    /// Checks out the connection that was used last. One that carries the settings already comes first, if it is
    /// warm.
    pub(super) fn take(
        &mut self,
        demand: &Demand,
        is_warm: impl Fn(&Idle) -> bool,
    ) -> Option<Idle> {
        let wanted = demand.settings.as_ref();
        let suits = |idle: &Idle| Settings::are_carried(wanted, idle.managed.settings.as_ref());
        let top = self.idle.last()?;
        let idle = if suits(top) {
            self.idle.pop()?
        } else {
            let suiting = self.idle.iter().rposition(suits);
            let suiting = suiting.filter(|number| is_warm(&self.idle[*number]));
            self.idle.remove(suiting.unwrap_or(self.idle.len() - 1))
        };
        self.in_use += 1;
        Some(idle)
    }

    /// Hands a clean connection to the first caller in the queue, else puts it on the stack.
    ///
    /// Returns the connection if it must not be kept: it is of an older epoch or too old, or the pool has too many
    /// or is closed.
    pub(super) fn accept(
        &mut self,
        managed: Box<ManagedConnection>,
        now: Instant,
    ) -> Option<Box<ManagedConnection>> {
        let expired = managed.expires.is_some_and(|expires| expires <= now);
        if self.closed || expired || self.size > self.max || !managed.epoch.is(&self.epoch) {
            return Some(managed);
        }
        match self.queue.hand(Ok(managed)) {
            Err(Ok(managed)) => self.idle.push(Idle { managed, since: now }),
            Ok(()) | Err(Err(_)) => self.in_use += 1,
        }
        None
    }

    /// Takes out the idle connections that `matches` selects. The caller must drop them only after it
    /// has unlocked the state, since each unregisters itself there.
    pub(super) fn take_idle(&mut self, mut matches: impl FnMut(&Idle) -> bool) -> Vec<Idle> {
        self.idle.extract_if(.., |idle| matches(idle)).collect()
    }
}
