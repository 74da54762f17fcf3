//! What a pool knows of its connections and of those who wait for one, under one lock.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::entry::{Entry, Idle, Link};
use super::epoch::Epoch;
use crate::node::backend::Backend;

pub(super) struct State {
    pub(super) epoch: Arc<Epoch>,
    /// Those that rest, the one that was used last on top.
    pub(super) idle: Vec<Idle>,
    /// Those who have a permit and no connection, the first one first.
    pub(super) waiting: VecDeque<oneshot::Sender<Result<Entry, sqlx::Error>>>,
    /// Connections that there are, those that are being made counted too.
    pub(super) size: u32,
    pub(super) making: u32,
    /// The server's processes behind the connections.
    pub(super) backends: BTreeSet<Backend>,
    /// Until then the server takes no more connections, as it said.
    pub(super) full_until: Option<Instant>,
    pub(super) closed: bool,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            epoch: Epoch::first(),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            size: 0,
            making: 0,
            backends: BTreeSet::new(),
            full_until: None,
            closed: false,
        }
    }

    /// Takes a connection over, or returns it: it is of an older epoch, or too old, or nothing is lent
    /// any more, or it is borrowed and nobody waits.
    pub(super) fn accept(&mut self, mut entry: Entry, now: Instant) -> Option<Entry> {
        let expired = entry.expires.is_some_and(|expires| expires <= now);
        if self.closed || expired || !entry.epoch.is(&self.epoch) {
            return Some(entry);
        }
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.send(Ok(entry)) {
                Err(Ok(unclaimed)) => entry = unclaimed,
                Ok(()) | Err(Err(_)) => return None,
            }
        }
        if matches!(entry.link, Link::Borrowed(_)) {
            return Some(entry);
        }
        self.idle.push(Idle { entry, since: now });
        None
    }

    /// Takes those out that rest and are such, to be dropped when the state is not locked any more.
    pub(super) fn take_idle(&mut self, mut such: impl FnMut(&Idle) -> bool) -> Vec<Idle> {
        self.idle.extract_if(.., |idle| such(idle)).collect()
    }
}
