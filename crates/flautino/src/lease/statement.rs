//! How a statement is sent over a lease, and what is known of the connection afterwards.

use std::borrow::BorrowMut;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::TryStreamExt;
use sqlx::{Connection, Either, PgConnection};
use tracing::Instrument;

use super::cancel::{Cancellation, run_cancellable};
use super::executor::{Answer, Item, Source, Start};
use super::{Failures, Lease, LeaseState, LeasedConnection, pooler};
use crate::error::Error;
use crate::logging::{Entry, Values};
use crate::node::Node;
use crate::router::Reason;
use crate::sql::Effects;
use crate::sqlstate::{
    DEADLOCK_DETECTED, READ_ONLY_TRANSACTION, SERIALIZATION_FAILURE, is_connection_lost,
    is_outdated, server_keeps_session, sqlstate,
};
use crate::statement::{PoolerMode, Statement};

/// A statement that is about to be sent, or was sent.
#[derive(Clone, Copy)]
struct RunningStatement {
    mode: PoolerMode,
    /// Why it runs on this node, for the log.
    reason: Option<Reason>,
    changes_session: bool,
    /// What was known of the connection before.
    before: (LeaseState, Failures),
}

impl Lease {
    /// Sends a statement and reads its result to the end. `completed` is set when the server says that
    /// the statement is complete; its commit may still fail after that.
    pub(crate) async fn run<T: Answer>(
        &mut self,
        statement: Statement,
        completed: &mut bool,
    ) -> Result<T, sqlx::Error> {
        let (statement, running) = self.begin_statement(statement).await?;
        let (connection, node, cancellation) = self.parts();
        let (span, mut log_entry) = running.log(node, &statement);
        let work = async {
            pooler::begin(running.mode, connection).await?;
            let result = read_to_end(connection, statement, &mut log_entry, completed).await;
            pooler::end(running.mode, connection, result).await
        };
        let result = run_cancellable(cancellation, work).instrument(span).await;
        log_entry.finish(&result);
        self.end_statement(running, &result);
        result
    }

