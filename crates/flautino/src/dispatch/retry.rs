//! Whether what failed may be run again, and where. Decides by what is known of the attempts so far and
//! by what the error proves, and asks no server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::{AcquireStep, Error};
use crate::monitor::WriteUnderWay;
use crate::node::Node;
use crate::router::{Access, ExcludedNodes, NodeView, Reason, Role, Snapshot, Target};
use crate::sql::Tokens;
use crate::sqlstate::{
    ADMIN_SHUTDOWN, DEADLOCK_DETECTED, FEATURE_NOT_SUPPORTED, INVALID_SCHEMA_NAME,
    OBJECT_NOT_IN_PREREQUISITE_STATE, READ_ONLY_TRANSACTION, SERIALIZATION_FAILURE,
    TOO_MANY_CONNECTIONS, UNDEFINED_COLUMN, UNDEFINED_FUNCTION, UNDEFINED_OBJECT, UNDEFINED_TABLE,
    is_connection_lost, is_outdated, refuses_role_or_database, said_by, server_keeps_session,
    sqlstate,
};
use crate::statement::Statement;

/// The pauses before a write is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: sqlx::Error,
    pub(crate) phase: Phase,
}

/// How far an attempt was when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It had no connection.
    Leasing,
    /// At the most a `BEGIN` was sent.
    Beginning,
    /// The statement was sent, and no row of its result was given out.
    Executing {
        /// The server had said that the statement is complete.
        completed: bool,
    },
}

/// A statement that was sent, and failed.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) statement: &'a Statement,
    /// The server had said that it is complete.
    pub(super) completed: bool,
}

impl Phase {
    pub(super) fn sent(self, statement: Option<&Statement>) -> Option<Sent<'_>> {
        match self {
            Self::Leasing | Self::Beginning => None,
            Self::Executing { completed } => {
                statement.map(|statement| Sent { statement, completed })
            }
        }
    }
}

/// How it is known that what failed had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoEffect {
    /// It was never sent, or nothing but a `BEGIN` was.
    NeverSent,
    /// The server refused it as read-only: a demoted primary, or a session from before a promotion.
    RefusedReadOnly,
    /// The server ended it, because it shuts down.
    EndedByShutdown,
}

/// The attempts of one statement.
pub(super) struct Retry {
    target: Target<()>,
    /// How often it may still be run elsewhere.
    pub(super) left: u32,
    /// Why this is not the first attempt.
    pub(super) cause: Option<Reason>,
    /// A standby refused it as a write.
    pub(super) to_primary: bool,
    /// The incarnations of the nodes on which it failed.
    excluded: Vec<u64>,
    pub(super) attempt: Attempt,
    /// Where the attempt goes.
    pub(super) node: Option<Arc<Node>>,
    /// When the attempt began.
    pub(super) asked: Instant,
    /// How often the attempt's node became another while a connection was waited for.
    changes: u32,
    /// Counts it as a write under way until its lease does.
    pub(super) under_way: Option<WriteUnderWay>,
    /// The attempt before met a connection that had prepared it before its tables changed.
    pub(super) is_outdated: bool,
    lost_connection: bool,
    /// How often it was sent again because it had had no effect.
    resent: u32,
    pauses: Backoff,
    /// Since when it waits for a primary, or for another one.
    waits_since: Option<Instant>,
}

/// What an attempt's node was when it was selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) incarnation: u64,
    on_replica: bool,
    on_writer: bool,
}

impl Retry {
    /// May run `retries` times elsewhere.
    pub(super) fn new(target: Target<()>, retries: u32) -> Self {
        Self {
            target,
            left: retries,
            cause: None,
            to_primary: false,
            excluded: Vec::new(),
            attempt: Attempt { incarnation: 0, on_replica: false, on_writer: true },
            node: None,
            asked: Instant::now(),
            changes: 0,
            under_way: None,
            is_outdated: false,
            lost_connection: false,
            resent: 0,
            pauses: Backoff::new(FIRST_PAUSE, MAX_PAUSE),
            waits_since: None,
        }
    }

