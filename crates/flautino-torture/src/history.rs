//! What happened: every operation of every client, every fault, and the tables at the end.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::violation::Check;

/// A moment, counted from the start of the run.
pub type Moment = Duration;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One statement that adds an id to a key.
    Insert,
    /// A transaction through the closure form that adds ids.
    Pair,
    /// A transaction in another form, such as `Tx`, that adds ids.
    Import,
    /// A transaction whose closure returns `Err` after it added an id.
    Rollback,
    /// A `Tx` whose response is an error, after an id was added.
    TxRollback,
    /// A transaction that is begun, adds an id, and is dropped.
    Dropped,
    /// A `Tx` in which a statement fails before the handler returns a success.
    Spoiled,
    /// A transaction that adds an id and then sleeps until its client is gone.
    Abandoned,
    /// A lease whose session is changed before it is dropped.
    Dirty,
    /// A read of a key.
    Read,
    /// A read of a key at the level `Session`.
    SessionRead,
    /// Two reads of a key in one read-only transaction.
    ReadTransaction,
}

impl Kind {
    /// Whether it is a read.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::SessionRead | Self::ReadTransaction)
    }

    /// Whether it commits what it adds.
    #[must_use]
    pub fn commits(self) -> bool {
        matches!(self, Self::Insert | Self::Pair | Self::Import)
    }

    /// Whether it is to be answered with this status.
    #[must_use]
    pub fn is_expected(self, status: u16) -> bool {
        match self {
            Self::Rollback | Self::TxRollback | Self::Dropped => status == 422,
            // The layer turns the handler's success into an error, since nothing was committed.
            Self::Spoiled => status == 500,
            _ => status == 200,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Insert => "insert",
            Self::Pair => "pair",
            Self::Import => "import",
            Self::Rollback => "rollback",
            Self::TxRollback => "tx-rollback",
            Self::Dropped => "dropped",
            Self::Spoiled => "spoiled",
            Self::Abandoned => "abandoned",
            Self::Dirty => "dirty",
            Self::Read => "read",
            Self::SessionRead => "session-read",
            Self::ReadTransaction => "read-transaction",
        })
    }
}

/// What the client knows about the effect of its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The app answered with a success.
    Acknowledged,
    /// The app said that nothing was done.
    Refused,
    /// It may have been done or not.
    Unknown,
    /// The client went away on purpose, and does not know.
    Left,
}

/// Whether a client sends tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// The latest token that it was given.
    Tokens,
    /// No token.
    Nothing,
}

/// What [`Op::error`] says where the client waited in vain.
pub const NO_ANSWER: &str = "no answer";

/// One operation of one client. A client does one at a time.
#[derive(Debug, Clone)]
pub struct Op {
    /// Which client.
    pub client: u32,
    /// Whether the client sends tokens.
    pub carries: Carries,
    /// Which app process it asked.
    pub app: usize,
    /// What it asked for.
    pub kind: Kind,
    /// The key that was read or added to.
    pub key: u64,
    /// The ids that it adds.
    pub ids: Vec<u64>,
    /// The ids that a read returned, or had been given when it failed.
    pub seen: Vec<u64>,
    /// Before the request was sent.
    pub start: Moment,
    /// After the answer was read.
    pub end: Moment,
    /// What the client knows about its effect.
    pub outcome: Outcome,
    /// The response's status; 0 where there was none.
    pub status: u16,
    /// What the app or the network said, where it failed.
    pub error: Option<Box<str>>,
    /// `node reason` of each statement, from `Server-Timing`.
    pub nodes: Box<str>,
    /// The token that was sent.
    pub sent: Option<Box<str>>,
    /// The token that came with the response.
    pub given: Option<Box<str>>,
}

impl Op {
    /// How long the client waited.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }

    /// The node that ran its last statement.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.nodes.rsplit(", ").next()?.split(' ').next().filter(|node| !node.is_empty())
    }

    /// Whether a read was answered.
    #[must_use]
    pub fn is_answered_read(&self) -> bool {
        self.kind.is_read() && self.outcome == Outcome::Acknowledged
    }
}

/// A fault, from its first step until every app and every server had recovered.
#[derive(Debug, Clone)]
pub struct Episode {
    /// The fault's name.
    pub fault: String,
    /// The nodes and apps that it hit.
    pub target: String,
    /// Before its first step.
    pub from: Moment,
    /// When all had recovered.
    pub to: Moment,
    /// Whether another node was made the primary.
    pub failover: bool,
    /// When it excuses failures, or forbids a node.
    pub windows: Vec<Window>,
}

/// A time in which a special rule holds.
#[derive(Debug, Clone)]
pub struct Window {
    /// Its beginning.
    pub from: Moment,
    /// Its end.
    pub to: Moment,
    /// What holds then.
    pub rule: Rule,
}

/// What holds for operations in a [`Window`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Connections to the primary broke: a write under way may fail, and its outcome is unknown.
    WritesBreak,
    /// There is no primary: a write that waited for the whole `failover_timeout` may be refused.
    NoPrimary,
    /// Connections to some node broke, or it refused them: a read-only transaction may fail.
    TransactionsBreak,
    /// The app was killed: its requests may go without an answer.
    AppKilled(usize),
    /// The app was told to stop: requests that it had not begun may go without an answer.
    AppStopped(usize),
    /// The node must not be used, for this reason.
    Forbidden(&'static str, &'static str),
}

impl Window {
    /// Whether the operation was under way in it.
    #[must_use]
    pub fn overlaps(&self, op: &Op) -> bool {
        op.start <= self.to && op.end >= self.from
    }

    /// Whether the operation began and ended in it.
    #[must_use]
    pub fn contains(&self, op: &Op) -> bool {
        op.start >= self.from && op.end <= self.to
    }
}

/// What a node's table held at the end, once all faults were over.
#[derive(Debug, Clone, Default)]
pub struct FinalTable {
    /// The node.
    pub node: String,
    /// The key of each id, and the number of its rows.
    pub rows: HashMap<u64, (u64, u64)>,
}

/// A violation that the run itself saw, and that no operation shows.
#[derive(Debug, Clone)]
pub struct Remark {
    /// When it was seen.
    pub at: Moment,
    /// What it breaks.
    pub check: Check,
    /// What was seen.
    pub text: String,
}

/// All that happened in a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The operations of all clients, in the order in which they began.
    pub ops: Vec<Op>,
    /// The faults, in the order in which they ended.
    pub episodes: Vec<Episode>,
    /// Since when which node was the primary.
    pub primaries: Vec<(Moment, &'static str)>,
    /// The tables of all nodes, the primary's first.
    pub finals: Vec<FinalTable>,
    /// The violations that the run itself saw.
    pub remarks: Vec<Remark>,
}

impl History {
    /// The reads that were answered, with their indices.
    pub fn answered_reads(&self) -> impl Iterator<Item = (usize, &Op)> {
        self.ops.iter().enumerate().filter(|(_, op)| op.is_answered_read())
    }

    /// The windows of all faults.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.episodes.iter().flat_map(|episode| &episode.windows)
    }

    /// Whether another node was made the primary at some time between these.
    #[must_use]
    pub fn failed_over(&self, from: Moment, to: Moment) -> bool {
        let mut failovers = self.episodes.iter().filter(|episode| episode.failover);
        failovers.any(|episode| episode.from <= to && episode.to >= from)
    }

    /// Whether the node was the primary at that moment.
    #[must_use]
    pub fn is_primary(&self, node: &str, at: Moment) -> bool {
        let then = self.primaries.iter().rev().find(|(since, _)| *since <= at);
        then.is_some_and(|(_, primary)| *primary == node)
    }
}
