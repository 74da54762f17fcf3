//! Whether a failed statement may be run again, and where.
//!
//! Everything here decides from the attempts so far and from what the error proves; no server is
//! asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::{AcquireStep, Error};
use crate::lease::Item;
use crate::monitor::WriteUnderWay;
use crate::node::Node;
use crate::router::{Access, ExcludedNodes, NodeView, Reason, Role, Snapshot, Target};
use crate::sqlstate::{
    ADMIN_SHUTDOWN, DEADLOCK_DETECTED, FEATURE_NOT_SUPPORTED, INVALID_PARAMETER_VALUE,
    INVALID_SCHEMA_NAME, OBJECT_NOT_IN_PREREQUISITE_STATE, READ_ONLY_TRANSACTION,
    SERIALIZATION_FAILURE, TOO_MANY_CONNECTIONS, UNDEFINED_COLUMN, UNDEFINED_FUNCTION,
    UNDEFINED_OBJECT, UNDEFINED_TABLE, is_connection_lost, is_outdated, lacks_value, needs_primary,
    refuses_role_or_database, said_by, server_keeps_session, sqlstate,
};
use crate::statement::Statement;

/// The first pause before a statement that had no effect is sent again. Each later one is twice as
/// long, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: sqlx::Error,
    pub(crate) phase: Phase,
    /// What a stream had read of the result before the error, none of which the caller has
    /// received.
    pub(crate) held_back: Vec<Item>,
}

impl Failure {
    pub(crate) fn new(error: sqlx::Error, phase: Phase) -> Self {
        Self { error, phase, held_back: Vec::new() }
    }
}

impl From<Failure> for sqlx::Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// How far an attempt had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It was waiting for a connection.
    Leasing,
    /// It had a connection, and had sent nothing, a `BEGIN` or the handle's settings.
    Beginning,
    /// It had sent the statement; the caller had received no row of its result.
    Executing {
        /// Whether the server had reported that the statement is complete (`CommandComplete`).
        completed: bool,
    },
}

/// A statement that was sent and then failed.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) statement: &'a Statement,
    /// Whether the server had reported that the statement is complete (`CommandComplete`).
    pub(super) completed: bool,
}

impl Phase {
    /// The statement, if the attempt had already sent it.
    pub(super) fn sent(self, statement: Option<&Statement>) -> Option<Sent<'_>> {
        match self {
            Self::Leasing | Self::Beginning => None,
            Self::Executing { completed } => {
                statement.map(|statement| Sent { statement, completed })
            }
        }
    }
}

/// Why a failed statement is known to have had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoEffect {
    /// The statement was not sent; at most a `BEGIN` was.
    NeverSent,
    /// The server refused the statement as read-only: the server is a demoted primary, or the
    /// session is older than the server's promotion.
    RefusedReadOnly,
    /// The server ended the session before the statement was complete, because it was shutting
    /// down.
    EndedByShutdown,
}

/// The attempts to run one statement: what is known of them, and how many more there may be.
pub(super) struct Retry {
    target: Target<()>,
    /// How many more times the statement may be run on another node.
    pub(super) retries_left: u32,
    /// Why the statement is being run again. `None` on the first attempt.
    pub(super) cause: Option<Reason>,
    /// Whether a replica could not run the statement. It counts as a write from then on, so that
    /// all further attempts go to the primary.
    pub(super) to_primary: bool,
    /// Whether a replica refused the statement, perhaps because it is a replica. If the primary
    /// runs it, then so it was.
    pub(super) was_refused: bool,
    /// The incarnations of the nodes on which the statement failed.
    excluded: Vec<u64>,
    /// Whether the attempt was routed: the engine had replicas when it began.
    pub(super) is_routed: bool,
    pub(super) attempt: Attempt,
    /// The node of the latest attempt. `None` until one was selected.
    pub(super) node: Option<Arc<Node>>,
    /// When the attempt began.
    pub(super) began: Instant,
    /// How often this attempt selected a node anew, because the node changed while the attempt
    /// waited for a connection.
    reselections: u32,
    /// Counts the statement as a write under way until its lease counts it.
    pub(super) write_under_way: Option<WriteUnderWay>,
    /// Whether the previous attempt failed because of what sqlx remembered for its connection.
    pub(super) is_outdated: bool,
    /// Whether an attempt on a single-node engine has lost its connection.
    has_lost_connection: bool,
    /// How often the statement was sent again because it had had no effect.
    resent: u32,
    /// Boxed, because most statements wait for nothing.
    waits: Option<Box<Waits>>,
}

/// What a statement waits for, beside a connection.
struct Waits {
    pauses: Backoff,
    /// Since when, for a primary.
    since: Option<Instant>,
    /// Until when at most, for replicas to reach what the session must see.
    until: Option<Instant>,
}

