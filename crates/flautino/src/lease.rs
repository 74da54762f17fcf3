//! A checked-out connection, guarded: clean it goes back as it is, dirty it is recovered first.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::postgres::{PgQueryResult, PgRow};
use sqlx::{Connection, Either, PgConnection, SqlStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::error::Error;
use crate::executor::{Answer, Start, executor_through};
use crate::gauges::{Gauges, InFlight};
use crate::logging::{Entry, Values};
use crate::meter::Meter;
use crate::node::Node;
use crate::pool::{EndReason, Epoch, NodePool, PooledConnection};
use crate::router::{Classifier, Reason};
use crate::server_error::{is_connection_lost, is_outdated, server_keeps_session, sqlstate};
use crate::statement::{PoolerMode, Statement};

/// How long a write that is under way may still answer after its node turned down: a server that
/// shuts down says what became of it.
const LAST_ANSWER: Duration = Duration::from_millis(500);

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
    state: State,
    node: Arc<Node>,
    /// Whether a transaction of ours is open, so that a pooler keeps the server by itself.
    in_transaction: bool,
    /// The statement under way is wrapped in a transaction, for a pooler.
    wrapped: bool,
    /// Whether a refused write says that the server is no primary (any more).
    expects_writes: bool,
    /// What the statements on it met, for the transaction that holds it.
    pub(crate) seen: Seen,
    pub(crate) meter: Option<Meter>,
    _in_flight: InFlight,
}

enum LeasedConnection {
    Pooled(PooledConnection),
    /// Before `open`: a connection of its own.
    Single(PgConnection),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing under way, and nothing left behind in the session.
    Clean,
    /// Nothing under way as far as is known, but the session may not be as it was.
    Used,
    /// A statement was sent and its result is not read to the end.
    Busy,
    /// The connection is lost, or keeps a statement prepared that does not fit its tables any more.
    Unusable,
}

/// A statement under way.
#[derive(Clone, Copy)]
struct Begun {
    mode: PoolerMode,
    reason: Option<Reason>,
    /// Whether it may change its session.
    changes: bool,
    /// What was known of the connection before.
    before: (State, Seen),
}