    /// Another attempt begins.
    pub(super) fn begin_attempt(&mut self) {
        self.asked = Instant::now();
        self.changes = 0;
        self.under_way = None;
    }

    /// The attempt goes to this node, of which this is known.
    pub(super) fn selected(&mut self, node: &Arc<Node>, view: &NodeView, as_writer: bool) {
        self.node = Some(Arc::clone(node));
        self.attempt = Attempt {
            incarnation: view.incarnation,
            on_replica: view.role == Role::Replica,
            on_writer: as_writer,
        };
    }

    /// The attempt's node became another while a connection was waited for. Returns how often that
    /// happened.
    pub(super) fn note_change(&mut self) -> u32 {
        self.changes += 1;
        self.changes
    }

    /// The numbers of the nodes on which it failed.
    pub(super) fn excluded_in(&self, snapshot: &Snapshot) -> ExcludedNodes {
        let mut excluded = ExcludedNodes::default();
        if !self.excluded.is_empty() {
            let nodes = snapshot.nodes.iter().enumerate();
            let failed = nodes.filter(|(_, node)| self.excluded.contains(&node.incarnation));
            failed.for_each(|(number, _)| excluded.insert(number));
        }
        excluded
    }

    /// Whether it may be run elsewhere at once.
    ///
    /// A read may, since it has no effect. What was asked of a replica may while a standby ran it,
    /// which cannot write. For writes see [`no_effect`](Self::no_effect).
    pub(super) fn may_run_elsewhere(
        &mut self,
        access: Access,
        error: &sqlx::Error,
        sent: Option<Sent<'_>>,
    ) -> bool {
        let is_harmless = match self.target {
            // What a standby has refused may write, whatever the classifier says.
            Target::Auto | Target::Primary => access == Access::Read && !self.to_primary,
            Target::Replica => self.attempt.on_replica || access == Access::Read,
            Target::Node(()) => false,
        };
        if !is_harmless {
            return false;
        }
        let code = sqlstate(error).unwrap_or_default();
        if self.attempt.on_replica && self.target == Target::Auto && primary_may_do_it(&code) {
            if let (Some(sent), READ_ONLY_TRANSACTION | FEATURE_NOT_SUPPORTED) = (sent, &*code) {
                sent.statement.plan().rescue();
            }
            self.cause = Some(Reason::Rescued);
            self.to_primary = true;
            return true;
        }
        if self.left == 0 || !self.failed_with_node(error, &code) {
            return false;
        }
        self.left -= 1;
        self.excluded.push(self.attempt.incarnation);
        self.cause = Some(Reason::Retried);
        true
    }

    /// How it is known that a write had no effect, if it is.
    ///
    /// Once it was sent, this is known of single queries only: any other text can commit on its own,
    /// and may have done so before it failed.
    pub(super) fn no_effect(
        &self,
        error: &sqlx::Error,
        sent: Option<Sent<'_>>,
    ) -> Option<NoEffect> {
        if !self.attempt.on_writer || self.target == Target::Node(()) {
            return None;
        }
        let Some(Sent { statement, completed }) = sent else {
            let code = sqlstate(error).unwrap_or_default();
            // Another primary would refuse a connection just so.
            let is_lasting = refuses_role_or_database(&code) || code == TOO_MANY_CONNECTIONS;
            let has_failed = !is_lasting && self.failed_with_node(error, &code);
            return has_failed.then_some(NoEffect::NeverSent);
        };
        if let Some(Error::NodeDown { sent: false, .. }) = Error::of(error) {
            return Some(NoEffect::NeverSent);
        }
        let traits = &statement.plan().traits;
        if !traits.is_query || traits.multiple_commands {
            return None;
        }
        // In the extended protocol a statement commits after the server has said that it is complete,
        // in the simple protocol before.
        let is_uncommitted = statement.is_extended() && !completed;
        if is_uncommitted && said_by(error, ADMIN_SHUTDOWN, "ProcessInterrupts") {
            return Some(NoEffect::EndedByShutdown);
        }
        said_by(error, READ_ONLY_TRANSACTION, "PreventCommand").then_some(NoEffect::RefusedReadOnly)
    }

