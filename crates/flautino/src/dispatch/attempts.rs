//! Whether what failed may be run again, and where.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Aim;
use crate::error::{AcquireStep, Error};
use crate::handle::Handle;
use crate::node::{Node, Role};
use crate::router::{Access, Decision, Picture, Plan, Reason, Snapshot, Tried};
use crate::server_error::{
    is_connection_lost, is_outdated, said_by, server_keeps_session, sqlstate,
};
use crate::statement::Statement;

/// The first pause before a write is sent again, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Where a statement has been tried, and whether it may be tried again.
pub(crate) struct Attempts {
    /// Lives of nodes on which it failed.
    tried: Vec<u64>,
    pub(super) left: u32,
    /// Why it is not the first attempt.
    pub(super) cause: Option<Reason>,
    /// A standby refused it as a write.
    pub(super) to_primary: bool,
    aim: Aim,
    /// Where the current attempt goes, and in which of the node's lives.
    pub(super) server: Option<Arc<Node>>,
    pub(super) incarnation: u64,
    on_replica: bool,
    on_writer: bool,
    /// It met a connection that had prepared it too long ago.
    pub(super) outdated: bool,
    /// The only node lost its connection.
    lost: bool,
    /// How often it was sent again because it had done nothing.
    pub(super) resent: u32,
    /// Since when it waits for a primary, or for a better one.
    pub(super) waits_since: Option<Instant>,
}

/// Why what failed provably did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undone {
    /// It was never sent, or nothing but a `BEGIN` was.
    Unsent,
    /// The server refused it as read-only: a demoted primary, or a session from before a promotion.
    Refused,
    /// The server ended it, since it shuts down.
    Ended,
}

impl Attempts {
    pub(crate) fn new(handle: &Handle) -> Self {
        Self {
            tried: Vec::new(),
            left: handle.engine.monitor().map_or(0, |monitor| monitor.config.retries),
            cause: None,
            to_primary: false,
            aim: handle.aim.clone(),
            server: None,
            incarnation: 0,
            on_replica: false,
            on_writer: true,
            outdated: false,
            lost: false,
            resent: 0,
            waits_since: None,
        }
    }

    pub(super) fn on(&mut self, decision: Decision, snapshot: &Picture) {
        let node = &snapshot.nodes[decision.node];
        self.server = Some(Arc::clone(&snapshot.servers[decision.node]));
        self.incarnation = node.incarnation;
        self.on_replica = node.role == Role::Replica;
        self.on_writer = decision.as_writer;
    }

    /// Their numbers.
    pub(super) fn tried_in(&self, snapshot: &Snapshot) -> Tried {
        let mut tried = Tried::default();
        if !self.tried.is_empty() {
            let lives = snapshot.nodes.iter().map(|node| node.incarnation).enumerate();
            let failed = lives.filter(|(_, life)| self.tried.contains(life));
            failed.for_each(|(number, _)| tried.insert(number));
        }
        tried
    }

    /// Whether this may be run again at once, after it failed so before its first row; `plan` is the
    /// statement's, where one was sent.
    ///
    /// A read may, since it did nothing. What was asked of a replica may while a standby ran it,
    /// which cannot write. For writes see [`undone`](Attempts::undone).
    pub(super) fn elsewhere(
        &mut self,
        access: Access,
        error: &sqlx::Error,
        plan: Option<&Plan>,
    ) -> bool {
        let code = sqlstate(error).unwrap_or_default();
        let harmless = match self.aim {
            // What a standby refused may write, whatever it was taken for.
            Aim::Auto | Aim::Primary => access == Access::Read && !self.to_primary,
            Aim::Replica => self.on_replica || access == Access::Read,
            Aim::Node(_) => false,
        };
        if !harmless {
            return false;
        }
        if self.on_replica && matches!(self.aim, Aim::Auto) && is_for_the_primary(&code) {
            if let (Some(plan), "25006" | "0A000") = (plan, &*code) {
                plan.rescue();
            }
            self.cause = Some(Reason::Rescued);
            self.to_primary = true;
            return true;
        }
        if self.left == 0 || !self.failed_with_node(error, &code) {
            return false;
        }
        self.left -= 1;
        self.tried.push(self.incarnation);
        self.cause = Some(Reason::Retried);
        true
    }