impl Default for Waits {
    fn default() -> Self {
        Self { pauses: Backoff::new(FIRST_PAUSE, MAX_PAUSE), since: None, until: None }
    }
}

/// What the node of an attempt was when it was selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) incarnation: u64,
    on_replica: bool,
    /// Whether the node was selected as the one that takes writes.
    on_writer: bool,
}

impl Retry {
    /// No attempt was made yet; after the first one, `retries` more may go to other nodes.
    pub(super) fn new(target: Target<()>, retries: u32) -> Self {
        Self {
            target,
            retries_left: retries,
            cause: None,
            to_primary: false,
            was_refused: false,
            excluded: Vec::new(),
            is_routed: false,
            attempt: Attempt { incarnation: 0, on_replica: false, on_writer: true },
            node: None,
            began: Instant::now(),
            reselections: 0,
            write_under_way: None,
            is_outdated: false,
            has_lost_connection: false,
            resent: 0,
            waits: None,
        }
    }

    /// Starts the next attempt.
    pub(super) fn begin_attempt(&mut self) {
        self.began = Instant::now();
        self.reselections = 0;
        self.write_under_way = None;
    }

    /// Records that the attempt goes to this node. `as_writer` says whether the node was selected
    /// as the one that takes writes.
    pub(super) fn record_selection(&mut self, node: &Arc<Node>, view: &NodeView, as_writer: bool) {
        self.node = Some(Arc::clone(node));
        self.attempt = Attempt {
            incarnation: view.incarnation,
            on_replica: view.role == Role::Replica,
            on_writer: as_writer,
        };
    }

    /// Counts that the attempt has to select a node anew. Returns how often it has done so.
    pub(super) fn count_reselection(&mut self) -> u32 {
        self.reselections += 1;
        self.reselections
    }

    /// The nodes on which the statement failed, by their numbers in this snapshot. A node that was
    /// restarted or replaced since then has a new incarnation, and may be tried again.
    pub(super) fn excluded_in(&self, snapshot: &Snapshot) -> ExcludedNodes {
        let mut excluded = ExcludedNodes::default();
        if !self.excluded.is_empty() {
            let nodes = snapshot.nodes.iter().enumerate();
            let failed = nodes.filter(|(_, node)| self.excluded.contains(&node.incarnation));
            failed.for_each(|(number, _)| excluded.insert(number));
        }
        excluded
    }

    /// Whether the statement may be run on another node at once.
    ///
    /// A read may, since it has no effect. Any statement may that a standby ran, if the handle
    /// asked for a replica, since a standby cannot write. For writes see
    /// [`no_effect`](Self::no_effect).
    pub(super) fn may_run_elsewhere(
        &mut self,
        access: Access,
        error: &sqlx::Error,
        sent: Option<Sent<'_>>,
    ) -> bool {
        let is_harmless = match self.target {
            Target::Auto | Target::Primary => access == Access::Read,
            Target::Replica => self.attempt.on_replica || access == Access::Read,
            Target::Node(()) => false,
        };
        // In an engine for tests what a replica would refuse is to be seen.
        let stands_in = self.node.as_ref().is_some_and(|node| node.server.setup.stands_in());
        if !is_harmless || stands_in {
            return false;
        }
        let code = sqlstate(error).unwrap_or_default();
        // What was refused before the statement was sent are the handle's settings: a role, say, that the replica
        // does not know yet.
        let is_behind = sent.is_none() && code == INVALID_PARAMETER_VALUE;
        let may_succeed = is_behind || primary_may_succeed(error, &code) || needs_primary(error);
        if self.attempt.on_replica && self.target == Target::Auto && may_succeed {
            self.was_refused = sent.is_some() && may_be_refused_for_good(error, &code);
            self.cause = Some(Reason::Rescued);
            self.to_primary = true;
            return true;
        }
        if self.retries_left == 0 || !self.is_fault_of_node(error, &code) {
            return false;
        }
        self.retries_left -= 1;
        self.excluded.push(self.attempt.incarnation);
        self.cause = Some(Reason::Retried);
        true
    }

