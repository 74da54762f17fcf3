//! A connection of a pool: what is known of it, and who has it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres};
use tokio::sync::OwnedSemaphorePermit;

use super::NodePool;
use super::epoch::Epoch;
use crate::node::backend::Backend;

/// A connection, and what the pool knows of it.
pub(super) struct Entry {
    pub(super) link: Link,
    pub(super) epoch: Arc<Epoch>,
    /// When it is too old to be lent again.
    pub(super) expires: Option<Instant>,
    /// The hook for new sessions has not run, or the session was reset since.
    pub(super) is_new: bool,
    pub(super) place: Place,
}

pub(super) enum Link {
    /// The engine's own.
    Own(PgConnection),
    /// Out of a pool that was made elsewhere.
    Borrowed(Box<PoolConnection<Postgres>>),
}

/// An entry that rests, and since when.
pub(super) struct Idle {
    pub(super) entry: Entry,
    pub(super) since: Instant,
}

/// What a connection takes of the pool's size, until it is closed.
///
/// Not to be dropped while the pool's state is locked.
pub(super) struct Place {
    pub(super) pool: Weak<NodePool>,
    /// The server's process behind it, where it said so.
    pub(super) backend: Option<Backend>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give_up_place(self.backend);
        }
    }
}

/// The right to have a connection out.
pub(super) struct Permit {
    pub(super) pool: Arc<NodePool>,
    /// Kept for as long as the permit.
    budget: Option<OwnedSemaphorePermit>,
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

/// A connection that is out. Dropped, it is recovered, as if a statement ran on it still.
pub(crate) struct PooledConnection(Option<(Entry, Permit)>);

impl PooledConnection {
    pub(super) fn new(entry: Entry, permit: Permit) -> Self {
        Self(Some((entry, permit)))
    }

    pub(super) fn entry(&mut self) -> &mut Entry {
        match &mut self.0 {
            Some((entry, _)) => entry,
            None => unreachable!("it has its connection until it is dropped"),
        }
    }

    fn shared(&self) -> &(Entry, Permit) {
        match &self.0 {
            Some(both) => both,
            None => unreachable!("it has its connection until it is dropped"),
        }
    }

    pub(super) fn epoch(&self) -> &Epoch {
        &self.shared().0.epoch
    }

    pub(crate) fn pool(&self) -> &Arc<NodePool> {
        &self.shared().1.pool
    }

    /// Keeps a part of a budget for as long as the permit.
    pub(crate) fn hold(&mut self, budget: Option<OwnedSemaphorePermit>) {
        if let Some((_, permit)) = &mut self.0 {
            permit.budget = budget;
        }
    }

    /// The connection, with what ends a statement on it.
    pub(crate) fn parts(&mut self) -> (&mut PgConnection, &Arc<Epoch>, &Arc<NodePool>) {
        match &mut self.0 {
            Some((entry, permit)) => (&mut entry.link, &entry.epoch, &permit.pool),
            None => unreachable!("it has its connection until it is dropped"),
        }
    }

    /// Gives it back: nothing runs on it, and its session is as it was.
    pub(crate) fn release(mut self) {
        if let Some((entry, permit)) = self.0.take() {
            NodePool::release(entry, permit);
        }
    }

    /// Gives it back after its session is reset.
    pub(crate) fn wash(mut self) {
        if let Some((entry, permit)) = self.0.take() {
            NodePool::wash(entry, permit);
        }
    }

    /// Closes the socket without a word to the server, which notices by itself.
    pub(crate) fn discard(mut self) {
        if let Some((entry, permit)) = self.0.take() {
            permit.pool.discard(entry);
        }
    }

    /// As [`discard`](Self::discard), for one who takes another in its place.
    pub(super) fn exchange(mut self) -> Option<Permit> {
        let (entry, permit) = self.0.take()?;
        permit.pool.discard(entry);
        Some(permit)
    }

    /// Takes it out of the pool for good; its place and its permit are free.
    pub(crate) fn detach(mut self) -> PgConnection {
        match self.0.take() {
            Some((entry, permit)) => permit.pool.detached(entry),
            None => unreachable!("it has its connection until it is dropped"),
        }
    }
}

impl Entry {
    /// Whether the server answers within the time.
    pub(super) async fn answers(&mut self, timeout: Duration) -> bool {
        let answer = tokio::time::timeout(timeout, self.link.ping()).await;
        matches!(answer, Ok(Ok(())))
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
        &self.shared().0.link
    }
}

impl Deref for Link {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Borrowed(connection) => connection,
        }
    }
}

impl DerefMut for Link {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Borrowed(connection) => connection,
        }
    }
}
