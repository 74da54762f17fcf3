//! A connection of a pool, and what the pool knows of it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres};

use super::epoch::{EndListener, Epoch};
use crate::node::backend::Backend;
use crate::node::settings::Settings;

/// A connection of a pool, idle or checked out, and what the pool knows of it.
pub(super) struct ManagedConnection {
    pub(super) connection: DriverConnection,
    /// The epoch in which it was made. In a later one it is not checked out again.
    pub(super) epoch: Arc<Epoch>,
    /// Ends its statements with the epoch.
    pub(super) end: EndListener,
    /// When `max_lifetime` is over; it is not checked out again after that.
    pub(super) expires: Option<Instant>,
    /// The session is as the server made it: `after_connect` has to run before the next checkout.
    pub(super) is_new: bool,
    /// The session may know which values of sequences it got, for `currval` and `lastval`.
    pub(super) has_advanced: bool,
    /// The settings of a handle that the session has in force, beside its own.
    pub(super) settings: Option<Arc<Settings>>,
    pub(super) registration: Registration,
}

/// sqlx's connection.
pub(super) enum DriverConnection {
    /// Made by this pool.
    Own(PgConnection),
    /// Taken from an external pool; see [`Connector::External`](super::Connector::External).
    External(Box<PoolConnection<Postgres>>),
}

/// A connection on the stack of idle ones.
pub(super) struct Idle {
    pub(super) managed: Box<ManagedConnection>,
    /// When it was last given back.
    pub(super) since: Instant,
}

/// What a [`Registration`] reports to: the pool, behind a trait so that this file needs no pool.
pub(super) trait Registry: Send + Sync {
    /// A connection is closed and does not count any more, so that another one may be made.
    fn unregister(self: Arc<Self>, backend: Option<Backend>);
}

/// Counts a connection in its pool's size until it is closed. One of an external pool is counted there.
///
/// Dropping it locks the pool's state, so it must not be dropped while that is locked.
pub(super) struct Registration {
    pub(super) pool: Weak<dyn Registry>,
    /// The server process behind the connection. `None` where the server does not tell it, and for a
    /// connection of an external pool.
    pub(super) backend: Option<Backend>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.unregister(self.backend);
        }
    }
}

impl ManagedConnection {
    /// Pings the server. Returns whether it answered in time.
    pub(super) async fn answers(&mut self, timeout: Duration) -> bool {
        let answer = tokio::time::timeout(timeout, self.connection.ping()).await;
        matches!(answer, Ok(Ok(())))
    }
}

impl DriverConnection {
    /// Closes it and tells the server so.
    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Own(connection) => connection.close().await,
            Self::External(connection) => connection.close().await,
        }
    }
}

impl Deref for DriverConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::External(connection) => connection,
        }
    }
}

impl DerefMut for DriverConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::External(connection) => connection,
        }
    }
}
