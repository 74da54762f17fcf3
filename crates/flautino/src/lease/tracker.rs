//! Follows the statements of a lease: counts and times each, and tells the handle's session of writes and
//! reads, so that the session can raise its floor.

use std::sync::Arc;
use std::time::Instant;

use crate::monitor::{Monitor, WriteUnderWay};
use crate::node::Node;
use crate::router::{Access, Reason};
use crate::session::{Session, SessionWrite, Timing};
use crate::sql::StatementTraits;
use crate::statement::Statement;

/// Tracks the statements of one lease.
pub(crate) struct Tracker {
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
    /// A replica refused the statement that the lease was taken for.
    was_refused: bool,
    /// Tells the session that a write is under way.
    session_write: Option<SessionWrite>,
    /// Tells the session that the app has the connection itself, and may be writing on it.
    unwatched_write: Option<SessionWrite>,
    /// What statements since the last report may have done to the schema.
    schema: SchemaChange,
    /// What statements may have done to the schema since the lease was taken. A `COMMIT` that the app
    /// sends itself makes it last.
    uncommitted: SchemaChange,
    /// The app got the connection itself, so that what runs on it cannot be followed.
    is_unwatched: bool,
}

/// What a statement may have done to the schema, from what matters least on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SchemaChange {
    #[default]
    None,
    /// Nothing but dropped something. What is left has the names that it had.
    Dropped,
    /// Nobody knows: it called a procedure, or the app sent it over the connection itself.
    Unknown,
    /// It made or changed something.
    Added,
}

impl Tracker {
    pub(crate) fn new(
        monitor: Arc<Monitor>,
        session: Arc<Session>,
        reason: Reason,
        requested_at: Instant,
        tracking: Option<Tracking>,
    ) -> Self {
        let requested_at = Some(requested_at);
        session.lease_taken();
        Self { monitor, session, reason, tracking, requested_at, is_running: false }
    }

    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    /// Whether a replica refused the statement that the lease was taken for.
    pub(super) fn was_refused(&self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| tracking.was_refused)
    }

    pub(super) fn statement_starts(&mut self, statement: &Statement, node: &Node) {
        self.monitor.decisions.count(self.reason);
        node.server.metrics.sent(self.reason);
        self.session.statement_starts(statement.text());
        self.is_running = true;
        self.requested_at.get_or_insert_with(Instant::now);
        if let Some(tracking) = &mut self.tracking
            && tracking.is_writer
            // What a replica refused writes, whatever the classifier says.
            && (tracking.monitor_write.is_some()
                || node.classifier().access(statement.plan(), statement.text()) == Access::Write)
        {
            tracking.note_schema(&statement.plan().traits);
            tracking.monitor_write.get_or_insert_with(|| self.monitor.write_begins());
            tracking.session_write.get_or_insert_with(|| self.session.write_begins());
        }
    }

    /// A statement's result is read to the end. In a transaction a write goes on until the transaction
    /// ends.
    pub(super) fn statement_ended(&mut self, node: &Node, in_transaction: bool, now: Instant) {
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
            let elapsed = now.saturating_duration_since(requested_at);
            self.session.statement_ended(Timing::new(node, self.reason, elapsed));
        }
    }

    /// The app gets the connection itself, so what it does there cannot be followed.
    pub(super) fn mark_unwatched(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            if tracking.is_writer {
                tracking.unwatched_write.get_or_insert_with(|| self.session.write_begins());
            }
            tracking.is_unwatched = true;
        }
    }

    /// A transaction has ended, or the lease is given back and no statement is under way.
    pub(super) fn finish(&mut self) {
        self.report_untracked();
        if let Some(tracking) = &mut self.tracking {
            if tracking.unwatched_write.is_some() {
                tracking.schema = tracking.schema.max(SchemaChange::Unknown);
            }
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
            self.monitor.suspect_catalogue();
        }
    }
}

impl Tracking {
    /// See the fields.
    pub(crate) fn new(incarnation: u64, is_writer: bool, remembers_reads: bool) -> Self {
        Self {
            incarnation,
            is_writer,
            remembers_reads,
            monitor_write: None,
            was_refused: false,
            session_write: None,
            unwatched_write: None,
            schema: SchemaChange::None,
            uncommitted: SchemaChange::None,
            is_unwatched: false,
        }
    }

    /// The lease is taken for this write. `was_refused` says whether a replica refused it.
    pub(crate) fn for_write(self, write: Option<WriteUnderWay>, was_refused: bool) -> Self {
        Self { monitor_write: write, was_refused, ..self }
    }

    fn writes_ended(&mut self, monitor: &Monitor) {
        for write in [self.session_write.take(), self.unwatched_write.take()].into_iter().flatten()
        {
            write.end();
        }
        self.report_schema(monitor);
    }

    fn note_schema(&mut self, traits: &StatementTraits) {
        let change = match traits {
            _ if traits.adds_to_schema => SchemaChange::Added,
            _ if traits.calls_procedure => SchemaChange::Unknown,
            _ if traits.changes_schema => SchemaChange::Dropped,
            _ if traits.control.is_some() => self.uncommitted,
            _ => return,
        };
        self.schema = self.schema.max(change);
        self.uncommitted = self.uncommitted.max(change);
    }

    /// Tells the monitor what statements that have ended may have done to the schema.
    fn report_schema(&mut self, monitor: &Monitor) {
        match std::mem::take(&mut self.schema) {
            SchemaChange::None => {}
            SchemaChange::Dropped => monitor.request_catalogue(),
            SchemaChange::Unknown => monitor.suspect_catalogue(),
            SchemaChange::Added => monitor.doubt_catalogue(),
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
        if let Some(tracking) = &mut self.tracking {
            // A statement that was dropped half-way may have returned rows before.
            if self.is_running {
                tracking.read_ended(&self.session);
            }
            // And one that changes the schema may have done so, as may a `COMMIT` without an answer.
            tracking.report_schema(&self.monitor);
        }
    }
}
