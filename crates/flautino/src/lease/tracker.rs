//! What a lease tells about its statements: each is counted and timed, and the session learns of its
//! writes and reads, by which it raises its floor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::monitor::{Monitor, WriteUnderWay};
use crate::node::Node;
use crate::router::{Access, Reason};
use crate::session::{Session, SessionWrite, Timing};
use crate::statement::Statement;

/// How many statements went where they went for which reason.
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
    reason: Reason,
    /// `None` while the engine has one node: nothing is routed by what a session did.
    tracking: Option<Tracking>,
    /// When the connection for the next statement was requested_at for.
    requested_at: Option<Instant>,
    /// A statement was sent, and its end was not seen.
    is_running: bool,
}

/// What the session must learn of a lease while replicas may serve it.
pub(crate) struct Tracking {
    incarnation: u64,
    is_writer: bool,
    remembers_reads: bool,
    /// The write under way, for those who gather before they ask for a position.
    monitor_write: Option<WriteUnderWay>,
    /// The write under way, for the session.
    session_write: Option<SessionWrite>,
    /// Stands for all that may be written on the bare connection since that was handed out.
    bare_write: Option<SessionWrite>,
    /// A statement changed the schema, or may have.
    changes_schema: bool,
    /// The bare connection was handed out.
    is_bare: bool,
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
            // What a standby refused is a write, whatever the classifier says.
            && (self.reason == Reason::Rescued
                || node.classifier().access(statement.plan(), statement.text()) == Access::Write)
        {
            tracking.changes_schema |= statement.plan().traits.changes_schema;
            tracking.monitor_write.get_or_insert_with(|| self.monitor.write_begins());
            let window = self.monitor.config.token_window;
            tracking.session_write.get_or_insert_with(|| self.session.write_begins(window));
        }
    }

    /// In a transaction a write ends with the transaction.
    pub(super) fn statement_ended(&mut self, node: &Node, in_transaction: bool) {
        self.may_have_written_untracked();
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

    /// The bare connection is handed out, so that what is done on it is not seen.
    pub(super) fn unwatched(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            if tracking.is_writer {
                let window = self.monitor.config.token_window;
                tracking.bare_write.get_or_insert_with(|| self.session.write_begins(window));
            }
            tracking.is_bare = true;
        }
    }

    /// A transaction ended, or the lease is given back with nothing under way.
    pub(super) fn ended(&mut self) {
        self.may_have_written_untracked();
        if let Some(tracking) = &mut self.tracking {
            tracking.changes_schema |= tracking.bare_write.is_some();
            tracking.writes_ended(&self.monitor);
            if tracking.is_bare {
                tracking.read_ended(&self.session);
            }
        }
    }

    /// The lease began while there was one node, and statements are routed by now. Whatever was written
    /// on it was not tracked.
    fn may_have_written_untracked(&self) {
        if self.tracking.is_none() && self.monitor.routes() {
            self.session.lose_track();
        }
    }
}

impl Tracking {
    /// For a lease of the node in this incarnation. `is_writer` says that it is where writes go, and
    /// so where tokens are made; `remembers_reads` that later reads must not fall behind what is read
    /// here; `monitor_write` is the write that it was leased for.
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
            bare_write: None,
            changes_schema: false,
            is_bare: false,
        }
    }

    fn writes_ended(&mut self, monitor: &Monitor) {
        for write in [self.session_write.take(), self.bare_write.take()].into_iter().flatten() {
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
        // A statement that was dropped half-way may have shown rows before that.
        if let (true, Some(tracking)) = (self.is_running, &self.tracking) {
            tracking.read_ended(&self.session);
        }
    }
}
