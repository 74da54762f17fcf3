//! How a statement is sent over a lease, and what is known of the connection afterwards.

use std::borrow::BorrowMut;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_core::Stream;
use futures_core::stream::BoxStream;
use futures_util::TryStreamExt;
use sqlx::{Connection, Either, Executor};

use super::cancel::{Cancellation, end_given_up, run_cancellable};
use super::executor::{Answer, Start};
use super::rows::{Batch, Item, Rows};
use super::timed::Timed;
use super::{Failures, Lease, LeaseState, LeasedConnection, Parts, Tracker, pooler, span};
use crate::error::{DeadlineStep, Error};
use crate::logging::{Entry, Values};
use crate::metrics::NodeMetrics;
use crate::node::{Node, Settings, drain};
use crate::router::Reason;
use crate::sql::{Effects, Leftover};
use crate::sqlstate::{
    DEADLOCK_DETECTED, READ_ONLY_TRANSACTION, SERIALIZATION_FAILURE, error_type,
    is_connection_lost, is_fault_of_server, is_outdated, is_refused_by_driver,
    may_have_outdated_types, needs_primary, said_by, server_keeps_session, sqlstate,
};
use crate::statement::{Sending, Statement};

/// A statement that is about to be sent, or was sent.
struct RunningStatement {
    sending: Sending,
    /// Why it runs on this node, for the log.
    reason: Option<Reason>,
    changes_session: bool,
    /// What is in force for it alone, in the transaction around it.
    settings: Option<Arc<Settings>>,
    /// What was known of the connection before.
    before: (LeaseState, Failures),
}

impl Lease {
    /// Sends a statement and reads its result to the end. `completed` is set when the server says that
    /// the statement is complete; its commit may still fail after that.
    pub(crate) async fn run<T: Answer>(
        &mut self,
        statement: &Statement,
        completed: &mut bool,
    ) -> Result<T, sqlx::Error> {
        let running = self.begin_statement(statement).await?;
        let deadline = self.cut_at();
        let Parts { connection, node, cancellation, .. } = self.parts().until(deadline);
        let span = span::of(node, statement.text(), running.reason);
        let mut log_entry = running.log(node, statement);
        // Of a read it does not matter whether it was complete when it failed.
        let is_short = !log_entry.is_open()
            && node.classifier().seems_to_read(statement.plan(), statement.text());
        let result = {
            let work = pin!(async {
                pooler::begin(running.sending, running.settings.as_deref(), connection).await?;
                let to_send = statement.to_send(running.sending);
                let mut result = match T::FETCH {
                    Some(fetch) if is_short => fetch(connection, to_send).await,
                    _ => {
                        let items = connection.fetch_many(to_send);
                        read_to_end(items, &mut log_entry, completed, deadline).await
                    }
                };
                pooler::end(running.sending, connection, &mut result).await;
                result
            });
            let work = pin!(run_cancellable(cancellation.as_ref(), work));
            span::within(span.as_ref(), work).await
        };
        span::tell(span.as_ref(), &result);
        log_entry.finish(&result);
        self.end_statement(statement, &running, &result);
        self.forget_outdated().await;
        result
    }

    /// Prepares or describes a statement.
    pub(crate) async fn prepare<T>(
        &mut self,
        statement: &Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let running = self.begin_statement(statement).await?;
        let deadline = self.cut_at();
        let Parts { connection, node, cancellation, .. } = self.parts().until(deadline);
        let span = span::of(node, statement.text(), running.reason);
        let log_entry = running.log(node, statement);
        let result = {
            let work = pin!(async {
                pooler::begin(running.sending, running.settings.as_deref(), connection).await?;
                let mut result = start(connection, statement.to_send(running.sending)).await;
                pooler::end(running.sending, connection, &mut result).await;
                result
            });
            let work = pin!(run_cancellable(cancellation.as_ref(), work));
            span::within(span.as_ref(), work).await
        };
        span::tell(span.as_ref(), &result);
        log_entry.finish(&result);
        self.end_statement(statement, &running, &result);
        self.forget_outdated().await;
        result
    }