    /// Prepares or describes a statement.
    pub(crate) async fn prepare<T>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let (statement, running) = self.begin_statement(statement).await?;
        let (connection, node, cancellation) = self.parts();
        let (span, log_entry) = running.log(node, &statement);
        let work = async {
            pooler::begin(running.mode, connection).await?;
            let result = start(connection, statement).await;
            pooler::end(running.mode, connection, result).await
        };
        let result = run_cancellable(cancellation, work).instrument(span).await;
        log_entry.finish(&result);
        self.end_statement(running, &result);
        result
    }

    /// Sends a statement and returns its result as a stream. The lease stays busy until the stream has
    /// ended.
    pub(crate) fn stream<'a>(
        mut lease: impl BorrowMut<Self> + Send + 'a,
        statement: Statement,
    ) -> impl Stream<Item = Result<Item, sqlx::Error>> + Send + 'a {
        async_stream::stream! {
            let lease = lease.borrow_mut();
            let (statement, running) = match lease.begin_statement(statement).await {
                Ok(running) => running,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            let (connection, node, cancellation) = lease.parts();
            let (span, mut log_entry) = running.log(node, &statement);
            let mut result = Ok(());
            if running.mode == PoolerMode::InTransaction {
                let beginning = pooler::begin(running.mode, connection);
                result = run_cancellable(cancellation, beginning).await;
            }
            if result.is_ok() {
                let mut items = sqlx::Executor::fetch_many(&mut *connection, statement);
                loop {
                    let next = items.try_next();
                    match run_cancellable(cancellation, next).instrument(span.clone()).await {
                        Ok(Some(item)) => {
                            log_item(&mut log_entry, &item);
                            yield Ok(item);
                        }
                        Ok(None) => break,
                        Err(error) => { result = Err(error); break; }
                    }
                }
                drop(items);
                // Only then: a result that is complete stays so, also if the node goes down now.
                if running.mode == PoolerMode::InTransaction {
                    let ending = pooler::end(running.mode, connection, result);
                    result = run_cancellable(cancellation, ending).await;
                }
            }
            log_entry.finish(&result);
            lease.end_statement(running, &result);
            if let Err(error) = result {
                yield Err(error);
            }
        }
    }

    /// Closes the statements that sqlx keeps prepared on the connection. An error is ignored: the next
    /// statement will fail as well.
    pub(crate) async fn forget_prepared(&mut self) {
        let before = self.begin_use();
        let (connection, _, cancellation) = self.parts();
        let forgetting = connection.clear_cached_statements();
        let result = run_cancellable(cancellation, forgetting).await;
        self.end_use(before, false, &result);
    }

    /// Marks the lease as busy with a statement. The caller sends the statement, and then calls
    /// [`end_statement`](Self::end_statement).
    async fn begin_statement(
        &mut self,
        statement: Statement,
    ) -> Result<(Statement, RunningStatement), sqlx::Error> {
        let (statement, mode) = self.for_node(statement);
        let node = Arc::clone(&self.node);
        let classifier = node.classifier();
        let effects = classifier.effects(statement.plan(), statement.text());
        if effects.any(Effects::ASKS) {
            self.own_sequences().await?;
        }
        self.make_ready().await?;
        self.expect(effects);
        let before = self.begin_use();
        self.wrapped = mode == PoolerMode::InTransaction;
        let reason = self.tracker.as_mut().map(|tracker| {
            tracker.statement_starts(&statement, &self.node);
            tracker.reason()
        });
        self.node.gauges.count_statement();
        let changes_session = classifier.may_change_session(statement.plan(), statement.text());
        Ok((statement, RunningStatement { mode, reason, changes_session, before }))
    }

    /// Notes what a statement may do before it is sent, since nobody may see its end.
    fn expect(&mut self, effects: Effects) {
        if effects.any(Effects::ALTERS) && self.schema_change.is_none() {
            self.schema_change = Some(self.node.classifier().tracer().schema_changes());
        }
        if let Some(LeasedConnection::Pooled(connection)) = &mut self.connection {
            if effects.any(Effects::ADVANCES) {
                connection.note_advanced();
            }
            if effects.any(Effects::SPOILS) {
                connection.expire();
            }
        }
    }

    fn end_statement<T>(&mut self, running: RunningStatement, result: &Result<T, sqlx::Error>) {
        if let Some(tracker) = &mut self.tracker {
            tracker.statement_ended(&self.node, self.in_transaction);
        }
        self.end_use(running.before, running.changes_session, result);
    }

    /// Adapts a statement to its node: whether it is prepared under a name, and wrapped in a transaction.
    fn for_node(&self, statement: Statement) -> (Statement, PoolerMode) {
        let sender = &self.node.server.sender;
        if !sender.is_pooler {
            let statement = if sender.keeps_prepared { statement } else { statement.unnamed() };
            return (statement, PoolerMode::AsItIs);
        }
        match statement.for_pooler() {
            // The transaction that is open already keeps one server.
            (statement, _) if self.in_transaction => (statement, PoolerMode::AsItIs),
            other => other,
        }
    }

    /// Prepares the connection for the next statement. Fails if its epoch is ended.
    ///
    /// If the statement before was dropped half-way, this reads the rest of its result, since an error in
    /// there would look like one of the next statement. It also ends the transaction that the statement
    /// was wrapped in, which would else include the next statement.
    pub(super) async fn make_ready(&mut self) -> Result<(), sqlx::Error> {
        let (is_busy, is_wrapped) = (self.state == LeaseState::Busy, self.wrapped);
        let (connection, _, cancellation) = self.parts();
        if let Some(Cancellation { epoch, pool, .. }) = cancellation
            && epoch.is_ended()
        {
            let error = pool.end_error(epoch, false);
            // Nothing of an open transaction was committed, so the whole of it may be run again.
            self.failures.retryable |= matches!(Error::of(&error), Some(Error::NodeDown { .. }));
            return Err(error);
        }
        if !is_busy {
            return Ok(());
        }
        loop {
            let finishing = async {
                connection.ping().await?;
                if is_wrapped { pooler::end_abandoned(connection).await } else { Ok(()) }
            };
            match run_cancellable(cancellation, finishing).await {
                // An error of the statement before, which nobody waits for.
                Err(error) if server_keeps_session(&error) => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.wrapped = false;
        Ok(())
    }

    /// Assumes that whatever is sent next is still running and has failed, until
    /// [`end_use`](Self::end_use). Returns what was known before.
    pub(super) fn begin_use(&mut self) -> (LeaseState, Failures) {
        let before = (self.state, self.failures);
        self.state = LeaseState::Busy;
        self.failures.any = true;
        before
    }

    /// Updates what is known of the connection, given what was known before and the result.
    pub(super) fn end_use<T>(
        &mut self,
        before: (LeaseState, Failures),
        changes_session: bool,
        result: &Result<T, sqlx::Error>,
    ) {
        let (state, failures) = before;
        self.failures = failures;
        if let Err(error) = result {
            self.note_error(error);
            if !server_keeps_session(error) {
                return self.note_no_server_answer(error);
            }
        }
        self.node.gauges.record_answer();
        self.wrapped = false;
        let outdated = result.as_ref().is_err_and(is_outdated);
        self.state = match state {
            _ if outdated => LeaseState::Unusable,
            LeaseState::Unusable => LeaseState::Unusable,
            LeaseState::Clean if !changes_session => LeaseState::Clean,
            // `Busy`: the statement before was dropped half-way, and `make_ready` has read the rest.
            LeaseState::Clean | LeaseState::Used | LeaseState::Busy => LeaseState::Used,
        };
    }

    fn note_error(&mut self, error: &sqlx::Error) {
        self.failures.any = true;
        match sqlstate(error).as_deref() {
            Some(SERIALIZATION_FAILURE | DEADLOCK_DETECTED) => self.failures.retryable = true,
            Some(READ_ONLY_TRANSACTION) if self.expects_writes => self.node.refused_a_write(),
            _ => {}
        }
    }

    /// The server has ended the session, or the statement was cancelled on this side.
    fn note_no_server_answer(&mut self, error: &sqlx::Error) {
        // The server rolls back what was not committed.
        self.failures.retryable = true;
        self.node.suspect();
        // Otherwise the statement was cancelled on this side and may still run at the server: the state
        // stays `Busy`, so that the connection is recovered.
        if is_connection_lost(error) {
            self.state = LeaseState::Unusable;
            if let Some(LeasedConnection::Pooled(connection)) = &self.connection {
                connection.pool().suspect_idle();
            }
        }
    }
}

impl RunningStatement {
    /// Makes the span around the statement and its log entry.
    fn log<'a>(&self, node: &'a Node, statement: &Statement) -> (tracing::Span, Entry<'a>) {
        let (name, logger) = (node.name(), &node.server.sender.logger);
        let reason = self.reason.map(Reason::as_str);
        let span = tracing::debug_span!(target: "flautino", "statement", node = &**name, reason);
        (span, logger.sending(name, statement.text(), Values::of(statement), self.reason))
    }
}

