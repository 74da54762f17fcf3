//! Replay lag: how old the data of a replica is.
//!
//! Comparing clocks, or the time of the last replayed transaction, makes every replica of an idle
//! primary look old. So the age is computed here from the primary's own progress: a replica is as
//! fresh as the latest moment at which the primary had nothing that the replica lacks.

use std::time::{Duration, Instant};

use super::position::Lsn;
use super::sample::Progress;

/// How many entries a history keeps.
const MAX_ENTRIES: usize = 1024;

/// Which WAL position the primary had at which moment, and which transactions had ended on it.
///
/// A replica that has replayed the primary's WAL up to its position of some moment is as fresh as
/// that moment. But an idle primary may hold back WAL for up to half a minute: a read that set hint
/// bits (with `wal_log_hints` or checksums) writes WAL that no query can see and that nothing
/// flushes soon. So a replica also counts as fresh if every transaction that had ended on the
/// primary has ended on the replica. Except for sequences, that is all that a query can see. This
/// second way does not work while a transaction is open on the primary that is older than the
/// latest one to end.
#[derive(Debug)]
pub(super) struct LagTracker {
    /// The primary's WAL positions.
    wal: History<Lsn>,
    /// The primary's [`Progress::xid_horizon`].
    xid_horizons: History<u64>,
    /// How long entries are kept.
    keep: Duration,
}

impl LagTracker {
    pub(super) fn new(keep: Duration) -> Self {
        Self { wal: History::new(), xid_horizons: History::new(), keep }
    }

    /// Forgets everything, because another primary's progress follows.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.keep);
    }

    /// Records the progress that the primary reported to a probe that began at this moment.
    pub(super) fn record(&mut self, began: Instant, primary: Progress) {
        self.wal.push(began, primary.lsn);
        self.wal.trim(began, self.keep);
        self.xid_horizons.push(began, primary.xid_horizon);
        self.xid_horizons.trim(began, self.keep);
    }

    /// The latest moment at which the primary had nothing that the replica lacks. `None` if no such
    /// moment is known.
    pub(super) fn fresh_as_of(&self, replica: Progress) -> Option<Instant> {
        let by_wal = self.wal.latest_up_to(replica.lsn);
        by_wal.max(self.xid_horizons.latest_up_to(replica.xid_horizon))
    }

    /// Whether the replica lacks something that the primary had when it was last probed.
    pub(super) fn is_behind(&self, replica: Progress) -> bool {
        let lacks_wal = self.wal.latest().is_some_and(|primary| replica.lsn < primary);
        lacks_wal && self.xid_horizons.latest().is_some_and(|primary| replica.xid_horizon < primary)
    }

    /// Since when the primary is known to have this position. If it was not seen so far yet, this is
    /// when it was last seen. `None` if nothing is known of the primary.
    pub(super) fn known_since(&self, position: Lsn) -> Option<Instant> {
        let known = self.wal.first_from(position).map(|entry| entry.since);
        known.or_else(|| Some(self.wal.0.last()?.until))
    }

    /// How long the primary had had, at this moment, the oldest position that a replica at `replayed`
    /// lacks, and the newest one that it has. It takes longer than the first time to replay a
    /// position, and no longer than the second.
    pub(super) fn replay_bounds(
        &self,
        replayed: Lsn,
        moment: Instant,
    ) -> (Option<Duration>, Option<Duration>) {
        let known_for = |entry: &Entry<Lsn>| moment.checked_duration_since(entry.since);
        let lacking = self.wal.first_from(Lsn(replayed.0.saturating_add(1)));
        (lacking.and_then(known_for), self.wal.last_up_to(replayed).and_then(known_for))
    }

    /// Up to where a replica at `replayed` has what a query can see, on which all transactions below this
    /// id have ended.
    pub(super) fn visible(&self, replayed: Lsn, xid_horizon: u64) -> Lsn {
        match (self.wal.latest(), self.xid_horizons.latest()) {
            (Some(lsn), Some(needed)) if xid_horizon >= needed => replayed.max(lsn),
            _ => replayed,
        }
    }

    /// How many bytes of WAL the replica has not replayed yet.
    pub(super) fn bytes_behind(&self, replica: Progress) -> Option<u64> {
        Some(self.wal.latest()?.0.saturating_sub(replica.lsn.0))
    }
}

