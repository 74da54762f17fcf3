//! What one lease does for its session: each statement is counted and timed, and writes and reads
//! are told to the session, which raises its floor by them.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::EngineInner;
use crate::handle::Timing;
use crate::node::Node;
use crate::router::{Access, Monitor, Reason, Writing};
use crate::session::{Session, SessionWrite};
use crate::statement::Statement;

/// Follows the statements of one lease.
pub(crate) struct Meter {
    engine: Arc<EngineInner>,
    session: Arc<Session>,
    reason: Reason,
    /// Only where statements are routed.
    follows: Option<Follows>,
    /// For the first statement, when its connection was asked for.
    asked: Option<Instant>,
    /// A statement was sent, and its end not seen.
    in_flight: bool,
}

/// What the session must know of, where replicas may serve it.
pub(crate) struct Follows {
    pub(crate) monitor: Arc<Monitor>,
    /// Which of the node's lives.
    pub(crate) incarnation: u64,
    /// Whether it is where writes go, and so where tokens are made.
    pub(crate) is_writer: bool,
    /// Whether later reads must not fall behind what is read here.
    pub(crate) remembers_reads: bool,
    /// A write under way: among those of all sessions, and of this one.
    pub(crate) writing: Option<Writing>,
    pub(crate) write: Option<SessionWrite>,
    /// From when the bare connection was handed out.
    pub(crate) unwatched: Option<SessionWrite>,
    /// Something on it changed the schema, or may have.
    pub(crate) changes_schema: bool,
    /// The bare connection was handed out.
    pub(crate) bare: bool,
}

impl Meter {
    pub(crate) fn new(
        engine: Arc<EngineInner>,
        session: Arc<Session>,
        reason: Reason,
        asked: Instant,
        follows: Option<Follows>,
    ) -> Self {
        Self { engine, session, reason, follows, asked: Some(asked), in_flight: false }
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    /// The statement that is sent next was counted as a write while it waited.
    pub(crate) fn adopt(&mut self, writing: Option<Writing>) {
        if let Some(follows) = &mut self.follows {
            follows.writing = writing;
        }
    }

    pub(crate) fn statement_starts(&mut self, statement: &Statement) {
        self.engine.count(self.reason);
        self.in_flight = true;
        self.asked.get_or_insert_with(Instant::now);
        if let Some(follows) = &mut self.follows
            && follows.is_writer
            // What a standby refused is no read, whatever it was taken for.
            && (self.reason == Reason::Rescued
                || follows.monitor.access(statement.plan(), statement.text()) == Access::Write)
        {
            follows.changes_schema |= statement.plan().look.changes_schema;
            follows.writing.get_or_insert_with(|| follows.monitor.write_begins());
            let window = follows.monitor.config.token_window;
            follows.write.get_or_insert_with(|| self.session.write_begins(window));
        }
    }

    /// In a transaction a write is not over before that is.
    pub(crate) fn statement_ended(&mut self, node: &Node, in_transaction: bool) {
        self.may_have_written_unseen();
        if let Some(follows) = &mut self.follows {
            follows.writing = None;
            if follows.write.is_none() {
                follows.read_ended(&self.session);
            } else if !in_transaction {
                follows.writes_ended();
            }
        }
        self.in_flight = false;
        if let Some(asked) = self.asked.take() {
            let (node, elapsed) = (Arc::clone(&node.name), asked.elapsed());
            self.session.statement_ended(Timing { node, reason: self.reason, elapsed });
        }
    }

    /// The bare connection is handed out: what is done on it is not seen.
    pub(crate) fn unwatched(&mut self) {
        if let Some(follows) = &mut self.follows {
            if follows.is_writer {
                let window = follows.monitor.config.token_window;
                follows.unwatched.get_or_insert_with(|| self.session.write_begins(window));
            }
            follows.bare = true;
        }
    }

    /// A transaction ended, or the lease is given back with nothing under way.
    pub(crate) fn ended(&mut self) {
        self.may_have_written_unseen();
        if let Some(follows) = &mut self.follows {
            follows.changes_schema |= follows.unwatched.is_some();
            follows.writes_ended();
            if follows.bare {
                follows.read_ended(&self.session);
            }
        }
    }

    /// It began when there was one node only, and statements are routed by now: whatever was done on
    /// it was not followed.
    fn may_have_written_unseen(&self) {
        if self.follows.is_none() && self.engine.monitor().is_some() {
            self.session.lose_track();
        }
    }
}

impl Follows {
    fn writes_ended(&mut self) {
        for write in [self.write.take(), self.unwatched.take()].into_iter().flatten() {
            write.end();
        }
        if std::mem::take(&mut self.changes_schema) {
            self.monitor.schema_changed();
        }
    }

    fn read_ended(&self, session: &Session) {
        if self.remembers_reads {
            session.read_ended(self.incarnation);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // A statement was dropped half-way: what it has shown was seen.
        if let (true, Some(follows)) = (self.in_flight, &self.follows) {
            follows.read_ended(&self.session);
        }
    }
}
