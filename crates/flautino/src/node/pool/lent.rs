//! A connection that is out, and where it goes when it comes back.

use std::ops::Deref;
use std::sync::Arc;

use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::NodePool;
use super::entry::Entry;
use super::epoch::Epoch;
use super::permit::Permit;
use super::recovery::Recovery;

/// A connection that is out. Dropped, it is recovered, because a statement may still run on it.
pub(crate) struct PooledConnection(Option<(Entry, Permit)>);

const HAS_CONNECTION: &str = "a connection is taken out only by what drops the rest";

impl PooledConnection {
    pub(super) fn new(entry: Entry, permit: Permit) -> Self {
        Self(Some((entry, permit)))
    }

    fn both(&self) -> &(Entry, Permit) {
        self.0.as_ref().unwrap_or_else(|| unreachable!("{HAS_CONNECTION}"))
    }

    fn both_mut(&mut self) -> &mut (Entry, Permit) {
        self.0.as_mut().unwrap_or_else(|| unreachable!("{HAS_CONNECTION}"))
    }

    fn take(mut self) -> (Entry, Permit) {
        self.0.take().unwrap_or_else(|| unreachable!("{HAS_CONNECTION}"))
    }

    pub(super) fn entry(&mut self) -> &mut Entry {
        &mut self.both_mut().0
    }

    pub(super) fn epoch(&self) -> &Epoch {
        &self.both().0.epoch
    }

    pub(crate) fn pool(&self) -> &Arc<NodePool> {
        &self.both().1.pool
    }

    /// Keeps a part of a budget for as long as the permit.
    pub(crate) fn hold(&mut self, budget: Option<OwnedSemaphorePermit>) {
        self.both_mut().1.budget = budget;
    }

    /// The connection, with what ends a statement on it.
    pub(crate) fn parts(&mut self) -> (&mut PgConnection, &Arc<Epoch>, &Arc<NodePool>) {
        let (entry, permit) = self.both_mut();
        (&mut entry.link, &entry.epoch, &permit.pool)
    }

    /// Gives it back: nothing runs on it, and its session is as it was.
    pub(crate) fn release(self) {
        let (entry, permit) = self.take();
        if permit.pool.hooks.after_release.is_some() {
            NodePool::start_recovery(entry, permit, Recovery::Hook);
        } else {
            permit.pool.take_back(entry);
        }
    }

    /// Gives it back after its session is reset.
    pub(crate) fn reset(self) {
        let (entry, permit) = self.take();
        NodePool::reset(entry, permit);
    }

    /// Closes the socket without a word to the server, which notices by itself. Returns the permit, for
    /// one who takes another connection in its place.
    pub(crate) fn discard(self) -> Permit {
        let (entry, permit) = self.take();
        permit.pool.discard(entry);
        permit
    }

    /// Takes it out of the pool for good; its place and its permit are free.
    pub(crate) fn detach(self) -> PgConnection {
        let (entry, permit) = self.take();
        permit.pool.detached(entry)
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some((entry, permit)) = self.0.take() {
            NodePool::recover(entry, permit);
        }
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.both().0.link
    }
}