    /// How it is known that a write did nothing, if it is. `sent` is the statement, where one was
    /// sent, and whether the server said that it was completed.
    ///
    /// Only single queries qualify: another text can commit on its own, and may have done so before.
    pub(super) fn undone(
        &self,
        error: &sqlx::Error,
        sent: Option<(&Statement, bool)>,
    ) -> Option<Undone> {
        if !self.on_writer || matches!(self.aim, Aim::Node(_)) {
            return None;
        }
        let Some((statement, completed)) = sent else {
            let code = sqlstate(error).unwrap_or_default();
            let lasts = is_no_failover(&code);
            return (!lasts && self.failed_with_node(error, &code)).then_some(Undone::Unsent);
        };
        if let Some(Error::NodeDown { sent: false, .. }) = Error::of(error) {
            return Some(Undone::Unsent);
        }
        let look = &statement.plan().look;
        if !look.is_query || look.several {
            return None;
        }
        // In the simple protocol a statement is completed before the server says so.
        if said_by(error, "57P01", "ProcessInterrupts") && statement.is_extended() && !completed {
            return Some(Undone::Ended);
        }
        said_by(error, "25006", "PreventCommand").then_some(Undone::Refused)
    }

    /// Whether a statement was not run because it was prepared before its tables changed. It is
    /// prepared anew, once.
    pub(super) fn is_outdated(&mut self, error: &sqlx::Error) -> bool {
        let first = !self.outdated;
        self.outdated = is_outdated(error);
        first && self.outdated
    }

    /// Whether the connection was lost, for the first time.
    pub(super) fn lost_connection_first(&mut self, error: &sqlx::Error) -> bool {
        is_connection_lost(error) && !std::mem::replace(&mut self.lost, true)
    }

    /// How long to wait before it is sent again.
    pub(super) fn pause(&self) -> Duration {
        (FIRST_PAUSE * 2_u32.pow(self.resent.min(10))).min(LONGEST_PAUSE)
    }

    /// How long it has waited for a primary so far; the first call begins the count.
    pub(super) fn waited(&mut self) -> Duration {
        self.waits_since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Whether the error is the node's, and another node may do better.
    fn failed_with_node(&self, error: &sqlx::Error, code: &str) -> bool {
        match (error, Error::of(error)) {
            // It waited for all its time already; elsewhere is worth another wait.
            (_, Some(Error::AcquireTimeout { step: AcquireStep::Connecting, .. })) => {
                !self.on_writer
            }
            (_, Some(own)) => matches!(own, Error::NodeDown { .. }),
            (sqlx::Error::Database(_), None) if server_keeps_session(error) => {
                // A conflict with recovery; on a primary it is the author's to answer.
                self.on_replica && matches!(code, "40001" | "40P01")
            }
            (error, None) => is_connection_lost(error),
        }
    }
}

/// Whether a server that refuses a connection so would do it after a failover too: it does not accept
/// the role, the password or the database, or has no connection left.
fn is_no_failover(code: &str) -> bool {
    code.starts_with("28") || matches!(code, "3D000" | "53300")
}

/// Whether a standby's refusal may be no answer of the primary's: it is read-only; it is in
/// recovery, or has no unlogged tables and no serializable transactions for that; or it does not know
/// a relation, a column, a function or a type *yet*, since a migration has not reached it.
fn is_for_the_primary(code: &str) -> bool {
    matches!(code, "25006" | "55000" | "0A000" | "42P01" | "42703" | "42883" | "42704" | "3F000")
}