    /// Why the statement is known to have had no effect; `None` if it may have had one.
    ///
    /// After it was sent, this can be known only of a text that is a single query. Any other text
    /// can commit on its own, and may have done so before it failed.
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
            // A new primary would refuse the connection for the same reason, so waiting for one is
            // pointless.
            let is_lasting = refuses_role_or_database(&code) || code == TOO_MANY_CONNECTIONS;
            let may_succeed = !is_lasting && self.is_fault_of_node(error, &code);
            return may_succeed.then_some(NoEffect::NeverSent);
        };
        if let Some(Error::NodeDown { sent: false, .. }) = Error::of(error) {
            return Some(NoEffect::NeverSent);
        }
        let traits = &statement.plan().traits;
        if !traits.is_query || traits.multiple_commands {
            return None;
        }
        // In the extended protocol the server reports that a statement is complete before it
        // commits it, in the simple protocol afterwards.
        let is_uncommitted = statement.is_extended() && !completed;
        if is_uncommitted && said_by(error, ADMIN_SHUTDOWN, "ProcessInterrupts") {
            return Some(NoEffect::EndedByShutdown);
        }
        said_by(error, READ_ONLY_TRANSACTION, "PreventCommand").then_some(NoEffect::RefusedReadOnly)
    }

    /// Whether to send a statement again that had no effect. `is_still_primary` says whether the
    /// server of the failed attempt still is the primary, in the same incarnation.
    pub(super) fn may_resend(&mut self, no_effect: NoEffect, is_still_primary: bool) -> bool {
        let may_resend = match no_effect {
            NoEffect::NeverSent => true,
            // A primary refuses writes on a session that is older than its promotion, so one more
            // attempt on a new session is worth it. A primary that refuses twice is configured to
            // be read-only.
            NoEffect::RefusedReadOnly => !is_still_primary || self.resent == 0,
            // If the server still is the primary it did not shut down: somebody ended this session
            // on purpose.
            NoEffect::EndedByShutdown => !is_still_primary,
        };
        self.resent += 1;
        self.cause = Some(Reason::Retried);
        may_resend
    }

    /// Whether to have sqlx forget what it remembers for the connection and run the statement again.
    /// `is_outdated` says whether the server refused it because of that. Never twice in a row.
    pub(super) fn may_prepare_anew(&mut self, is_outdated: bool) -> bool {
        let was_outdated = std::mem::replace(&mut self.is_outdated, is_outdated);
        is_outdated && !was_outdated
    }

    /// Whether the error is a lost connection, and the first one of these attempts. Records it.
    pub(super) fn is_first_lost_connection(&mut self, error: &sqlx::Error) -> bool {
        is_connection_lost(error) && !std::mem::replace(&mut self.has_lost_connection, true)
    }

    /// How long to wait before the statement is sent again.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.waits().pauses.next_pause()
    }

    fn waits(&mut self) -> &mut Waits {
        self.waits.get_or_insert_default()
    }

    /// Whether the statement has waited for a primary already.
    pub(super) fn has_waited(&self) -> bool {
        self.waits.as_ref().is_some_and(|waits| waits.since.is_some())
    }

    /// How long the statement has waited for a primary. The first call starts the clock.
    pub(super) fn waited(&mut self) -> Duration {
        self.waits().since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Until when the statement may wait for replicas to reach what its session must see, which it may
    /// do for this long altogether. The first call starts the clock.
    pub(super) fn may_wait_until(&mut self, wait: Duration) -> Instant {
        *self.waits().until.get_or_insert_with(|| Instant::now() + wait)
    }

    /// Whether the error comes from the state of the node, so that another node may succeed.
    fn is_fault_of_node(&self, error: &sqlx::Error, code: &str) -> bool {
        match (error, Error::of(error)) {
            // The attempt has already used up its `acquire_timeout`. Waiting longer is worth it
            // only for another node.
            (_, Some(Error::AcquireTimeout { step: AcquireStep::Connecting, .. })) => {
                !self.attempt.on_writer
            }
            (_, Some(own)) => matches!(own, Error::NodeDown { .. }),
            (sqlx::Error::Database(_), None) if server_keeps_session(error) => {
                // On a replica these codes mean a conflict with replay. On a primary they mean a
                // conflict with another transaction, which only the app can answer.
                let is_conflict = matches!(code, SERIALIZATION_FAILURE | DEADLOCK_DETECTED);
                self.attempt.on_replica && is_conflict
            }
            (error, None) => is_connection_lost(error),
        }
    }
}

/// Whether the primary may succeed where a standby failed. A standby is read-only, and has neither
/// unlogged tables nor serializable transactions. It also does not know a new relation, column,
/// function, type or label until it has replayed the migration that created it.
fn primary_may_succeed(error: &sqlx::Error, code: &str) -> bool {
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
    ) || matches!(error, sqlx::Error::TypeNotFound { .. })
        || lacks_value(error)
        || is_outdated(error)
}

/// Whether a standby that fails with this error may do so each time, because it is a standby. It may
/// also fail for a value of the statement's, as the primary would: only the primary can tell.
fn may_be_refused_for_good(error: &sqlx::Error, code: &str) -> bool {
    let may_be = matches!(
        code,
        READ_ONLY_TRANSACTION | OBJECT_NOT_IN_PREREQUISITE_STATE | FEATURE_NOT_SUPPORTED
    );
    // A materialized view is empty until the standby has replayed `REFRESH`.
    let is_behind = said_by(error, OBJECT_NOT_IN_PREREQUISITE_STATE, "ExecOpenScanRelation");
    may_be && !is_behind && !is_outdated(error)
}

#[cfg(test)]
mod tests;
