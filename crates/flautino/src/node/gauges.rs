//! How busy a node is and how fast it answers, for balancing and the status.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::logging::micros;

/// The counters of a node.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// How many leases have a connection or wait for one.
    in_flight: AtomicU32,
    /// How many statements were sent.
    statements: AtomicU64,
    /// The mean duration of recent probes, in microseconds.
    probe_us: AtomicU32,
    /// When the server last answered a statement, in microseconds since `start`.
    answered_us: AtomicU64,
    /// Whether it is kept out of the rotation, because it lags.
    lags: AtomicBool,
    start: Instant,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            statements: AtomicU64::new(0),
            probe_us: AtomicU32::new(0),
            answered_us: AtomicU64::new(0),
            lags: AtomicBool::new(false),
            start: Instant::now(),
        }
    }
}

impl Gauges {
    /// A lease has a connection or waits for one, until [`leave`](Self::leave).
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn count_statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Records that the server answered a statement now, with a result or an error.
    pub(crate) fn record_answer(&self, now: Instant) {
        let answered = micros(now.saturating_duration_since(self.start));
        self.answered_us.store(answered, Ordering::Relaxed);
    }

    /// Whether the server has answered a statement since.
    pub(crate) fn answered_since(&self, moment: Instant) -> bool {
        let moment = micros(moment.saturating_duration_since(self.start));
        self.answered_us.load(Ordering::Relaxed) > moment
    }

    /// Records whether its lag keeps it out of the rotation. Returns whether that is new.
    pub(crate) fn note_lag(&self, lags: bool) -> bool {
        self.lags.swap(lags, Ordering::Relaxed) != lags
    }

    /// Records the duration of a probe.
    pub(crate) fn probed(&self, elapsed: Duration) {
        let new = u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX);
        let mean = match self.probe_us.load(Ordering::Relaxed) {
            0 => new,
            mean => mean - mean / 4 + new / 4,
        };
        self.probe_us.store(mean, Ordering::Relaxed);
    }

    /// How long a probe takes at present, in microseconds. Statements are not measured, because their
    /// duration depends on what they ask: one long report would make the node look slow for seconds.
    pub(crate) fn latency_us(&self) -> u32 {
        self.probe_us.load(Ordering::Relaxed)
    }
}
