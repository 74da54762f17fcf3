//! The guard of a checked-out connection. It knows whether a statement is under way and whether the
//! session may have changed, which decides how the connection is given back.
//!
//! - here: the guard
//! - `statement`: how a statement is sent over it
//! - `source`: how one is run again, where sqlx remembered what is outdated
//! - `rows`: a result that is read as a stream
//! - `executor`: sqlx's `Executor` over a lease, a handle or a transaction
//! - `timed`, `span`: how long a statement takes; the span around it
//! - `settings`, `commands`: what a handle's statements run with; several commands in one message
//! - `tracker`: what the handle's session learns of the statements
//! - `cancel`: what ends a statement early
//! - `pooler`: the transaction around a statement behind PgBouncer

mod cancel;
mod commands;
pub(crate) mod executor;
mod pooler;
mod rows;
mod settings;
mod source;
mod span;
mod statement;
mod timed;
mod tracker;

use std::fmt;
use std::future::ready;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_core::future::BoxFuture;
use sqlx::{Acquire, Connection, PgConnection, Postgres, SqlStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;
use tokio::sync::OwnedSemaphorePermit;

pub(crate) use self::cancel::Step;
use self::cancel::{Cancellation, run_cancellable, run_unwatched};
pub(crate) use self::commands::Commands;
use self::executor::executor_through;
pub(crate) use self::rows::{FailedRows, Item, Rows};
use self::timed::Timed;
pub(crate) use self::tracker::{Tracker, Tracking};
use crate::logging::Values;
pub(crate) use crate::node::Settings;
use crate::node::{ConnectionParts, Demand, InFlight, Node, PooledConnection};
use crate::sql::{Classifier, SchemaChange};
use crate::sqlstate::{QUERY_CANCELED, has_code};
use crate::statement::ToSend;

/// Makes a session forget which values of sequences it got.
pub(crate) const DISCARD_SEQUENCES: &str = "DISCARD SEQUENCES";

/// One connection of a node, for what needs the same session from one statement to the next:
/// `COPY`, advisory locks, temporary tables, session settings.
///
/// Statements go through `&mut lease`, or through the [`PgConnection`] it dereferences to. When
/// the lease is dropped the session is reset (`RESET ALL`, locks, cursors, temporary tables)
/// before anyone else gets the connection; if a statement was under way, that is cancelled at the
/// server first. So it is when the lease goes on after a statement that was given up (by a timeout,
/// say); where the server does not end it within a second, the next one fails with
/// [`Error::NotEnded`](crate::Error::NotEnded).
///
/// ```no_run
/// # async fn f(engine: flautino::Engine) -> Result<(), sqlx::Error> {
/// let mut lease = engine.handle().acquire().await?;
/// sqlx::query("SELECT pg_advisory_lock(1)").execute(&mut lease).await?;
/// # Ok(()) }
/// ```
pub struct Lease {
    /// `None` only while the lease is dropped, detached or closed.
    connection: Option<LeasedConnection>,
    state: LeaseState,
    node: InFlight,
    /// Whether a [`Transaction`](crate::Transaction) is open, so that PgBouncer keeps one server for it.
    in_transaction: bool,
    /// Whether the statement under way is wrapped in a transaction of its own, for PgBouncer.
    wrapped: bool,
    /// sqlx remembers prepared statements or types that the session does not have any more, and has to
    /// forget them before the next statement.
    outdated: bool,
    /// Whether a write is expected, so that one that is refused as read-only means that the server is not
    /// the primary any more.
    expects_writes: bool,
    /// What went wrong on the lease, for the transaction that holds it.
    pub(crate) failures: Failures,
    /// Set by `dispatch`, right after the checkout.
    pub(crate) tracker: Option<Tracker>,
    /// What `currval` and `lastval` say is of this lease, and not of a former user of the connection.
    owns_sequences: bool,
    /// A statement of the lease changes functions, triggers or views, or may.
    schema_change: Option<SchemaChange>,
    /// The statement under way, or that was given up.
    timed: Option<Timed>,
    /// Until when its statements may take.
    deadline: Option<Instant>,
    /// What a connection outside a pool has in force; one of a pool knows it itself.
    settings: Option<Arc<Settings>>,
    /// What each statement has in force in a transaction of its own, where others use the session too.
    local_settings: Option<Arc<Settings>>,
}

enum LeasedConnection {
    Pooled(PooledConnection),
    /// Made for this lease, because the engine is not open yet.
    Single(PgConnection),
}

/// What is known of the connection, and so how it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    /// No statement is under way, and the session is unchanged.
    Clean,
    /// No statement of the lease is under way, but the session may have changed.
    Used,
    /// A statement was sent, and its result is not read to the end. Whoever waited for it gave it up, if
    /// the lease is free.
    Busy,
    /// A stream gave out rows and was then dropped: nobody wants the rest, but nobody gave up waiting.
    HalfRead,
    /// The connection is lost.
    Unusable,
}

