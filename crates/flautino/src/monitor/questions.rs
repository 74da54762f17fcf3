//! [`Questions`]: when replicas may be asked for their positions because of reads, and which one is
//! next.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::router::Position;

/// For how long after a read that needed a position those of new tokens are followed.
const FOLLOW_AFTER_READ: Duration = Duration::from_secs(60);

/// What was asked of replicas because of reads, and why.
#[derive(Debug)]
pub(super) struct Questions {
    /// The time from one question to the next. `None` if none may be asked.
    interval: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the next question may begin. `None` before the first one.
    next: Option<Instant>,
    /// The number of the node that was asked last.
    asked: usize,
    /// When a read last needed a position.
    needed: Option<Instant>,
    /// The position of the latest token, while a task waits for a replica to reach it.
    followed: Option<Position>,
}

impl Questions {
    pub(super) fn at_rate(per_second: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_second);
        Self { interval, state: Mutex::default() }
    }

    /// When the next question may begin, and the number of the node that was asked last. `None` if none
    /// may be asked.
    pub(super) fn next(&self, now: Instant) -> Option<(Instant, usize)> {
        self.interval?;
        let state = self.state.lock();
        Some((state.next.map_or(now, |next| next.max(now)), state.asked))
    }

    /// Counts a question to the node of this number, if one may begin now. Returns when the next one may.
    pub(super) fn begin(&self, number: usize, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        if state.next.is_some_and(|next| now < next) {
            return None;
        }
        let next = now + self.interval?;
        (state.next, state.asked) = (Some(next), number);
        Some(next)
    }

    /// Records that a read needed a position.
    pub(super) fn are_needed(&self, now: Instant) {
        self.state.lock().needed = Some(now);
    }

    /// From now on the position of this token is followed, if a read needed one lately. Returns whether
    /// that takes a new task.
    pub(super) fn follow(&self, token: Position, now: Instant) -> bool {
        let mut state = self.state.lock();
        let age = state.needed.map(|needed| now.saturating_duration_since(needed));
        if self.interval.is_none() || age.is_none_or(|age| age > FOLLOW_AFTER_READ) {
            return false;
        }
        let before = state.followed;
        state.followed = Some(before.map_or(token, |before| before.later(token)));
        before.is_none()
    }

    pub(super) fn followed(&self) -> Option<Position> {
        self.state.lock().followed
    }

    /// Follows this position no longer. Returns the one that is followed by now instead, if there is one.
    pub(super) fn stop_following(&self, position: Position) -> Option<Position> {
        let mut state = self.state.lock();
        state.followed = state.followed.filter(|followed| *followed != position);
        state.followed
    }

    /// Follows nothing any more.
    pub(super) fn stop_following_all(&self) {
        self.state.lock().followed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Lsn;

    #[test]
    fn there_are_no_more_questions_than_the_rate_allows_whoever_asks() {
        let (questions, start) = (Questions::at_rate(200), Instant::now());
        let mut begun = 0;
        for micros in (0..1_000_000).step_by(100) {
            let now = start + Duration::from_micros(micros);
            let may_begin = questions.next(now).unwrap().0 == now;
            // All who come at the same time.
            let asked = (1..5).filter(|number| questions.begin(*number, now).is_some()).count();
            assert_eq!(asked, usize::from(may_begin));
            begun += asked;
        }
        assert_eq!(begun, 200);
        assert_eq!(questions.next(start).unwrap().1, 1);
        let none = Questions::at_rate(0);
        assert_eq!((none.next(start), none.begin(1, start)), (None, None));
    }

    #[test]
    fn tokens_are_followed_by_one_task_and_only_after_a_read_that_needed_a_position() {
        let (questions, start) = (Questions::at_rate(200), Instant::now());
        let at = |lsn: u64| Position::new(1, 1, Lsn(lsn));
        assert!(!questions.follow(at(1), start));
        questions.are_needed(start);
        assert!(questions.follow(at(2), start));
        assert!(!questions.follow(at(4), start) && !questions.follow(at(3), start));
        assert_eq!(questions.stop_following(at(2)), Some(at(4)));
        assert_eq!(questions.stop_following(at(4)), None);
        assert_eq!(questions.followed(), None);
        assert!(questions.follow(at(5), start + FOLLOW_AFTER_READ));
        questions.stop_following_all();
        assert!(!questions.follow(at(6), start + FOLLOW_AFTER_READ + Duration::from_micros(1)));
        let none = Questions::at_rate(0);
        none.are_needed(start);
        assert!(!none.follow(at(1), start));
    }
}
