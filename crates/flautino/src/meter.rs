//! What one lease does for its session: each statement is counted and timed, and writes and reads
//! are told to the session, which raises its floor by them.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::EngineInner;
use crate::handle::Timing;
use crate::node::Node;
use crate::router::{Access, Consistency, Monitor, Reason, Writing};
use crate::session::Session;
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
    started: Option<Instant>,
}

/// What the session must know of, where replicas may serve it.
struct Follows {
    monitor: Arc<Monitor>,
    /// The node's number.
    node: usize,
    /// Whether it is where writes go, and so where tokens are made.
    is_writer: bool,
    /// `None` where what is read there says nothing about the cluster.
    level: Option<Consistency>,
    writing: Option<Writing>,
    changes_schema: bool,
    wrote: bool,
}

impl Meter {
    pub(crate) fn new(
        engine: Arc<EngineInner>,
        session: Arc<Session>,
        reason: Reason,
        asked: Instant,
    ) -> Self {
        Self { engine, session, reason, follows: None, asked: Some(asked), started: None }
    }

    /// Also tells the session what is written and read.
    pub(crate) fn following(
        self,
        monitor: Arc<Monitor>,
        node: usize,
        is_writer: bool,
        level: Option<Consistency>,
    ) -> Self {
        let follows = Follows {
            monitor,
            node,
            is_writer,
            level,
            writing: None,
            changes_schema: false,
            wrote: false,
        };
        Self { follows: Some(follows), ..self }
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    pub(crate) fn statement_starts(&mut self, statement: &Statement) {
        self.engine.count(self.reason);
        let now = Instant::now();
        self.started = Some(now);
        self.asked.get_or_insert(now);
        if let Some(follows) = &mut self.follows
            && follows.is_writer
            && follows.monitor.access(statement.plan(), statement.text()) == Access::Write
        {
            follows.wrote = true;
            follows.changes_schema = statement.plan().look.changes_schema;
            follows.writing = Some(follows.monitor.write_begins());
            // Already now, since what is dropped half-way may be done all the same.
            self.session.writes();
        }
    }

    pub(crate) fn statement_ended(&mut self, node: &Node) {
        if let Some(follows) = &mut self.follows {
            match follows.writing.take() {
                Some(_) => self.session.writes(),
                None => {
                    if follows.level == Some(Consistency::Session) {
                        self.session.read_ended(follows.node);
                    }
                }
            }
            if follows.changes_schema {
                follows.monitor.schema_changed();
            }
        }
        if let Some(started) = self.started.take() {
            node.gauges.took(started.elapsed());
        }
        if let Some(asked) = self.asked.take() {
            let timing = Timing {
                node: Arc::clone(&node.name),
                reason: self.reason,
                elapsed: asked.elapsed(),
            };
            self.session.statement_ended(timing);
        }
    }

    /// A transaction ended, or the lease is given back. `unwatched`: statements may have gone past
    /// the meter.
    pub(crate) fn ended(&self, unwatched: bool) {
        if let Some(follows) = &self.follows
            && follows.is_writer
            && (follows.wrote || unwatched)
        {
            self.session.writes();
        }
    }
}
