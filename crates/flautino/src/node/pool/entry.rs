//! A connection of a pool, and what is known of it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres};

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

/// Has places for connections.
pub(super) trait Places: Send + Sync {
    /// A connection is closed, and its place is free.
    fn give_up(self: Arc<Self>, backend: Option<Backend>);
}

/// A connection's place in its pool, from before it is made until it is closed.
///
/// It must not be dropped while the pool's state is locked.
pub(super) struct Place {
    pub(super) pool: Weak<dyn Places>,
    /// The server's process behind it, where it said so.
    pub(super) backend: Option<Backend>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give_up(self.backend);
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