    /// Whether what had no effect is sent again; `is_still_primary` says whether its server is the
    /// primary that it was.
    pub(super) fn may_resend(&mut self, no_effect: NoEffect, is_still_primary: bool) -> bool {
        let may_resend = match no_effect {
            NoEffect::NeverSent => true,
            // Once it is sent again all the same: the session may be older than the server's promotion.
            // A server that refuses it twice is set to be read-only.
            NoEffect::RefusedReadOnly => !is_still_primary || self.resent == 0,
            // A primary that goes on did not shut down: somebody ended this session on purpose.
            NoEffect::EndedByShutdown => !is_still_primary,
        };
        self.resent += 1;
        self.cause = Some(Reason::Retried);
        may_resend
    }

    /// Whether a statement was not run because it was prepared before its tables changed. It is
    /// prepared anew, once.
    pub(super) fn may_prepare_anew(&mut self, statement: &Statement, error: &sqlx::Error) -> bool {
        if may_commit_early(statement) {
            return false;
        }
        let is_first = !self.is_outdated;
        self.is_outdated = is_outdated(error);
        is_first && self.is_outdated
    }

    /// Whether the connection was lost, for the first time.
    pub(super) fn lost_connection_first(&mut self, error: &sqlx::Error) -> bool {
        is_connection_lost(error) && !std::mem::replace(&mut self.lost_connection, true)
    }

    /// How long to wait before it is sent again.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.pauses.next_pause()
    }

    /// How long it has waited for a primary so far; the first call begins the count.
    pub(super) fn waited(&mut self) -> Duration {
        self.waits_since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Whether the error is the node's, so that another node may do better.
    fn failed_with_node(&self, error: &sqlx::Error, code: &str) -> bool {
        match (error, Error::of(error)) {
            // It has waited for all its time already, which only another node is worth.
            (_, Some(Error::AcquireTimeout { step: AcquireStep::Connecting, .. })) => {
                !self.attempt.on_writer
            }
            (_, Some(own)) => matches!(own, Error::NodeDown { .. }),
            (sqlx::Error::Database(_), None) if server_keeps_session(error) => {
                // A conflict with replay. On a primary it is a conflict with other transactions, which
                // is the app's to answer.
                let is_conflict = matches!(code, SERIALIZATION_FAILURE | DEADLOCK_DETECTED);
                self.attempt.on_replica && is_conflict
            }
            (error, None) => is_connection_lost(error),
        }
    }
}

/// Whether the primary may answer otherwise than a standby that refuses so: the standby is read-only,
/// or in recovery, where there are no unlogged tables and no serializable transactions; or it does not
/// know a relation, a column, a function or a type *yet*, because a migration has not reached it.
fn primary_may_do_it(code: &str) -> bool {
    matches!(
        code,
        READ_ONLY_TRANSACTION
            | OBJECT_NOT_IN_PREREQUISITE_STATE
            | FEATURE_NOT_SUPPORTED
            | UNDEFINED_TABLE
            | UNDEFINED_COLUMN
            | UNDEFINED_FUNCTION
            | UNDEFINED_OBJECT
            | INVALID_SCHEMA_NAME
    )
}

/// Whether the statement may have committed something before it met one that was outdated.
fn may_commit_early(statement: &Statement) -> bool {
    let first = Tokens::of(statement.text()).next();
    statement.plan().traits.multiple_commands
        || first.is_some_and(|(word, _)| word.is_any(&["call", "do"]))
}
