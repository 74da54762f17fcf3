//! A checked-out connection, guarded: what is known of it decides where it goes when it is dropped.
//!
//! - here: the guard
//! - `statement`: what is sent over it; `executor`: sqlx's `Executor` in front of that
//! - `tracker`: what the session learns of it
//! - `cancel`, `pooler`: what ends a statement early; what wraps one behind PgBouncer

mod cancel;
pub(crate) mod executor;
mod pooler;
mod statement;
mod tracker;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{Connection, PgConnection};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;
use tokio::sync::OwnedSemaphorePermit;

use self::cancel::{Cancellation, run_cancellable};
use self::executor::executor_through;
pub(crate) use self::tracker::{Decisions, Tracker, Tracking};
use crate::logging::Values;
use crate::node::{InFlight, Node, PooledConnection};
use crate::sql::Classifier;

/// How long a write that is under way may still answer after its node turned down, because a server
/// that shuts down says what became of it.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// One connection of a node, for what needs the same session from one statement to the next:
/// `COPY`, advisory locks, temporary tables, session settings.
///
/// Statements go through `&mut lease`, or through the [`PgConnection`] it dereferences to. When
/// the lease is dropped the session is reset (`RESET ALL`, locks, cursors, temporary tables)
/// before anyone else gets the connection; if a statement was under way, that is cancelled at the
/// server first.
///
/// ```no_run
/// # async fn f(engine: flautino::Engine) -> Result<(), sqlx::Error> {
/// let mut lease = engine.handle().acquire().await?;
/// sqlx::query("SELECT pg_advisory_lock(1)").execute(&mut lease).await?;
/// # Ok(()) }
/// ```
pub struct Lease {
    /// `None` only while it is being dropped.
    connection: Option<LeasedConnection>,
    state: LeaseState,
    node: Arc<Node>,
    /// Whether a transaction of ours is open, so that a pooler keeps the server by itself.
    in_transaction: bool,
    /// The statement under way is wrapped in a transaction, for a pooler.
    wrapped: bool,
    /// Whether a refused write says that the server is no primary (any more).
    expects_writes: bool,
    /// What went wrong on it, for the transaction that holds it.
    pub(crate) failures: Failures,
    pub(crate) tracker: Option<Tracker>,
    _in_flight: InFlight,
}

enum LeasedConnection {
    Pooled(PooledConnection),
    /// Before `open`: a connection of its own.
    Single(PgConnection),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    /// Nothing under way, and nothing left behind in the session.
    Clean,
    /// Nothing under way as far as is known, but the session may not be as it was.
    Used,
    /// A statement was sent and its result is not read to the end.
    Busy,
    /// The connection is lost, or keeps a statement prepared that does not fit its tables any more.
    Unusable,
}

/// What went wrong on a lease.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Failures {
    /// Some statement failed, or its end was not seen: a transaction is aborted, or may be.
    pub(crate) any: bool,
    /// One failed with 40001 or 40P01, or the connection was lost: the whole transaction may be tried
    /// again, unless its `COMMIT` was sent.
    pub(crate) retryable: bool,
    /// The bare connection was handed out, so there may be failures that were not seen.
    pub(crate) unwatched: bool,
}

impl Lease {
    pub(crate) async fn checkout(node: &Arc<Node>) -> Result<Self, sqlx::Error> {
        Self::checkout_while(node, || true).await
    }

    /// As [`checkout`](Lease::checkout), and fails at once where the node is found to be down just
    /// now.
    pub(crate) async fn checkout_while(
        node: &Arc<Node>,
        up: impl FnOnce() -> bool,
    ) -> Result<Self, sqlx::Error> {
        let in_flight = node.gauges.enter();
        let connection = match node.pool()? {
            Some(pool) => LeasedConnection::Pooled(pool.checkout(up).await?),
            None => LeasedConnection::Single(node.connect().await?),
        };
        Ok(Self {
            connection: Some(connection),
            state: LeaseState::Clean,
            node: Arc::clone(node),
            in_transaction: false,
            wrapped: false,
            expects_writes: true,
            failures: Failures::default(),
            tracker: None,
            _in_flight: in_flight,
        })
    }

    /// The name of the node it is connected to.
    #[must_use]
    pub fn node(&self) -> &str {
        self.node.name()
    }