/// Values of the primary. Both moments and values grow from one entry to the next, so that a binary
/// search finds an entry.
#[derive(Debug)]
struct History<T>(Vec<Entry<T>>);

/// A value, and the first and the last moment at which the primary is known to have had it.
#[derive(Debug, Clone, Copy)]
struct Entry<T> {
    value: T,
    since: Instant,
    until: Instant,
}

impl<T: Copy + Ord> History<T> {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the value that the primary had at this moment. Drops entries of higher values, which a
    /// crash of the primary undid.
    fn push(&mut self, moment: Instant, value: T) {
        let not_below = self.0.partition_point(|entry| entry.value < value);
        let same = self.0.get(not_below).filter(|entry| entry.value == value);
        let since = same.map_or(moment, |entry| entry.since);
        self.0.truncate(not_below);
        self.0.push(Entry { value, since, until: moment });
    }

    /// Drops entries older than `keep`, and every other one if there are too many.
    fn trim(&mut self, now: Instant, keep: Duration) {
        let expired = |entry: &&Entry<T>| now.saturating_duration_since(entry.until) > keep;
        // The newest expired entry stays, so that a replica that is far behind still has an age.
        let old = self.0.iter().take_while(expired).count();
        self.0.drain(..old.saturating_sub(1));
        if self.0.len() > MAX_ENTRIES {
            // Counted from the end, so that the newest entry stays.
            let mut left = self.0.len();
            self.0.retain(|_| {
                left -= 1;
                left.is_multiple_of(2)
            });
        }
    }

    /// The latest moment at which the primary's value was at most this one.
    fn latest_up_to(&self, value: T) -> Option<Instant> {
        self.last_up_to(value).map(|entry| entry.until)
    }

    /// The entry of the highest value that is at most this one.
    fn last_up_to(&self, value: T) -> Option<&Entry<T>> {
        let reached = self.0.partition_point(|entry| entry.value <= value);
        reached.checked_sub(1).map(|index| &self.0[index])
    }

    /// The entry of the lowest value that is at least this one.
    fn first_from(&self, value: T) -> Option<&Entry<T>> {
        self.0.get(self.0.partition_point(|entry| entry.value < value))
    }

