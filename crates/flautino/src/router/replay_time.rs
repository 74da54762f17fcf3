//! [`ReplayTime`]: how long a replica takes until it has replayed what the primary has.
//!
//! A replica is asked for its position because of a read only when this time has passed since the
//! primary had what the read must see. So one that replays within milliseconds is asked soon, one
//! that is seconds behind is not asked in vain, and one that does not replay at all is asked less and
//! less often.

use std::time::Duration;

/// An estimate, which each answer of the replica corrects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ReplayTime(Duration);

impl ReplayTime {
    /// Takes over what an answer shows. `at_least`: the replica lacked something that the primary had
    /// had for so long. `at_most`: it had something that the primary had had for so long, and no
    /// longer.
    ///
    /// If the answer was in vain, so that it takes longer than was thought, half as much is added to
    /// what it proves. Otherwise the time shrinks by an eighth, within what the answer proves.
    pub(super) fn observe(&mut self, at_least: Option<Duration>, at_most: Option<Duration>) {
        let at_least = at_least.unwrap_or_default();
        self.0 = if at_least > self.0 {
            at_least + at_least / 2
        } else {
            let shorter = self.0 - self.0 / 8;
            at_most.map_or(shorter, |at_most| shorter.min(at_most)).max(at_least)
        };
    }

    pub(super) fn get(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long an answer takes.
    const ANSWER: Duration = Duration::from_micros(100);

    fn millis(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A replica that needs `needs` and is asked when the estimate says so. Returns how many of the
    /// last hundred questions were in vain, and how late the others were at most.
    fn asks(mut time: ReplayTime, needs: Duration) -> (usize, Duration) {
        let (mut in_vain, mut late) = (0, Duration::ZERO);
        for round in 0..200 {
            let age = time.get() + ANSWER;
            let lacks = Some(age).filter(|age| *age < needs);
            time.observe(lacks, Some(age).filter(|age| *age >= needs));
            if round >= 100 {
                in_vain += usize::from(lacks.is_some());
                late = late.max(age.saturating_sub(needs));
            }
        }
        (in_vain, late)
    }

    #[test]
    fn it_finds_out_how_long_a_replica_takes_from_above_and_from_below() {
        for needs in [millis(1), millis(3), millis(80), millis(2000)] {
            for start in [Duration::ZERO, millis(5), millis(60_000)] {
                let (in_vain, late) = asks(ReplayTime(start), needs);
                assert!(in_vain <= 50, "{needs:?} from {start:?}: {in_vain} in vain");
                assert!(late <= needs / 2 + ANSWER * 2, "{needs:?} from {start:?}: {late:?} late");
            }
        }
    }

    #[test]
    fn a_replica_that_replays_nothing_is_asked_less_and_less_often() {
        let mut time = ReplayTime::default();
        let asked = (1..60_000).map(millis).filter(|age| {
            let is_due = time.get() <= *age;
            if is_due {
                time.observe(Some(*age), None);
            }
            is_due
        });
        assert!(asked.count() < 40);
    }

    #[test]
    fn an_answer_that_proves_little_changes_little() {
        let mut time = ReplayTime(millis(80));
        // It lacks only what is young, and has only what is old.
        time.observe(Some(millis(10)), Some(millis(500)));
        assert_eq!(time.get(), millis(70));
        time.observe(None, Some(millis(20)));
        assert_eq!(time.get(), millis(20));
    }
}
