//! How old what a replica has is: the primary's progress over time.

use std::time::{Duration, Instant};

use super::position::Lsn;
use super::topology::Progress;

/// How many moments are remembered.
const MOST: usize = 1024;

/// Moments of the primary, and how far it was then: in its log, and in its transactions.
///
/// A replica is as fresh as a moment when it has all the log that there was then. It is so too when
/// every transaction that had ended then has ended for it. That is less, and all that a query can see,
/// but for where sequences are: the log may hold more that is not sent, for as long as half a minute,
/// while nothing happens at all. So it is after a read that has set hint bits (with `wal_log_hints`,
/// or with checksums) and then failed: nobody hurries to flush that. While a transaction is open that
/// is older than the latest one to end, only the log can tell.
#[derive(Debug)]
pub(super) struct Moments {
    log: Frontier<Lsn>,
    transactions: Frontier<u64>,
    /// How long they are remembered.
    keep: Duration,
}

impl Moments {
    pub(super) fn new(keep: Duration) -> Self {
        Self { log: Frontier::new(), transactions: Frontier::new(), keep }
    }

    /// They are another primary's from now on.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.keep);
    }

    /// The primary was asked at that moment, and is so far.
    pub(super) fn remember(&mut self, began: Instant, primary: Progress) {
        self.log.hold(began, primary.lsn);
        self.log.trim(began, self.keep);
        self.transactions.hold(began, primary.ended);
        self.transactions.trim(began, self.keep);
    }

    /// The latest moment at which the primary had no more than the replica.
    pub(super) fn contained_at(&self, replica: Progress) -> Option<Instant> {
        self.log.at(replica.lsn).max(self.transactions.at(replica.ended))
    }

    /// Whether the replica lacks something that the primary had the last time.
    pub(super) fn is_behind(&self, replica: Progress) -> bool {
        let lacks_log = self.log.latest().is_some_and(|primary| replica.lsn < primary);
        lacks_log && self.transactions.latest().is_some_and(|primary| replica.ended < primary)
    }

    /// How many bytes of log it lacks.
    pub(super) fn bytes_behind(&self, replica: Progress) -> Option<u64> {
        Some(self.log.latest()?.0.saturating_sub(replica.lsn.0))
    }
}

/// Who is so far is as fresh as that moment. Both grow from entry to entry: one that is further and
/// not later says nothing.
#[derive(Debug)]
struct Frontier<T>(Vec<(Instant, T)>);

impl<T: Copy + Ord> Frontier<T> {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// At this moment it was no further. After a crash that may be less than before.
    fn hold(&mut self, moment: Instant, far: T) {
        let same_or_more = self.0.partition_point(|(_, other)| *other < far);
        self.0.truncate(same_or_more);
        self.0.push((moment, far));
    }

    /// Forgets what is older than that, and some of what is too much.
    fn trim(&mut self, now: Instant, keep: Duration) {
        let expired = |(moment, _): &&(Instant, T)| now.saturating_duration_since(*moment) > keep;
        // The newest of the expired ones still answers for those that are far behind.
        let old = self.0.iter().take_while(expired).count();
        self.0.drain(..old.saturating_sub(1));
        if self.0.len() > MOST {
            // Every other one, and the newest.
            let mut left = self.0.len();
            self.0.retain(|_| {
                left -= 1;
                left.is_multiple_of(2)
            });
        }
    }

    /// The latest moment at which it was no further than that.
    fn at(&self, far: T) -> Option<Instant> {
        let reached = self.0.partition_point(|(_, primary)| *primary <= far);
        reached.checked_sub(1).map(|index| self.0[index].0)
    }

    fn latest(&self) -> Option<T> {
        self.0.last().map(|(_, far)| *far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Primary {
        moments: Moments,
        start: Instant,
    }

    fn progress(lsn: u64, ended: u64) -> Progress {
        Progress {
            lsn: Lsn(lsn),
            ended,
            timeline: Some(1),
            control: None,
            paused: false,
            apply_delay: Duration::ZERO,
        }
    }

    impl Primary {
        fn new() -> Self {
            Self { moments: Moments::new(Duration::from_secs(20)), start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn says(&mut self, millis: u64, lsn: u64, ended: u64) {
            self.moments.remember(self.at(millis), progress(lsn, ended));
        }

        /// When what a replica has was all there was, in milliseconds from the start.
        fn fresh(&self, lsn: u64, ended: u64) -> Option<u128> {
            let moment = self.moments.contained_at(progress(lsn, ended))?;
            Some(moment.duration_since(self.start).as_millis())
        }

        fn is_behind(&self, lsn: u64, ended: u64) -> bool {
            self.moments.is_behind(progress(lsn, ended))
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
        assert_eq!(primary.moments.bytes_behind(progress(150, 5)), Some(50));
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
        primary.moments.keep = Duration::from_secs(1_000_000);
        for step in 0..10_000 {
            primary.says(step, step * 10, step);
            assert_eq!(primary.fresh(step * 10, 0), Some(step.into()));
        }
        let entries = |primary: &Primary| {
            primary.moments.log.0.len().max(primary.moments.transactions.0.len())
        };
        assert!(entries(&primary) <= MOST, "{}", entries(&primary));
        primary.moments.keep = Duration::from_secs(1);
        primary.says(20_000, 200_000, 20_000);
        assert_eq!(entries(&primary), 2);
        assert_eq!(primary.fresh(150_000, 0), Some(9_999));
    }
}