/// Errors that the server answered on a lease.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    /// Some statement failed, or its end was not seen: a transaction is aborted, or may be.
    pub(crate) failure: bool,
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
        let in_flight = Gauges::begin(node);
        let connection = match node.pool()? {
            Some(pool) => LeasedConnection::Pooled(pool.checkout(up).await?),
            None => LeasedConnection::Single(node.connect().await?),
        };
        Ok(Self {
            connection: Some(connection),
            state: State::Clean,
            node: Arc::clone(node),
            in_transaction: false,
            wrapped: false,
            expects_writes: true,
            seen: Seen::default(),
            meter: None,
            _in_flight: in_flight,
        })
    }

    /// The name of the node it is connected to.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node.name
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
        if self.state == State::Clean {
            self.state = State::Used;
        }
    }

    /// Guards a step of the transaction manager as [`Lease::run`] guards a statement.
    pub(crate) async fn control<T>(
        &mut self,
        sql: &str,
        step: impl for<'a> FnOnce(&'a mut PgConnection) -> BoxFuture<'a, Result<T, sqlx::Error>> + Send,
    ) -> Result<T, sqlx::Error> {
        self.make_way().await?;
        let before = self.begin_use();
        let (connection, node, cut) = self.parts();
        let entry = node.logger.sending(&node.name, sql, Values::None, None);
        let result = cut_short(cut, step(connection)).await;
        entry.finish(&result);
        self.settle(before, false, &result);
        result
    }

    /// Queues the rollback of sqlx's innermost level; it is sent before the next statement.
    pub(crate) fn queue_rollback(&mut self, sql: &str) {
        let (connection, node, _) = self.parts();
        // It is sent with the next statement, and dropping the entry says that it was not awaited.
        let _entry = node.logger.sending(&node.name, sql, Values::None, None);
        PgTransactionManager::start_rollback(connection);
    }

    /// A transaction of ours was opened on it, or is over.
    pub(crate) fn set_in_transaction(&mut self, open: bool, read_only: bool) {
        self.in_transaction = open;
        self.expects_writes = !read_only;
        if !open && let Some(meter) = &mut self.meter {
            meter.ended();
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
        let chosen = |meter: &Meter| meter.reason().is_routed();
        self.node.is_replica() && self.meter.as_ref().is_some_and(chosen)
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        self.node.classifier()
    }

    /// Sends a statement, and reads its result to the end. `completed` is set when the server says that
    /// the statement is through.
    pub(crate) async fn run<T: Answer>(
        &mut self,
        statement: Statement,
        completed: &mut bool,
    ) -> Result<T, sqlx::Error> {
        let (statement, begun) = self.begin_statement(statement).await?;
        let Begun { mode, reason, .. } = begun;
        let (connection, node, cut) = self.parts();
        let span = span_of(node, reason);
        let mut entry =
            node.logger.sending(&node.name, statement.text(), Values::of(&statement), reason);
        let work = async {
            if mode == PoolerMode::AsItIs {
                return read_to_end(connection, statement, &mut entry, completed).await;
            }
            PgTransactionManager::begin(connection, None).await?;
            let result = read_to_end(connection, statement, &mut entry, completed).await;
            let ended = end_pooler_transaction(connection, result.is_ok()).await;
            result.and_then(|answer| ended.map(|()| answer))
        };
        let result = cut_short(cut, work).instrument(span).await;
        entry.finish(&result);
        self.end_statement(begun, &result);
        result
    }

    /// Prepares or describes a statement.
    pub(crate) async fn prepare<T>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let (statement, begun) = self.begin_statement(statement).await?;
        let Begun { mode, reason, .. } = begun;
        let (connection, node, cut) = self.parts();
        let span = span_of(node, reason);
        let entry =
            node.logger.sending(&node.name, statement.text(), Values::of(&statement), reason);
        let work = async {
            match mode {
                PoolerMode::AsItIs => start(connection, statement).await,
                PoolerMode::InTransaction => {
                    PgTransactionManager::begin(connection, None).await?;
                    let result = start(connection, statement).await;
                    let ended = end_pooler_transaction(connection, result.is_ok()).await;
                    result.and_then(|answer| ended.map(|()| answer))
                }
            }
        };
        let result = cut_short(cut, work).instrument(span).await;
        entry.finish(&result);
        self.end_statement(begun, &result);
        result
    }

    /// Sends a statement; what comes back is a stream, and only its end settles the lease.
    pub(crate) fn stream<'a>(
        &'a mut self,
        statement: Statement,
    ) -> impl futures_core::Stream<Item = Result<Either<PgQueryResult, PgRow>, sqlx::Error>> + Send + 'a
    {
        async_stream::stream! {
            let (statement, begun) = match self.begin_statement(statement).await {
                Ok(begun) => begun,
                Err(err) => {
                    yield Err(err);
                    return;
                }
            };
            let Begun { mode, reason, .. } = begun;
            let (connection, node, cut) = self.parts();
            let span = span_of(node, reason);
            let mut entry = node.logger.sending(&node.name, statement.text(), Values::of(&statement), reason);
            let mut result = Ok(());
            if mode == PoolerMode::InTransaction {
                result = cut_short(cut, PgTransactionManager::begin(connection, None)).await;
            }
            if result.is_ok() {
                let mut items = sqlx::Executor::fetch_many(&mut *connection, statement);
                loop {
                    let next = futures_util::TryStreamExt::try_next(&mut items);
                    match cut_short(cut, next).instrument(span.clone()).await {
                        Ok(Some(item)) => {
                            match &item {
                                Either::Left(done) => entry.rows_affected(done.rows_affected()),
                                Either::Right(row) => entry.row(row),
                            }
                            yield Ok(item);
                        }
                        Ok(None) => break,
                        Err(err) => { result = Err(err); break; }
                    }
                }
                drop(items);
                if mode == PoolerMode::InTransaction {
                    let ended = end_pooler_transaction(connection, result.is_ok());
                    result = result.and(cut_short(cut, ended).await);
                }
            }
            entry.finish(&result);
            self.end_statement(begun, &result);
            if let Err(err) = result {
                yield Err(err);
            }
        }
    }

    /// Forgets the statements that it keeps prepared. Where that fails, so will what comes next.
    pub(crate) async fn forget_prepared(&mut self) {
        let before = self.begin_use();
        let (connection, _, cut) = self.parts();
        let forgotten = cut_short(cut, connection.clear_cached_statements()).await;
        self.settle(before, false, &forgotten);
    }

    /// Makes ready for a statement, which is sent next. The worst is assumed until
    /// [`end_statement`](Self::end_statement).
    async fn begin_statement(
        &mut self,
        statement: Statement,
    ) -> Result<(Statement, Begun), sqlx::Error> {
        let (statement, mode) = self.prepared_for_node(statement);
        self.make_way().await?;
        let before = self.begin_use();
        self.wrapped = mode == PoolerMode::InTransaction;
        let reason = self.meter.as_mut().map(|meter| {
            meter.statement_starts(&statement);
            meter.reason()
        });
        self.node.gauges.statement();
        let changes = statement.may_change_session();
        Ok((statement, Begun { mode, reason, changes, before }))
    }

    fn end_statement<T>(&mut self, begun: Begun, result: &Result<T, sqlx::Error>) {
        if let Some(meter) = &mut self.meter {
            meter.statement_ended(&self.node, self.in_transaction);
        }
        self.settle(begun.before, begun.changes, result);
    }

    fn prepared_for_node(&self, statement: Statement) -> (Statement, PoolerMode) {
        if !self.node.is_pooler() {
            let kept = self.node.keeps_prepared();
            return (if kept { statement } else { statement.unnamed() }, PoolerMode::AsItIs);
        }
        match statement.for_pooler() {
            (statement, PoolerMode::InTransaction) if self.in_transaction => {
                (statement, PoolerMode::AsItIs)
            }
            other => other,
        }
    }

    fn parts(&mut self) -> (&mut PgConnection, &Node, Option<Cut<'_>>) {
        let grace = if self.expects_writes { LAST_ANSWER } else { Duration::ZERO };
        match self.connection.as_mut() {
            Some(LeasedConnection::Pooled(pooled)) => {
                let (connection, epoch, pool) = pooled.parts();
                (connection, &self.node, Some(Cut { epoch, pool, grace }))
            }
            Some(LeasedConnection::Single(connection)) => (connection, &self.node, None),
            None => unreachable!("a lease has its connection until it is dropped"),
        }
    }

    /// Before a statement is sent: refuses it where the engine has closed. Where the last one was
    /// dropped half-way, reads to its end, so that its error does not pass for this one's, and ends
    /// the transaction that it was wrapped in, so that this one is not part of it.
    async fn make_way(&mut self) -> Result<(), sqlx::Error> {
        let (busy, wrapped) = (self.state == State::Busy, self.wrapped);
        let (connection, _, cut) = self.parts();
        if let Some(Cut { epoch, pool, .. }) = cut
            && epoch.is_ended()
        {
            let ended = pool.ended(epoch, false);
            // A transaction can be tried again as a whole: nothing of it was committed.
            self.seen.retryable |= matches!(Error::of(&ended), Some(Error::NodeDown { .. }));
            return Err(ended);
        }
        if !busy {
            return Ok(());
        }
        loop {
            let clearing = async {
                connection.ping().await?;
                if wrapped { end_forgotten_transaction(connection).await } else { Ok(()) }
            };
            match cut_short(cut, clearing).await {
                Err(err) if server_keeps_session(&err) => {}
                Err(err) => return Err(err),
                Ok(()) => break,
            }
        }
        self.wrapped = false;
        Ok(())
    }

    /// Until the end of a statement is seen, the worst is assumed.
    fn begin_use(&mut self) -> (State, Seen) {
        let before = (self.state, self.seen);
        self.state = State::Busy;
        self.seen.failure = true;
        before
    }

    /// What is known of the connection at the end of a statement.
    fn settle<T>(&mut self, before: (State, Seen), changes: bool, result: &Result<T, sqlx::Error>) {
        let (state, seen) = before;
        self.seen = seen;
        if let Err(err) = result {
            let code = sqlstate(err);
            self.seen.failure = true;
            self.seen.retryable |= matches!(code.as_deref(), Some("40001" | "40P01"));
            if code.as_deref() == Some("25006") && self.expects_writes {
                Node::refused_a_write(&self.node);
            }
            if !server_keeps_session(err) {
                // Whatever was not committed is undone with the session.
                self.seen.retryable = true;
                self.node.suspect();
                // What was only cut off may still run at the server, and is recovered.
                if is_connection_lost(err) {
                    self.state = State::Unusable;
                    if let Some(LeasedConnection::Pooled(connection)) = &self.connection {
                        connection.pool().suspect_idle();
                    }
                }
                return;
            }
        }
        self.node.gauges.answered();
        self.wrapped = false;
        // The end of this statement is also the end of one that was dropped before it.
        let outdated = result.as_ref().is_err_and(is_outdated);
        self.state = match state {
            _ if outdated => State::Unusable,
            State::Unusable => State::Unusable,
            State::Clean if !changes => State::Clean,
            State::Clean | State::Used | State::Busy => State::Used,
        };
    }
}