    fn latest(&self) -> Option<T> {
        self.0.last().map(|entry| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Primary {
        lag: LagTracker,
        start: Instant,
    }

    fn progress(lsn: u64, xid_horizon: u64) -> Progress {
        Progress {
            lsn: Lsn(lsn),
            xid_horizon,
            timeline: Some(1),
            control: None,
            paused: false,
            apply_delay: Duration::ZERO,
        }
    }

    impl Primary {
        fn new() -> Self {
            Self { lag: LagTracker::new(Duration::from_secs(20)), start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn reports(&mut self, millis: u64, lsn: u64, xid_horizon: u64) {
            self.lag.record(self.at(millis), progress(lsn, xid_horizon));
        }

        /// As of when a replica with this progress is fresh, in milliseconds from the start.
        fn fresh(&self, lsn: u64, xid_horizon: u64) -> Option<u128> {
            let moment = self.lag.fresh_as_of(progress(lsn, xid_horizon))?;
            Some(moment.duration_since(self.start).as_millis())
        }

        fn is_behind(&self, lsn: u64, xid_horizon: u64) -> bool {
            self.lag.is_behind(progress(lsn, xid_horizon))
        }
    }

    #[test]
    fn a_replica_that_has_all_the_wal_is_as_fresh_as_the_primarys_last_probe() {
        let mut primary = Primary::new();
        primary.reports(0, 100, 7);
        // An old transaction is open on the primary, so that only the WAL tells.
        assert_eq!(primary.fresh(99, 5), None);
        primary.reports(500, 200, 8);
        primary.reports(900, 200, 8);
        assert_eq!((primary.fresh(199, 5), primary.fresh(200, 5)), (Some(0), Some(900)));
        assert!(primary.is_behind(199, 5) && !primary.is_behind(200, 5));
        assert_eq!(primary.lag.bytes_behind(progress(150, 5)), Some(50));
    }

    #[test]
    fn wal_without_a_transaction_makes_no_replica_old() {
        let mut primary = Primary::new();
        primary.reports(0, 100, 7);
        for step in 1..50 {
            primary.reports(step * 200, 150, 7);
        }
        assert_eq!((primary.fresh(100, 7), primary.is_behind(100, 7)), (Some(9_800), false));
        // A transaction ended on the primary, and the replica has not replayed that.
        primary.reports(10_000, 170, 8);
        assert_eq!((primary.fresh(100, 7), primary.is_behind(100, 7)), (Some(9_800), true));
    }

    #[test]
    fn what_a_replica_has_and_what_it_lacks_bound_how_long_replay_takes() {
        let mut primary = Primary::new();
        assert_eq!(primary.lag.known_since(Lsn(1)), None);
        primary.reports(0, 100, 7);
        primary.reports(500, 200, 7);
        primary.reports(900, 200, 7);
        primary.reports(1000, 300, 7);
        let since = |lsn: u64| primary.lag.known_since(Lsn(lsn)).unwrap() - primary.start;
        // The first moment of a value counts. What is beyond all of them was written after the last.
        let known: Vec<_> = [1, 101, 200, 201, 999].map(|lsn| since(lsn).as_millis()).into();
        assert_eq!(known, [0, 500, 500, 1000, 1000]);
        let bounds = |lsn: u64, millis: u64| {
            let (lacks, has) = primary.lag.replay_bounds(Lsn(lsn), primary.at(millis));
            (lacks.map(|time| time.as_millis()), has.map(|time| time.as_millis()))
        };
        assert_eq!(bounds(99, 1100), (Some(1100), None));
        assert_eq!(bounds(250, 1100), (Some(100), Some(600)));
        assert_eq!(bounds(300, 1100), (None, Some(100)));
        // The primary got there after the replica was asked.
        assert_eq!(bounds(200, 950), (None, Some(450)));
    }

    #[test]
    fn a_crash_of_the_primary_that_loses_wal_undoes_its_entries() {
        let mut primary = Primary::new();
        primary.reports(0, 100, 7);
        primary.reports(200, 900, 9);
        primary.reports(3000, 120, 8);
        assert_eq!((primary.fresh(120, 0), primary.fresh(100, 0)), (Some(3000), Some(0)));
        assert_eq!((primary.fresh(0, 8), primary.fresh(0, 7)), (Some(3000), Some(0)));
        assert!(!primary.is_behind(120, 0));
    }

    #[test]
    fn the_entries_are_bounded_by_number_and_age() {
        let mut primary = Primary::new();
        primary.lag.keep = Duration::from_secs(1_000_000);
        for step in 0..10_000 {
            primary.reports(step, step * 10, step);
            assert_eq!(primary.fresh(step * 10, 0), Some(step.into()));
        }
        let entries =
            |primary: &Primary| primary.lag.wal.0.len().max(primary.lag.xid_horizons.0.len());
        assert!(entries(&primary) <= MAX_ENTRIES, "{}", entries(&primary));
        primary.lag.keep = Duration::from_secs(1);
        primary.reports(20_000, 200_000, 20_000);
        assert_eq!(entries(&primary), 2);
        assert_eq!(primary.fresh(150_000, 0), Some(9_999));
    }
}
