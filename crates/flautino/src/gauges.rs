//! What a node carries and how fast it is, for the balance and the status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::logging::micros;
use crate::node::Node;

/// Counters of a node.
#[derive(Debug)]
pub(crate) struct Gauges {
    in_flight: AtomicU32,
    statements: AtomicU64,
    /// The mean of recent statements in microseconds; in the lower half when it was last
    /// updated, in milliseconds from the start.
    statement_us: AtomicU64,
    /// The mean of recent probes in microseconds.
    probe_us: AtomicU32,
    /// When the server last answered a statement, in microseconds from the start.
    answered_us: AtomicU64,
    start: Instant,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            statements: AtomicU64::new(0),
            statement_us: AtomicU64::new(0),
            probe_us: AtomicU32::new(0),
            answered_us: AtomicU64::new(0),
            start: Instant::now(),
        }
    }
}

impl Gauges {
    /// Counts what has or waits for a connection, until the answer is dropped.
    pub(crate) fn begin(node: &Arc<Node>) -> InFlight {
        node.gauges.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(node))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A statement is sent.
    pub(crate) fn statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// The server answered a statement, well or not.
    pub(crate) fn answered(&self) {
        self.answered_us.store(micros(self.start.elapsed()), Ordering::Relaxed);
    }

    /// Whether the server has answered a statement since.
    pub(crate) fn answered_since(&self, moment: Instant) -> bool {
        let moment = micros(moment.saturating_duration_since(self.start));
        self.answered_us.load(Ordering::Relaxed) > moment
    }

    /// A statement took so long.
    pub(crate) fn took(&self, elapsed: Duration) {
        let mean = mean_of(self.latency_us(), elapsed);
        // Statements that end at once lose all but one observation.
        self.statement_us.store(u64::from(mean) << 32 | self.millis(), Ordering::Relaxed);
    }

    /// A probe took so long.
    pub(crate) fn probed(&self, elapsed: Duration) {
        let mean = mean_of(self.probe_us.load(Ordering::Relaxed), elapsed);
        self.probe_us.store(mean, Ordering::Relaxed);
    }

    /// How long a statement takes at present, in microseconds: what recent ones took, and, half
    /// as much of that with every second that none came, what probes take. So a node that was slow
    /// is tried again.
    pub(crate) fn latency_us(&self) -> u32 {
        let probe = self.probe_us.load(Ordering::Relaxed);
        let (mean, at) = match self.statement_us.load(Ordering::Relaxed) {
            0 => return probe,
            statement => (statement >> 32, statement & 0xffff_ffff),
        };
        let seconds = self.millis().saturating_sub(at) / 1000;
        let half_lives = u32::try_from(seconds).unwrap_or(u32::MAX).min(32);
        let probe = u64::from(probe);
        let faded = probe + (mean.saturating_sub(probe) >> half_lives);
        let risen = probe.saturating_sub(mean) >> half_lives;
        u32::try_from(faded - risen).unwrap_or(u32::MAX)
    }

    fn millis(&self) -> u64 {
        // After seven weeks it begins again, and one estimate is off then.
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0) & 0xffff_ffff
    }
}

/// A mean that each new value moves by a quarter.
fn mean_of(mean: u32, new: Duration) -> u32 {
    let new = u32::try_from(new.as_micros()).unwrap_or(u32::MAX);
    if mean == 0 { new } else { mean - mean / 4 + new / 4 }
}

/// See [`Gauges::begin`].
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Node>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.gauges.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_follows_statements_and_begins_with_probes() {
        let gauges = Gauges::default();
        assert_eq!(gauges.latency_us(), 0);
        gauges.probed(Duration::from_micros(200));
        assert_eq!(gauges.latency_us(), 200);
        for _ in 0..40 {
            gauges.took(Duration::from_millis(200));
        }
        assert!(gauges.latency_us() > 190_000, "{}", gauges.latency_us());
        for _ in 0..40 {
            gauges.took(Duration::from_micros(100));
        }
        assert!(gauges.latency_us() < 210, "{}", gauges.latency_us());
    }
}
