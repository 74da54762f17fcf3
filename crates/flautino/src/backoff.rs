//! Pauses between attempts: each twice as long as the one before, up to a limit.

use std::time::Duration;

/// The pauses between the attempts at one thing.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// The first pause is `first`, and none is longer than `max`.
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The pause before the next attempt.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// As [`next_pause`](Self::next_pause), shorter by a random part of up to one half, so that two
    /// who collided do not collide again.
    pub(crate) fn next_jittered_pause(&mut self) -> Duration {
        self.next_pause().mul_f64(0.5 + fastrand::f64() * 0.5)
    }
}
