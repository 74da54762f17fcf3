//! What can be wrong with a history: the promises, and one that was broken.

use std::fmt;

/// A promise, by the name under which its violations are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// A client that carries its tokens reads what it wrote.
    ReadYourWrites,
    /// At the level `Session`, what a client has read it reads again.
    MonotonicReads,
    /// A write that was acknowledged is on every node at the end.
    LostWrite,
    /// What was written once is stored once.
    DoubleWrite,
    /// What was rolled back or refused is never read.
    DirtyRead,
    /// A read shows all writes of a transaction, or none.
    TornTransaction,
    /// A read shows what was acknowledged longer ago than `max_lag`.
    StaleRead,
    /// No read fails.
    FailedRead,
    /// A write fails only while connections to the primary break.
    FailedWrite,
    /// Every request gets a response.
    NoAnswer,
    /// A node that must not be used is not used.
    ForbiddenNode,
    /// After a fault every app sees every server again.
    NotRecovered,
    /// An app that is told to stop answers all its requests first.
    UncleanStop,
    /// Idle apps hold no more memory, files, tasks and sessions than before.
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
            Self::NotRecovered => "not-recovered",
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
    /// Which promise.
    pub check: Check,
    /// What is wrong, in a line.
    pub text: String,
    /// The operations that show it, by their index in the history.
    pub ops: Vec<usize>,
}

impl Violation {
    pub(crate) fn new(check: Check, text: String, ops: Vec<usize>) -> Self {
        Self { check, text, ops }
    }
}