/// Reads a result to its end; only the end tells that all went well.
async fn read_to_end<T: Answer>(
    connection: &mut PgConnection,
    statement: Statement,
    entry: &mut Entry<'_>,
    completed: &mut bool,
) -> Result<T, sqlx::Error> {
    let mut items = sqlx::Executor::fetch_many(connection, statement);
    let mut answer = T::default();
    while let Some(item) = futures_util::TryStreamExt::try_next(&mut items).await? {
        match &item {
            Either::Left(done) => {
                *completed = true;
                entry.rows_affected(done.rows_affected());
            }
            Either::Right(row) => entry.row(row),
        }
        answer.add(item);
    }
    Ok(answer)
}

/// Ends the transaction that a statement through a pooler was wrapped in.
async fn end_pooler_transaction(
    connection: &mut PgConnection,
    keep: bool,
) -> Result<(), sqlx::Error> {
    if !keep {
        return PgTransactionManager::rollback(connection).await;
    }
    let committed = PgTransactionManager::commit(connection).await;
    if committed.as_ref().is_err_and(server_keeps_session) {
        // It is over at the server, and sqlx counts it still.
        PgTransactionManager::rollback(connection).await?;
    }
    committed
}

/// The same, where the statement was dropped half-way. One that failed is rolled back by its `COMMIT`.
async fn end_forgotten_transaction(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if PgTransactionManager::get_transaction_depth(connection) > 0 {
        return end_pooler_transaction(connection, true).await;
    }
    // Dropped in its `BEGIN`, which sqlx does not count then.
    let commit = Statement::simple(SqlStr::from_static("COMMIT"));
    sqlx::Executor::execute(connection, commit).await.map(drop)
}