    /// Takes the connection out of the pool for good: its place there is free for another, and what
    /// becomes of it is yours. `close` of the engine does not wait for it.
    #[must_use]
    pub fn detach(mut self) -> PgConnection {
        match self.connection.take() {
            Some(LeasedConnection::Pooled(connection)) => connection.detach(),
            Some(LeasedConnection::Single(connection)) => connection,
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }

    /// Closes the connection, and so ends its session and what that holds.
    ///
    /// # Errors
    ///
    /// What the connection says to the goodbye; it is closed all the same.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the socket is closed without a goodbye.
    pub async fn close(self) -> Result<(), sqlx::Error> {
        self.detach().close().await
    }

    /// From now on whatever happened in the session counts as unknown.
    pub(crate) fn mark_used(&mut self) {
        if self.state == LeaseState::Clean {
            self.state = LeaseState::Used;
        }
    }

    /// Guards a step of the transaction manager as [`Lease::run`] guards a statement.
    pub(crate) async fn control<T>(
        &mut self,
        sql: &str,
        step: impl for<'a> FnOnce(&'a mut PgConnection) -> BoxFuture<'a, Result<T, sqlx::Error>> + Send,
    ) -> Result<T, sqlx::Error> {
        self.finish_abandoned().await?;
        let before = self.begin_use();
        let (connection, node, cancellation) = self.parts();
        let log_entry = node.server.sender.logger.sending(node.name(), sql, Values::None, None);
        let result = run_cancellable(cancellation, step(connection)).await;
        log_entry.finish(&result);
        self.end_use(before, false, &result);
        result
    }

    /// Queues the rollback of sqlx's innermost level; it is sent before the next statement.
    pub(crate) fn queue_rollback(&mut self, sql: &str) {
        let (connection, node, _) = self.parts();
        // Its end is not seen, since it is sent with the next statement.
        let _entry = node.server.sender.logger.sending(node.name(), sql, Values::None, None);
        PgTransactionManager::start_rollback(connection);
    }

    /// A transaction of ours was opened on it, or is over.
    pub(crate) fn set_in_transaction(&mut self, open: bool, read_only: bool) {
        self.in_transaction = open;
        self.expects_writes = !read_only;
        if !open && let Some(tracker) = &mut self.tracker {
            tracker.ended();
        }
    }

    /// Keeps a part of the primary's budget for reads that replicas should have served, for as long
    /// as it keeps its permit.
    pub(crate) fn hold(&mut self, budget: Option<OwnedSemaphorePermit>) {
        if let Some(LeasedConnection::Pooled(connection)) = &mut self.connection {
            connection.hold(budget);
        }
    }

    /// What runs on it is known to be a read, so that a refusal says nothing about the server.
    pub(crate) fn expect_reads(&mut self) {
        self.expects_writes = false;
    }

    /// Whether the router, and not the user, chose a replica.
    pub(crate) fn was_routed_to_replica(&self) -> bool {
        let is_routed = |tracker: &Tracker| tracker.reason().is_routed();
        self.node.server.is_replica() && self.tracker.as_ref().is_some_and(is_routed)
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        self.node.classifier()
    }

    fn parts(&mut self) -> (&mut PgConnection, &Node, Option<Cancellation<'_>>) {
        let grace = if self.expects_writes { SHUTDOWN_GRACE } else { Duration::ZERO };
        match self.connection.as_mut() {
            Some(LeasedConnection::Pooled(pooled)) => {
                let (connection, epoch, pool) = pooled.parts();
                (connection, &self.node, Some(Cancellation { epoch, pool, grace }))
            }
            Some(LeasedConnection::Single(connection)) => (connection, &self.node, None),
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }
}

executor_through!(&'c mut Lease, |lease, _statement| {
    lease.mark_used();
    Ok(lease)
});

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self.connection.as_ref() {
            Some(LeasedConnection::Pooled(connection)) => connection,
            Some(LeasedConnection::Single(connection)) => connection,
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.mark_used();
        self.failures.unwatched = true;
        if let Some(tracker) = &mut self.tracker {
            tracker.unwatched();
        }
        self.parts().0
    }
}

impl AsMut<PgConnection> for Lease {
    fn as_mut(&mut self) -> &mut PgConnection {
        self
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(tracker) = &mut self.tracker
            && self.state != LeaseState::Busy
        {
            tracker.ended();
        }
        let connection = match self.connection.take() {
            Some(LeasedConnection::Pooled(connection)) => connection,
            // Closing the socket ends the session, so that nothing of it stays behind.
            Some(LeasedConnection::Single(_)) | None => return,
        };
        match self.state {
            // What was sent may still run, so dropping the connection recovers it.
            LeaseState::Busy => drop(connection),
            LeaseState::Unusable => drop(connection.discard()),
            LeaseState::Clean if !self.in_transaction => connection.release(),
            LeaseState::Clean | LeaseState::Used => connection.reset(),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("node", self.node.name())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