    /// Sends a statement, and is given back when its result is read.
    pub(crate) fn into_rows(self, statement: Statement) -> Rows<'static> {
        let commits_at_once = statement.commits_at_once();
        Rows::new(Box::pin(Self::batches(self, statement)), commits_at_once)
    }

    /// Sends a statement and returns its result as it arrives. The lease stays busy until the result has
    /// ended.
    pub(super) fn batches<'a>(
        mut lease: impl BorrowMut<Self> + Send + 'a,
        statement: Statement,
    ) -> impl Stream<Item = Batch> + Send + 'a {
        async_stream::stream! {
            let lease = lease.borrow_mut();
            let mut batch = Batch::default();
            let running = match lease.begin_statement(&statement).await {
                Ok(running) => running,
                Err(error) => {
                    batch.end = Some(Err(error));
                    yield batch;
                    return;
                }
            };
            let deadline = lease.cut_at();
            let Parts { connection, node, cancellation, state } = lease.parts().until(deadline);
            let span = span::of(node, statement.text(), running.reason);
            let mut log_entry = running.log(node, &statement);
            let mut result = Ok(());
            if running.sending == Sending::InTransaction {
                let beginning = Box::pin(pooler::begin(running.sending, running.settings.as_deref(), connection));
                result = run_cancellable(cancellation.as_ref(), beginning).await;
            }
            if result.is_ok() {
                let mut items = connection.fetch_many(statement.to_send(running.sending));
                result = loop {
                    // Where rows go on coming, nothing is waited for.
                    if is_over(deadline) && *state == LeaseState::HalfRead {
                        *state = LeaseState::Busy;
                        break Err(DeadlineStep::Running.exceeded());
                    }
                    *state = LeaseState::Busy;
                    let read = {
                        let filling = poll_fn(|context| {
                            let log = |item: &Item| log_item(&mut log_entry, item);
                            batch.poll_fill(items.as_mut(), log, context).map(Ok)
                        });
                        let filling = pin!(run_cancellable(cancellation.as_ref(), filling));
                        span::within(span.as_ref(), filling).await
                    };
                    if let Err(error) = read {
                        break Err(error);
                    }
                    if let Some(end) = batch.end.take() {
                        break end;
                    }
                    *state = LeaseState::HalfRead;
                    yield std::mem::take(&mut batch);
                };
                drop(items);
                if running.sending == Sending::InTransaction && !batch.is_empty() {
                    // The caller need not wait for the transaction's end.
                    *state = LeaseState::HalfRead;
                    yield std::mem::take(&mut batch);
                    *state = LeaseState::Busy;
                }
                // Only then: a result that is complete stays so, also if the node goes down now.
                if running.sending == Sending::InTransaction {
                    let ending = Box::pin(async {
                        pooler::end(running.sending, connection, &mut result).await;
                        result
                    });
                    result = run_cancellable(cancellation.as_ref(), ending).await;
                }
            }
            span::tell(span.as_ref(), &result);
            log_entry.finish(&result);
            lease.end_statement(&statement, &running, &result);
            lease.forget_outdated().await;
            batch.end = Some(result);
            yield batch;
        }
    }

    /// Has sqlx forget the statements that it keeps prepared on the connection, and the numbers of types.
    /// An error is ignored: the next statement will fail as well.
    pub(crate) async fn forget_prepared(&mut self) {
        let before = self.begin_use();
        let Parts { connection, cancellation, .. } = self.parts();
        let forgetting = Box::pin(connection.clear_cached_statements());
        let result = run_cancellable(cancellation.as_ref(), forgetting).await;
        self.outdated &= result.is_err();
        self.end_use(before, false, Instant::now(), &result);
    }

    /// The same, if what sqlx remembers is outdated.
    pub(super) async fn forget_outdated(&mut self) {
        if self.outdated && matches!(self.state, LeaseState::Clean | LeaseState::Used) {
            // Rare, so that it takes no room in the future of each statement.
            Box::pin(self.forget_prepared()).await;
        }
    }

    /// Marks the lease as busy with a statement. The caller sends the statement, and then calls
    /// [`end_statement`](Self::end_statement).
    async fn begin_statement(
        &mut self,
        statement: &Statement,
    ) -> Result<RunningStatement, sqlx::Error> {
        statement.refuse_copy()?;
        if self.stands_in() {
            statement.refuse_on_standby()?;
        }
        if self.local_settings.is_some() {
            // It would end the transaction for which the settings are in force.
            statement.refuse_control()?;
        }
        self.refuse_late()?;
        if self.node.server.sender.is_pooler
            && let Some(Leftover { what, instead }) = statement.leftover()
        {
            let node = self.node().to_owned();
            return Err(Error::SharedSession { node, what, instead }.into());
        }
        let effects = self.node.classifier().effects(statement.plan(), statement.text());
        let asks = effects.any(Effects::ASKS);
        if asks || self.needs_care() {
            // Rare, so that it takes no room in the future of each statement.
            Box::pin(self.get_ready(asks)).await?;
        }
        self.expect(effects);
        let before = self.begin_use();
        let sending = self.sending(statement);
        self.wrapped = sending == Sending::InTransaction;
        let reason = self.tracker.as_mut().map(|tracker| {
            tracker.statement_starts(statement, &self.node);
            tracker.reason()
        });
        self.node.gauges.count_statement();
        let changes_session =
            statement.may_change_session() || effects.any(Effects::CHANGES | Effects::SPOILS);
        self.outdated |= statement.drops_prepared();
        // One that was given up before, and whose connection goes on.
        self.tell_time();
        let started = self.node.server.sender.logger.starts().or_else(NodeMetrics::starts);
        self.timed = started.map(|started| Timed { started, sql: statement.sql(), reason });
        let settings = self.local_settings.clone();
        Ok(RunningStatement { sending, reason, changes_session, settings, before })
    }

    /// Fails if the deadline is over.
    fn refuse_late(&self) -> Result<(), sqlx::Error> {
        match is_over(self.deadline) {
            true => Err(DeadlineStep::Waiting.exceeded()),
            false => Ok(()),
        }
    }

    /// When a statement that is under way is cut. Behind PgBouncer it is not: nothing could be cancelled at the
    /// server, and the transaction that it is wrapped in may be committing.
    fn cut_at(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.node.server.sender.is_pooler)
    }

    /// Prepares the session for a statement, by the deadline. `asks` says whether it asks which values of sequences
    /// the session got.
    async fn get_ready(&mut self, asks: bool) -> Result<(), sqlx::Error> {
        let deadline = self.deadline;
        let getting_ready = async {
            if asks {
                self.own_sequences().await?;
            }
            if self.needs_care() {
                self.make_ready().await?;
            }
            Ok(())
        };
        let Some(deadline) = deadline else { return getting_ready.await };
        if let Ok(result) = tokio::time::timeout_at(deadline.into(), getting_ready).await {
            return result.and_then(|()| self.refuse_late());
        }
        // Nobody waits for the rest of what was before any more: it is cancelled.
        self.state = LeaseState::Busy;
        self.refuse_late()
    }

    /// Tells how long a statement took until now that was given up.
    pub(super) fn tell_time(&mut self) {
        if let Some(timed) = self.timed.take() {
            timed.ended(&self.node, Instant::now(), Some("cancelled"));
        }
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

    fn end_statement<T>(
        &mut self,
        statement: &Statement,
        running: &RunningStatement,
        result: &Result<T, sqlx::Error>,
    ) {
        let now = Instant::now();
        let is_write = match result {
            Ok(_) => self.tracker.as_ref().is_some_and(Tracker::was_refused),
            // In an engine for tests each such statement is to fail.
            Err(error) => {
                self.node.server.is_replica() && !self.stands_in() && needs_primary(error)
            }
        };
        if is_write {
            statement.plan().rescue();
        }
        if result.as_ref().is_err_and(is_fault_of_server) {
            self.node.server.metrics.failed();
        }
        if let Some(timed) = self.timed.take() {
            timed.ended(&self.node, now, result.as_ref().err().map(error_type).as_deref());
        }
        // One that was cut may still be carried out, so that it goes on for the session, as one that was given up.
        let is_cut = result.as_ref().is_err_and(|error| DeadlineStep::of(error).is_some());
        if let Some(tracker) = &mut self.tracker
            && !is_cut
        {
            tracker.statement_ended(&self.node, self.in_transaction, now);
        }
        self.end_use(running.before, running.changes_session, now, result);
        self.outdated |=
            result.as_ref().is_err_and(may_have_outdated_types) && statement.has_values();
    }

    /// How a statement is sent to the node: whether it is prepared under a name, and wrapped in a
    /// transaction.
    fn sending(&self, statement: &Statement) -> Sending {
        let sender = &self.node.server.sender;
        if self.local_settings.is_some() {
            return Sending::InTransaction;
        }
        match statement.through_pooler() {
            _ if !sender.is_pooler && sender.keeps_prepared => Sending::AsItIs,
            _ if !sender.is_pooler => Sending::Unnamed,
            // The transaction that is open already keeps one server.
            Sending::InTransaction if self.in_transaction => Sending::Unnamed,
            other => other,
        }
    }

    /// Whether [`make_ready`](Self::make_ready) has something to do.
    fn needs_care(&mut self) -> bool {
        let is_free = !self.state.is_pending() && !self.outdated;
        let cancellation = self.parts().cancellation;
        !is_free || cancellation.is_some_and(|cancellation| cancellation.epoch.is_ended())
    }

    /// Prepares the connection for the next statement. Fails if its epoch is ended.
    ///
    /// If the statement before was given up, this has the server cancel it. If it was dropped half-way,
    /// this reads the rest of its result, since an error in there would look like one of the next
    /// statement. It also ends the transaction that the statement was wrapped in, which would else
    /// include the next statement.
    pub(super) async fn make_ready(&mut self) -> Result<(), sqlx::Error> {
        let (before, is_wrapped) = (self.state, self.wrapped);
        let Parts { connection, node, cancellation, .. } = self.parts();
        if let Some(Cancellation { epoch, pool, .. }) = cancellation
            && epoch.is_ended()
        {
            let error = pool.end_error(epoch, false);
            // Nothing of an open transaction was committed, so the whole of it may be run again.
            self.failures.retryable |= matches!(Error::of(&error), Some(Error::NodeDown { .. }));
            return Err(error);
        }
        if !before.is_pending() {
            self.forget_outdated().await;
            return Ok(());
        }
        loop {
            let finishing = async {
                match before {
                    LeaseState::HalfRead => drain(connection).await?,
                    _ => end_given_up(cancellation, node.name(), connection).await?,
                }
                if is_wrapped { pooler::end_abandoned(connection).await } else { Ok(()) }
            };
            match run_cancellable(cancellation.as_ref(), Box::pin(finishing)).await {
                // An error of the statement before, which nobody waits for.
                Err(error) if server_keeps_session(&error) => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.wrapped = false;
        // It may have failed in the meantime, and with it the transaction.
        self.failures.any = true;
        if self.outdated {
            Box::pin(self.forget_prepared()).await;
        }
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
        now: Instant,
        result: &Result<T, sqlx::Error>,
    ) {
        let (state, failures) = before;
        self.failures = failures;
        let mut is_unchanged = !changes_session;
        match result {
            Err(error) if is_refused_by_driver(error) => {
                self.failures.any = true;
                // Else sqlx may have prepared the statement and not kept it.
                is_unchanged &= matches!(error, sqlx::Error::TypeNotFound { .. });
            }
            Err(error) if DeadlineStep::of(error).is_some() => {
                // As if it was given up: the server is not to blame.
                self.failures.any = true;
                return;
            }
            Err(error) => {
                self.note_error(error);
                if !server_keeps_session(error) {
                    return self.note_no_server_answer(error);
                }
                self.outdated |= is_outdated(error);
                self.node.gauges.record_answer(now);
            }
            Ok(_) => self.node.gauges.record_answer(now),
        }
        self.wrapped = false;
        self.state = match state {
            LeaseState::Unusable => LeaseState::Unusable,
            LeaseState::Clean if is_unchanged => LeaseState::Clean,
            // Where the statement before was dropped half-way, `make_ready` has read the rest.
            LeaseState::Clean | LeaseState::Used | LeaseState::Busy | LeaseState::HalfRead => {
                LeaseState::Used
            }
        };
    }

    fn note_error(&mut self, error: &sqlx::Error) {
        self.failures.any = true;
        match sqlstate(error).as_deref() {
            Some(SERIALIZATION_FAILURE | DEADLOCK_DETECTED) => self.failures.retryable = true,
            _ => self.failures.retryable |= is_outdated(error),
        }
        // A function of the user's may raise the code too, which says nothing about the server.
        if self.expects_writes && said_by(error, READ_ONLY_TRANSACTION, "PreventCommand") {
            self.node.refused_a_write();
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
    /// Logs that the statement is sent, and makes the entry that logs its end.
    fn log<'a>(&self, node: &'a Node, statement: &Statement) -> Entry<'a> {
        let logger = &node.server.sender.logger;
        logger.sending(node.name(), statement.text(), Values::of(statement), self.reason)
    }
}

/// Reads a result to its end.
async fn read_to_end<T: Answer>(
    mut items: BoxStream<'_, Result<Item, sqlx::Error>>,
    log_entry: &mut Entry<'_>,
    completed: &mut bool,
    deadline: Option<Instant>,
) -> Result<T, sqlx::Error> {
    let mut answer = T::default();
    while let Some(item) = items.try_next().await? {
        // Where rows go on coming, nothing is waited for.
        if is_over(deadline) {
            return Err(DeadlineStep::Running.exceeded());
        }
        *completed |= item.is_left();
        log_item(log_entry, &item);
        answer.add(item);
    }
    Ok(answer)
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

fn log_item(log_entry: &mut Entry<'_>, item: &Item) {
    match item {
        Either::Left(done) => log_entry.rows_affected(done.rows_affected()),
        Either::Right(row) => log_entry.row(row),
    }
}