impl LeaseState {
    /// Whether the rest of a result has still to be read.
    fn is_pending(self) -> bool {
        matches!(self, Self::Busy | Self::HalfRead)
    }
}

/// What went wrong on a lease.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Failures {
    /// A statement failed, or its result was not read to the end, so an open transaction may have failed.
    pub(crate) any: bool,
    /// A statement failed with 40001 or 40P01 or was outdated, or the connection was lost. The whole
    /// transaction may be run again, unless its `COMMIT` was sent.
    pub(crate) retryable: bool,
    /// The app got the connection itself, so statements may have failed without the lease's knowledge.
    pub(crate) unwatched: bool,
}

impl Lease {
    /// Leases the connection that was used last, if nothing has to be waited for. Settings that are demanded are not
    /// put in force here.
    pub(crate) fn warm(node: &Arc<Node>, demand: &Demand) -> Option<Self> {
        let connection = node.pool().ok()??.checkout_warm(demand)?;
        Some(Self::new(LeasedConnection::Pooled(connection), InFlight::on(node)))
    }

    /// Leases a connection. Fails at once if `is_up` says that the node is down and a connection would
    /// have to be waited for.
    pub(crate) async fn checkout(
        node: &Arc<Node>,
        demand: &Demand,
        is_up: impl Fn() -> bool,
    ) -> Result<Self, sqlx::Error> {
        let node = InFlight::on(node);
        let connection = match node.pool()? {
            Some(pool) => LeasedConnection::Pooled(pool.checkout(demand, is_up).await?),
            None => {
                LeasedConnection::Single(Box::pin(node.connect(demand.acquire_timeout())).await?)
            }
        };
        Ok(Self::new(connection, node))
    }

    fn new(connection: LeasedConnection, node: InFlight) -> Self {
        Self {
            connection: Some(connection),
            state: LeaseState::Clean,
            node,
            in_transaction: false,
            wrapped: false,
            outdated: false,
            expects_writes: true,
            failures: Failures::default(),
            tracker: None,
            owns_sequences: false,
            schema_change: None,
            timed: None,
            deadline: None,
            settings: None,
            local_settings: None,
        }
    }

    /// Its statements end by then. Steps of a transaction, such as `COMMIT`, take their time.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// The name of the node it is connected to.
    #[must_use]
    pub fn node(&self) -> &str {
        self.node.name()
    }

    /// Whether the session behind it is shared with other clients.
    #[cfg(feature = "migrate")]
    pub(crate) fn is_behind_pooler(&self) -> bool {
        self.node.server.sender.is_pooler
    }

