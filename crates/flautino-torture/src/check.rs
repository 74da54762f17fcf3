//! Whether a history keeps the promises. Pure functions: a history in, violations out.
//!
//! - `visible`: what reads show: own writes, nothing that goes back, nothing that was undone
//! - `answers`: who may fail, when, and how
//! - `end`: what the tables hold once all is healed

mod answers;
mod end;
mod visible;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::history::{History, Op, Outcome};

/// A promise, by the name under which its violations are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// A client with tokens reads what it wrote.
    ReadYourWrites,
    /// At the level `Session` nothing that was read disappears.
    MonotonicReads,
    /// What was acknowledged is there at the end, on every node.
    LostWrite,
    /// What was written once is there once.
    DoubleWrite,
    /// What was rolled back or refused is never seen.
    DirtyRead,
    /// Of a transaction all is seen, or nothing.
    TornTransaction,
    /// A read misses what was acknowledged longer ago than `max_lag`.
    StaleRead,
    /// No read fails.
    FailedRead,
    /// A write fails only while connections to the primary break.
    FailedWrite,
    /// Who asks gets an answer.
    NoAnswer,
    /// A node that must serve nothing serves nothing.
    ForbiddenNode,
    /// After a fault every app sees every server again.
    NotWhole,
    /// An app that is told to stop does so in order.
    UncleanStop,
    /// Quiet apps hold no more than they held before.
    Leak,
}

impl Check {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadYourWrites => "read-your-writes",
            Self::MonotonicReads => "monotonic-reads",
            Self::LostWrite => "lost-write",
            Self::DoubleWrite => "double-write",
            Self::DirtyRead => "dirty-read",
            Self::TornTransaction => "torn-transaction",
            Self::StaleRead => "stale-read",
            Self::FailedRead => "failed-read",
            Self::FailedWrite => "failed-write",
            Self::NoAnswer => "no-answer",
            Self::ForbiddenNode => "forbidden-node",
            Self::NotWhole => "not-whole",
            Self::UncleanStop => "unclean-stop",
            Self::Leak => "leak",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one.
    pub check: Check,
    /// What is wrong, in a line.
    pub text: String,
    /// The operations that show it, by their index in the history.
    pub ops: Vec<usize>,
}

/// What the app is configured to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `routing.failover_timeout`.
    pub failover_timeout: Duration,
    /// `routing.max_lag`.
    pub max_lag: Duration,
}

/// All violations of a history.
#[must_use]
pub fn check(history: &History, limits: Limits) -> Vec<Violation> {
    let index = Index::of(history);
    let remarks = history.remarks.iter().map(|remark| {
        let text = format!("at {:.3} s: {}", remark.at.as_secs_f64(), remark.text);
        Violation { check: remark.check, text, ops: Vec::new() }
    });
    let mut found: Vec<_> = remarks.collect();
    visible::read_your_writes(history, &mut found);
    visible::monotonic_reads(history, &index, &mut found);
    visible::undone(history, &index, &mut found);
    visible::torn(history, &index, &mut found);
    visible::stale(history, limits.max_lag, &mut found);
    answers::reads(history, &mut found);
    answers::writes(history, limits.failover_timeout, &mut found);
    answers::forbidden(history, &mut found);
    end::tables(history, &index, &mut found);
    found.sort_by_key(|violation| violation.check);
    found
}

/// Who wrote which id.
struct Index {
    writers: HashMap<u64, usize>,
}

impl Index {
    fn of(history: &History) -> Self {
        let ops = history.ops.iter().enumerate();
        let writers = ops.flat_map(|(number, op)| op.ids.iter().map(move |id| (*id, number)));
        Self { writers: writers.collect() }
    }

    fn writer<'h>(&self, history: &'h History, id: u64) -> Option<(usize, &'h Op)> {
        let number = *self.writers.get(&id)?;
        Some((number, &history.ops[number]))
    }
}

impl Op {
    /// Whether what it wrote must be there.
    fn is_kept(&self) -> bool {
        self.outcome == Outcome::Acknowledged && !self.kind.reads()
    }

    /// Whether what it wrote may be there.
    fn may_be_kept(&self) -> bool {
        self.kind.keeps() && self.outcome != Outcome::Refused
    }
}