/// Reads a result to its end.
async fn read_to_end<T: Answer>(
    connection: &mut PgConnection,
    statement: Statement,
    log_entry: &mut Entry<'_>,
    completed: &mut bool,
) -> Result<T, sqlx::Error> {
    let mut items = sqlx::Executor::fetch_many(connection, statement);
    let mut answer = T::default();
    while let Some(item) = items.try_next().await? {
        *completed |= item.is_left();
        log_item(log_entry, &item);
        answer.add(item);
    }
    Ok(answer)
}

fn log_item(log_entry: &mut Entry<'_>, item: &Item) {
    match item {
        Either::Left(done) => log_entry.rows_affected(done.rows_affected()),
        Either::Right(row) => log_entry.row(row),
    }
}

impl Source for &mut Lease {
    async fn run<T: Answer>(&mut self, statement: Statement) -> Result<T, sqlx::Error> {
        Lease::run(self, statement, &mut false).await
    }

    fn stream(
        &mut self,
        statement: Statement,
    ) -> impl Stream<Item = Result<Item, sqlx::Error>> + Send {
        Lease::stream(&mut **self, statement)
    }

    fn prepare<T: Send>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> impl Future<Output = Result<T, sqlx::Error>> + Send {
        Lease::prepare(self, statement, start)
    }
}