/// Around a statement at work: which node, and why.
fn span_of(node: &Node, reason: Option<Reason>) -> tracing::Span {
    let reason = reason.map(Reason::as_str);
    tracing::debug_span!(target: "flautino", "statement", node = &*node.name, reason)
}

/// What ends a statement before its time.
#[derive(Clone, Copy)]
struct Cut<'a> {
    epoch: &'a Epoch,
    pool: &'a NodePool,
    /// How long a node that turned down may still answer.
    grace: Duration,
}

/// The work's result, or why it was cut off: the node is down, or the drain time is over.
async fn cut_short<T>(
    cut: Option<Cut<'_>>,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let Some(Cut { epoch, pool, grace }) = cut else { return work.await };
    let mut work = std::pin::pin!(work);
    if let Some(result) = epoch.run(work.as_mut()).await {
        return result;
    }
    // The epoch after it is ended when the node is superseded, and with the engine.
    let next = pool.epoch();
    if grace.is_zero() || epoch.end_reason() != Some(EndReason::Down) {
        // Not polled once more: that might send it.
        return Err(pool.ended(epoch, true));
    }
    match tokio::time::timeout(grace, next.run(work)).await {
        Ok(Some(result)) => result,
        Ok(None) | Err(_) => Err(pool.ended(epoch, true)),
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
        self.seen.unwatched = true;
        if let Some(meter) = &mut self.meter {
            meter.unwatched();
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
        if let Some(meter) = &mut self.meter
            && self.state != State::Busy
        {
            meter.ended();
        }
        let connection = match self.connection.take() {
            Some(LeasedConnection::Pooled(connection)) => connection,
            // Nothing of it may stay behind: closing the socket ends the session.
            Some(LeasedConnection::Single(_)) | None => return,
        };
        match self.state {
            // Dropped, it is recovered.
            State::Busy => drop(connection),
            State::Unusable => connection.discard(),
            State::Clean if !self.in_transaction => connection.release(),
            State::Clean | State::Used => connection.wash(),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("node", &self.node.name)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