    /// Takes the connection out of the pool for good, as sqlx's `PoolConnection::detach` does. The pool
    /// may make another one in its place, and [`Engine::close`](crate::Engine::close) does not wait for
    /// this one.
    #[must_use]
    pub fn detach(mut self) -> PgConnection {
        match self.connection.take() {
            Some(LeasedConnection::Pooled(connection)) => connection.detach(),
            Some(LeasedConnection::Single(connection)) => connection,
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }

    /// Closes the connection, which ends its session and releases what the session holds, such as
    /// advisory locks. Its place in the pool is free when it is closed, half a second later at most.
    ///
    /// # Errors
    ///
    /// Any error of telling the server that the connection closes. It is closed all the same.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: the socket is closed without telling the server, which notices by itself.
    pub async fn close(mut self) -> Result<(), sqlx::Error> {
        match self.connection.take() {
            Some(LeasedConnection::Pooled(connection)) => connection.close().await,
            Some(LeasedConnection::Single(connection)) => connection.close().await,
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }

    /// Whether the connection is one of the app's own pool. It cannot be reset, and is closed if its
    /// session may have changed; so what a query leaves behind is judged by its text, as on a handle.
    fn is_external(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| match connection {
            LeasedConnection::Pooled(pooled) => pooled.pool().is_external(),
            LeasedConnection::Single(_) => false,
        })
    }

    /// The session may have changed from now on, so that it is reset when the lease is dropped.
    pub(crate) fn mark_used(&mut self) {
        if self.state == LeaseState::Clean {
            self.state = LeaseState::Used;
        }
    }

    /// Runs a step of sqlx's transaction manager, guarded as [`Lease::run`] guards a statement. `sql` is
    /// what it sends, for the log.
    pub(crate) async fn control<T>(
        &mut self,
        step: Step,
        sql: &str,
        run: impl for<'a> FnOnce(&'a mut PgConnection) -> BoxFuture<'a, Result<T, sqlx::Error>> + Send,
    ) -> Result<T, sqlx::Error> {
        if step == Step::Undo && self.state == LeaseState::HalfRead {
            self.state = LeaseState::Busy;
        }
        self.make_ready().await?;
        let before = self.begin_use();
        let is_unwatched = self.failures.unwatched;
        let Parts { connection, node, cancellation, .. } = self.parts();
        let log_entry = node.server.sender.logger.sending(node.name(), sql, Values::None, None);
        let result = {
            let running = pin!(async {
                match is_unwatched {
                    true => run_unwatched(cancellation, step, run(connection)).await,
                    false => run(connection).await,
                }
            });
            run_cancellable(cancellation.as_ref(), running).await
        };
        log_entry.finish(&result);
        self.end_use(before, false, Instant::now(), &result);
        result
    }

    /// Rolls back sqlx's innermost transaction or savepoint. What still runs in it is cancelled. `sql` is
    /// what is sent, for the log.
    pub(crate) async fn roll_back(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let mut attempts_left = 2;
        loop {
            let rolled_back = self.control(Step::Undo, sql, |connection| {
                Box::pin(PgTransactionManager::rollback(connection))
            });
            match rolled_back.await {
                // The cancel came late, and hit the rollback itself.
                Err(error) if attempts_left > 0 && has_code(&error, QUERY_CANCELED) => {
                    attempts_left -= 1;
                }
                result => return result,
            }
        }
    }

    /// Whether what was sent last may still run.
    pub(crate) fn is_pending(&self) -> bool {
        self.state.is_pending()
    }

    /// Makes the session forget which values of sequences its former users got, so that `currval` and
    /// `lastval` do not show them. Costs a round trip if there may be such values.
    pub(crate) async fn own_sequences(&mut self) -> Result<(), sqlx::Error> {
        if self.has_foreign_sequences() {
            let discard = ToSend::simple(SqlStr::from_static(DISCARD_SEQUENCES));
            let discarding = self.control(Step::Short, DISCARD_SEQUENCES, |connection| {
                Box::pin(
                    async move { sqlx::Executor::execute(connection, discard).await.map(drop) },
                )
            });
            // Rare, so that it takes no room in the future of each statement.
            Box::pin(discarding).await?;
        }
        self.note_own_sequences();
        Ok(())
    }

    /// Whether the session may know values of sequences that a former user got. Behind PgBouncer, other
    /// clients use the session too, and nothing is forgotten.
    pub(crate) fn has_foreign_sequences(&self) -> bool {
        let advanced = |connection: &LeasedConnection| match connection {
            LeasedConnection::Pooled(pooled) => pooled.has_advanced(),
            LeasedConnection::Single(_) => false,
        };
        !self.owns_sequences
            && !self.node.server.sender.is_pooler
            && self.connection.as_ref().is_some_and(advanced)
    }

    /// The session has forgotten them.
    pub(crate) fn note_own_sequences(&mut self) {
        self.owns_sequences = true;
    }

    /// Queues the rollback of sqlx's innermost transaction or savepoint, which sqlx sends together with
    /// the next statement. `sql` is what it sends, for the log.
    pub(crate) fn queue_rollback(&mut self, sql: &str) {
        let Parts { connection, node, .. } = self.parts();
        // The log entry has no end, because the result is read with that of the next statement.
        let _log_entry = node.server.sender.logger.sending(node.name(), sql, Values::None, None);
        PgTransactionManager::start_rollback(connection);
    }

