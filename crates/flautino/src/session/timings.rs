//! [`Timing`]: where a statement of a session went, and how long it took.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::router::Reason;

/// How many statements of a session are recorded.
const MAX_TIMINGS: usize = 8;

/// One statement of a recorded session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Timing {
    /// The node that ran it.
    pub node: Arc<str>,
    /// Why that node.
    pub reason: Reason,
    /// The time from asking for a connection to the end of the result.
    pub elapsed: Duration,
}

impl Timing {
    pub(crate) fn new(node: Arc<str>, reason: Reason, elapsed: Duration) -> Self {
        Self { node, reason, elapsed }
    }
}

/// The first statements of a session. Empty until recording starts, which costs nothing then.
#[derive(Debug, Default)]
pub(super) struct Timings(OnceLock<Mutex<Vec<Timing>>>);

impl Timings {
    /// Starts recording.
    pub(super) fn record(&self) {
        self.0.get_or_init(Mutex::default);
    }

    pub(super) fn push(&self, timing: Timing) {
        let Some(timings) = self.0.get() else { return };
        let mut timings = timings.lock();
        if timings.len() < MAX_TIMINGS {
            timings.push(timing);
        }
    }

    pub(super) fn all(&self) -> Vec<Timing> {
        self.0.get().map_or_else(Vec::new, |timings| timings.lock().clone())
    }
}
