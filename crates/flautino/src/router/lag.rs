//! How old the data of a replica is, by what the primary had when.
//!
//! Comparing clocks or "time of the last replayed transaction" calls every replica of an idle primary
//! old. So the age is computed here from the primary's own progress: a replica is as fresh as the
//! latest moment at which the primary had nothing that the replica lacks.

use std::time::{Duration, Instant};

use super::position::Lsn;
use super::sample::Progress;

/// How many moments a history remembers.
const MAX_MOMENTS: usize = 1024;

/// What the primary had at which moment, as log and as transactions.
///
/// Log alone would do: a replica that has replayed all the log of a moment is as fresh as that
/// moment. But a primary may hold log back that no query can see, for up to half a minute while
/// nothing else happens: a read that set hint bits (with `wal_log_hints` or checksums) and then
/// failed writes log that nobody hurries to flush. So a replica also counts as fresh when every
/// transaction that had ended on the primary has ended on the replica. That is all a query can see,
/// except for sequences. While a transaction is open on the primary that is older than the latest
/// one to end, only the log can tell.
#[derive(Debug)]
pub(super) struct LagTracker {
    log: History<Lsn>,
    transactions: History<u64>,
    /// How long moments are remembered.
    keep: Duration,
}

impl LagTracker {
    pub(super) fn new(keep: Duration) -> Self {
        Self { log: History::new(), transactions: History::new(), keep }
    }

    /// Forgets everything, for another primary.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.keep);
    }

    /// Records what the primary said when it was asked at `began`.
    pub(super) fn record(&mut self, began: Instant, primary: Progress) {
        self.log.push(began, primary.lsn);
        self.log.trim(began, self.keep);
        self.transactions.push(began, primary.xid_horizon);
        self.transactions.trim(began, self.keep);
    }

    /// The latest moment at which the primary had nothing that the replica lacks.
    pub(super) fn fresh_as_of(&self, replica: Progress) -> Option<Instant> {
        let by_log = self.log.latest_up_to(replica.lsn);
        by_log.max(self.transactions.latest_up_to(replica.xid_horizon))
    }

    /// Whether the replica lacks something that the primary had when it was asked last.
    pub(super) fn is_behind(&self, replica: Progress) -> bool {
        let lacks_log = self.log.latest().is_some_and(|primary| replica.lsn < primary);
        lacks_log && self.transactions.latest().is_some_and(|primary| replica.xid_horizon < primary)
    }

    /// How many bytes of log the replica lacks.
    pub(super) fn bytes_behind(&self, replica: Progress) -> Option<u64> {
        Some(self.log.latest()?.0.saturating_sub(replica.lsn.0))
    }
}

/// Values of the primary and when it had them. Both grow from one entry to the next, which makes
/// the latest moment of a value a binary search.
#[derive(Debug)]
struct History<T>(Vec<(Instant, T)>);

impl<T: Copy + Ord> History<T> {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// The primary had this value at this moment. Earlier entries with the same value or a higher
    /// one are dropped: the value did not change since, or a crash took what was above it.
    fn push(&mut self, moment: Instant, value: T) {
        let not_below = self.0.partition_point(|(_, other)| *other < value);
        self.0.truncate(not_below);
        self.0.push((moment, value));
    }

    /// Forgets entries older than `keep`, and every other one when there are too many.
    fn trim(&mut self, now: Instant, keep: Duration) {
        let expired = |(moment, _): &&(Instant, T)| now.saturating_duration_since(*moment) > keep;
        // The newest expired entry stays, for replicas that are far behind.
        let old = self.0.iter().take_while(expired).count();
        self.0.drain(..old.saturating_sub(1));
        if self.0.len() > MAX_MOMENTS {
            // Counted from the end, so that the newest entry stays.
            let mut left = self.0.len();
            self.0.retain(|_| {
                left -= 1;
                left.is_multiple_of(2)
            });
        }
    }

    /// The latest moment at which the primary's value was not above this one.
    fn latest_up_to(&self, value: T) -> Option<Instant> {
        let reached = self.0.partition_point(|(_, primary)| *primary <= value);
        reached.checked_sub(1).map(|index| self.0[index].0)
    }

    fn latest(&self) -> Option<T> {
        self.0.last().map(|(_, value)| *value)
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

        fn says(&mut self, millis: u64, lsn: u64, xid_horizon: u64) {
            self.lag.record(self.at(millis), progress(lsn, xid_horizon));
        }

        /// When what a replica has was all there was, in milliseconds from the start.
        fn fresh(&self, lsn: u64, xid_horizon: u64) -> Option<u128> {
            let moment = self.lag.fresh_as_of(progress(lsn, xid_horizon))?;
            Some(moment.duration_since(self.start).as_millis())
        }

        fn is_behind(&self, lsn: u64, xid_horizon: u64) -> bool {
            self.lag.is_behind(progress(lsn, xid_horizon))
        }
    }

    #[test]
    fn who_has_all_the_log_is_as_fresh_as_the_last_question() {
        let mut primary = Primary::new();
        primary.says(0, 100, 7);
        // An old transaction is open, so that only the log tells.
        assert_eq!(primary.fresh(99, 5), None);
        primary.says(500, 200, 8);
        primary.says(900, 200, 8);
        assert_eq!((primary.fresh(199, 5), primary.fresh(200, 5)), (Some(0), Some(900)));
        assert!(primary.is_behind(199, 5) && !primary.is_behind(200, 5));
        assert_eq!(primary.lag.bytes_behind(progress(150, 5)), Some(50));
    }

    #[test]
    fn log_without_a_transaction_makes_no_replica_old() {
        let mut primary = Primary::new();
        primary.says(0, 100, 7);
        for step in 1..50 {
            primary.says(step * 200, 150, 7);
        }
        assert_eq!((primary.fresh(100, 7), primary.is_behind(100, 7)), (Some(9_800), false));
        // A transaction ended, and the replica has not seen that.
        primary.says(10_000, 170, 8);
        assert_eq!((primary.fresh(100, 7), primary.is_behind(100, 7)), (Some(9_800), true));
    }

    #[test]
    fn a_crash_that_loses_log_takes_its_moments_back() {
        let mut primary = Primary::new();
        primary.says(0, 100, 7);
        primary.says(200, 900, 9);
        primary.says(3000, 120, 8);
        assert_eq!((primary.fresh(120, 0), primary.fresh(100, 0)), (Some(3000), Some(0)));
        assert_eq!((primary.fresh(0, 8), primary.fresh(0, 7)), (Some(3000), Some(0)));
        assert!(!primary.is_behind(120, 0));
    }

    #[test]
    fn the_moments_are_bounded_by_number_and_age() {
        let mut primary = Primary::new();
        primary.lag.keep = Duration::from_secs(1_000_000);
        for step in 0..10_000 {
            primary.says(step, step * 10, step);
            assert_eq!(primary.fresh(step * 10, 0), Some(step.into()));
        }
        let entries =
            |primary: &Primary| primary.lag.log.0.len().max(primary.lag.transactions.0.len());
        assert!(entries(&primary) <= MAX_MOMENTS, "{}", entries(&primary));
        primary.lag.keep = Duration::from_secs(1);
        primary.says(20_000, 200_000, 20_000);
        assert_eq!(entries(&primary), 2);
        assert_eq!(primary.fresh(150_000, 0), Some(9_999));
    }
}