    /// A [`Transaction`](crate::Transaction) was opened on the lease, or has ended.
    pub(crate) fn set_in_transaction(&mut self, open: bool, read_only: bool) {
        self.in_transaction = open;
        self.expects_writes = !read_only;
        if !open && let Some(tracker) = &mut self.tracker {
            tracker.finish();
        }
    }

    /// Keeps a permit of the budget for reads on the primary that replicas should have served. It is
    /// given back together with the connection's slot.
    pub(crate) fn hold(&mut self, budget: Option<OwnedSemaphorePermit>) {
        if let Some(LeasedConnection::Pooled(connection)) = &mut self.connection {
            connection.hold(budget);
        }
    }

    /// What sqlx remembers for the connection may be outdated: it forgets that before the next statement.
    pub(crate) fn mark_outdated(&mut self) {
        self.outdated = true;
    }

    /// Only reads run on the lease, so a write that is refused as read-only says nothing about the
    /// server.
    pub(crate) fn expect_reads(&mut self) {
        self.expects_writes = false;
    }

    /// Whether the lease is on a replica that the router chose, and not the app.
    pub(crate) fn was_routed_to_replica(&self) -> bool {
        let is_routed = |tracker: &Tracker| tracker.reason().is_routed();
        self.node.server.is_replica() && self.tracker.as_ref().is_some_and(is_routed)
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        self.node.classifier()
    }

    fn parts(&mut self) -> Parts<'_> {
        let expects_write = self.expects_writes;
        let (connection, cancellation) = match self.connection.as_mut() {
            Some(LeasedConnection::Pooled(pooled)) => {
                let ConnectionParts { connection, epoch, end, pool, backend } = pooled.parts();
                (
                    connection,
                    Some(Cancellation { epoch, end, pool, backend, deadline: None, expects_write }),
                )
            }
            Some(LeasedConnection::Single(connection)) => (connection, None),
            None => unreachable!("a lease has its connection until it is dropped"),
        };
        Parts { connection, node: &self.node, cancellation, state: &mut self.state }
    }
}

impl<'a> Parts<'a> {
    /// With what ends a statement by then.
    fn until(mut self, deadline: Option<Instant>) -> Self {
        if let Some(cancellation) = &mut self.cancellation {
            cancellation.deadline = deadline;
        }
        self
    }
}

/// The parts of a lease that running a statement needs at the same time.
struct Parts<'a> {
    connection: &'a mut PgConnection,
    node: &'a Node,
    /// What cancels a statement on the connection.
    cancellation: Option<Cancellation<'a>>,
    state: &'a mut LeaseState,
}

executor_through!(&'c mut Lease, |lease, statement| {
    if !lease.is_external() || !statement.is_plain_query() {
        lease.mark_used();
    }
    Ok(lease)
});

/// For code that is generic over sqlx's `Acquire`.
///
/// `begin` through this trait, which a plain `lease.begin()` calls where the trait is imported, returns
/// sqlx's own transaction. Its `commit` reports success even if the server has aborted the transaction;
/// that of [`Handle::begin`](crate::Handle::begin) does not.
impl<'c> Acquire<'c> for &'c mut Lease {
    type Database = Postgres;
    type Connection = &'c mut PgConnection;

    fn acquire(self) -> BoxFuture<'c, Result<&'c mut PgConnection, sqlx::Error>> {
        Box::pin(ready(Ok(&mut **self)))
    }

    fn begin(self) -> BoxFuture<'c, Result<sqlx::Transaction<'c, Postgres>, sqlx::Error>> {
        Box::pin(Connection::begin(&mut **self))
    }
}

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
            tracker.mark_unwatched();
        }
        self.parts().connection
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
            && !self.state.is_pending()
        {
            tracker.finish();
        }
        self.tell_time();
        if self.failures.unwatched {
            // A migration, for example.
            self.node.classifier().tracer().want();
        }
        let connection = match self.connection.take() {
            Some(LeasedConnection::Pooled(connection)) => connection,
            // Nobody else uses this connection, and closing its socket ends the session.
            Some(LeasedConnection::Single(_)) | None => return,
        };
        match self.state {
            // Dropping the connection recovers it: the statement may still run.
            LeaseState::Busy | LeaseState::HalfRead => drop(connection),
            LeaseState::Unusable => connection.discard(),
            _ if self.outdated => connection.discard(),
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
