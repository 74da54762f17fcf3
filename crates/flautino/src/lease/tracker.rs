//! Follows the statements of a lease: counts and times each, and tells the handle's session of writes and
//! reads, so that the session can raise its floor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::monitor::{Monitor, WriteUnderWay};
use crate::node::Node;
use crate::router::{Access, Reason};
use crate::session::{Session, SessionWrite, Timing};
use crate::statement::Statement;

/// How many statements were sent to a node for each [`Reason`].
#[derive(Debug, Default)]
pub(crate) struct Decisions([AtomicU64; Reason::ALL.len()]);

impl Decisions {
    fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.iter().copied().zip(counts)
    }
}

/// Tracks the statements of one lease.
pub(crate) struct Tracker {
    decisions: Arc<Decisions>,
    monitor: Arc<Monitor>,
    session: Arc<Session>,
    /// Why the router chose the lease's node.
    reason: Reason,
    /// `None` if the engine had one node when the lease was taken: then nothing that a session did matters
    /// for routing.
    tracking: Option<Tracking>,
    /// When the caller asked for the next statement, or for the connection that it waited for.
    requested_at: Option<Instant>,
    /// A statement was sent, and its result is not read to the end.
    is_running: bool,
}

/// What the session must learn of a lease while the engine has replicas.
pub(crate) struct Tracking {
    /// The incarnation of the node when the lease was taken, for what is read on it.
    incarnation: u64,
    /// Whether the node is the one that takes writes.
    is_writer: bool,
    /// Whether the session's later reads must not fall behind what is read here.
    remembers_reads: bool,
    /// Tells the monitor that a write is under way. Before it asks for a position the monitor waits a
    /// little for such writes, so that one answer serves several tokens.
    monitor_write: Option<WriteUnderWay>,
    /// Tells the session that a write is under way.
    session_write: Option<SessionWrite>,
    /// Tells the session that the app has the connection itself, and may be writing on it.
    unwatched_write: Option<SessionWrite>,
    /// A statement changed the schema, or may have.
    changes_schema: bool,
    /// The app got the connection itself, so that what runs on it cannot be followed.
    is_unwatched: bool,
}

impl Tracker {
    pub(crate) fn new(
        decisions: Arc<Decisions>,
        monitor: Arc<Monitor>,
        session: Arc<Session>,
        reason: Reason,
        requested_at: Instant,
        tracking: Option<Tracking>,
    ) -> Self {
        let requested_at = Some(requested_at);
        session.lease_taken();
        Self { decisions, monitor, session, reason, tracking, requested_at, is_running: false }
    }

    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    pub(super) fn statement_starts(&mut self, statement: &Statement, node: &Node) {
        self.decisions.count(self.reason);
        self.is_running = true;
        self.requested_at.get_or_insert_with(Instant::now);
        if let Some(tracking) = &mut self.tracking
            && tracking.is_writer
            // A standby has refused this statement, so it writes, whatever the classifier says.
            && (self.reason == Reason::Rescued
                || node.classifier().access(statement.plan(), statement.text()) == Access::Write)
        {
            tracking.changes_schema |= statement.plan().traits.changes_schema;
            tracking.monitor_write.get_or_insert_with(|| self.monitor.write_begins());
            let window = self.monitor.config.token_window;
            tracking.session_write.get_or_insert_with(|| self.session.write_begins(window));
        }
    }

    /// A statement's result is read to the end. In a transaction a write goes on until the transaction
    /// ends.
    pub(super) fn statement_ended(&mut self, node: &Node, in_transaction: bool) {
        self.report_untracked();
        if let Some(tracking) = &mut self.tracking {
            tracking.monitor_write = None;
            if tracking.session_write.is_none() {
                tracking.read_ended(&self.session);
            } else if !in_transaction {
                tracking.writes_ended(&self.monitor);
            }
        }
        self.is_running = false;
        if let Some(requested_at) = self.requested_at.take() {
            let node = Arc::clone(node.name());
            self.session.statement_ended(Timing::new(node, self.reason, requested_at.elapsed()));
        }
    }

    /// The app gets the connection itself, so what it does there cannot be followed.
    pub(super) fn mark_unwatched(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            if tracking.is_writer {
                let window = self.monitor.config.token_window;
                tracking.unwatched_write.get_or_insert_with(|| self.session.write_begins(window));
            }
            tracking.is_unwatched = true;
        }
    }

    /// A transaction has ended, or the lease is given back and no statement is under way.
    pub(super) fn finish(&mut self) {
        self.report_untracked();
        if let Some(tracking) = &mut self.tracking {
            tracking.changes_schema |= tracking.unwatched_write.is_some();
            tracking.writes_ended(&self.monitor);
            if tracking.is_unwatched {
                tracking.read_ended(&self.session);
            }
        }
    }

    /// Tells the session if this lease may have written without its knowledge: it was taken while the
    /// engine had one node, and replicas have joined since.
    fn report_untracked(&self) {
        if self.tracking.is_none() && self.monitor.routes() {
            self.session.lose_track();
        }
    }
}

impl Tracking {
    /// See the fields. `monitor_write` is the write that the lease was taken for, if it is known to be
    /// one.
    pub(crate) fn new(
        incarnation: u64,
        is_writer: bool,
        remembers_reads: bool,
        monitor_write: Option<WriteUnderWay>,
    ) -> Self {
        Self {
            incarnation,
            is_writer,
            remembers_reads,
            monitor_write,
            session_write: None,
            unwatched_write: None,
            changes_schema: false,
            is_unwatched: false,
        }
    }

    fn writes_ended(&mut self, monitor: &Monitor) {
        for write in [self.session_write.take(), self.unwatched_write.take()].into_iter().flatten()
        {
            write.end();
        }
        if std::mem::take(&mut self.changes_schema) {
            monitor.request_catalogue();
        }
    }

    fn read_ended(&self, session: &Session) {
        if self.remembers_reads {
            session.read_ended(self.incarnation);
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.session.lease_returned();
        // A statement that was dropped half-way may have returned rows before.
        if let (true, Some(tracking)) = (self.is_running, &self.tracking) {
            tracking.read_ended(&self.session);
        }
    }
}
