//! All operations of a load, and what tests assert about them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use flautino_cluster::Node;
use flautino_torture::check::{Limits, check};
use flautino_torture::history::{FinalTable, History};
use flautino_torture::violation::Check;
use sqlx::PgConnection;

use super::op::{Op, Way};
use crate::common::{DOWN_WITHIN, FAILOVER_TIMEOUT, SLACK};
use crate::pulse::Pulse;

/// The defaults.
const LIMITS: Limits =
    Limits { failover_timeout: FAILOVER_TIMEOUT, max_lag: Duration::from_secs(10) };

/// All that was read and written, in the order in which it began.
pub(crate) struct Tally {
    pub(crate) ops: Vec<Op>,
    pub(crate) pulse: Pulse,
}

impl Tally {
    pub(super) fn new(mut ops: Vec<Op>, pulse: Pulse) -> Self {
        ops.sort_by_key(|op| op.started);
        Self { ops, pulse }
    }

    pub(crate) fn reads(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| op.way.is_read())
    }

    pub(crate) fn writes(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| !op.way.is_read())
    }

    /// Reads that any replica may serve were answered, rightly and without waiting.
    pub(crate) fn assert_free_reads_untouched(&self) {
        let free = || self.reads().filter(|op| op.way.is_free_read());
        assert_none("reads", free().filter(|op| !op.is_done()));
        assert_none("slow reads", free().filter(|op| self.was_slow(op, DOWN_WITHIN)));
    }

    /// Whether it took longer than that, and the machine did not stall meanwhile.
    pub(crate) fn was_slow(&self, op: &Op, most: Duration) -> bool {
        op.took > most && self.pulse.stalled(op.started, op.ended()).is_zero()
    }

    pub(crate) fn assert_no_read_failed(&self) {
        self.assert_kept(&self.history(), |check| check == Check::FailedRead);
    }

    pub(crate) fn assert_no_write_failed(&self) {
        self.assert_kept(&self.history(), |check| check == Check::FailedWrite);
    }

    /// No write failed, and none waited until some node was known to be down; most took as long as
    /// ever.
    pub(crate) fn assert_writes_untouched(&self) {
        self.assert_no_write_failed();
        assert_none("slow writes", self.writes().filter(|op| self.was_slow(op, DOWN_WITHIN)));
        let slow = self.writes().filter(|op| self.was_slow(op, SLACK)).count();
        assert!(slow * 100 <= self.writes().count(), "{slow} writes were slow");
    }

    /// Both as one.
    pub(crate) fn and(self, other: Self) -> Self {
        Self::new(self.ops.into_iter().chain(other.ops).collect(), self.pulse)
    }

    /// The node has each acknowledged write once, each other one at most once, and nothing else; and
    /// every read showed what its session must see, and nothing that was not written.
    pub(crate) async fn assert_ledger(&self, node: &Node) {
        self.assert_stored(node.name(), node.connect().await.unwrap()).await;
    }

    /// As [`assert_ledger`](Self::assert_ledger), over a connection to the node.
    pub(crate) async fn assert_stored(&self, node: &str, mut connection: PgConnection) {
        let sql = "SELECT id, count(*) FROM entries GROUP BY id";
        let rows: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
        let rows = rows.into_iter();
        let rows = rows.map(|(id, count)| (unsigned(id), (unsigned(id), unsigned(count))));
        let stored = FinalTable { node: node.to_owned(), rows: rows.collect() };
        let history = History { finals: vec![stored], ..self.history() };
        // Each test says by itself which operations may fail.
        let may_fail = [Check::FailedRead, Check::FailedWrite];
        self.assert_kept(&history, |check| !may_fail.contains(&check));
    }

    /// None of these promises was broken.
    fn assert_kept(&self, history: &History, is_meant: impl Fn(Check) -> bool) {
        let mut broken = check(history, LIMITS);
        broken.retain(|violation| is_meant(violation.check));
        let shown: Vec<_> = broken.iter().take(4).collect();
        let ops: Vec<_> =
            shown.iter().flat_map(|violation| &violation.ops).map(|op| &self.ops[*op]).collect();
        assert!(broken.is_empty(), "{} broken promises: {shown:#?}, {ops:#?}", broken.len());
    }

    /// The history that torture's checks take, with the same indices as `ops`.
    fn history(&self) -> History {
        let Some(first) = self.ops.first() else { return History::default() };
        let ops = self.ops.iter().map(|op| op.record(first.started)).collect();
        History { ops, ..History::default() }
    }
}

pub(crate) fn assert_none<'a>(what: &str, ops: impl Iterator<Item = &'a Op>) {
    let ops: Vec<_> = ops.collect();
    assert!(ops.is_empty(), "{} {what}, such as {:#?}", ops.len(), &ops[..ops.len().min(4)]);
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<(Way, String), (usize, Duration)> = BTreeMap::new();
        for op in &self.ops {
            let (count, longest) = kinds.entry((op.way, op.kind())).or_default();
            *count += 1;
            *longest = op.took.max(*longest);
        }
        for ((way, kind), (count, longest)) in kinds {
            let kind = if kind.is_empty() { "answered" } else { &kind };
            writeln!(f, "{way:?}: {count} {kind}, the longest {longest:?}")?;
        }
        Ok(())
    }
}
