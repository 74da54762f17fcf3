//! Counts the writes of all sessions that are under way, and how long writes take at present.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::logging::micros;

/// The writes that are under way.
#[derive(Debug, Default)]
pub(super) struct WritesUnderWay {
    count: AtomicU32,
    /// A moving average of how long writes take, in microseconds.
    mean_us: AtomicU64,
}

/// Counts a write as under way until it is dropped.
pub(crate) struct WriteUnderWay {
    writes: Arc<WritesUnderWay>,
    began: Instant,
}

impl WritesUnderWay {
    pub(super) fn begin(self: &Arc<Self>) -> WriteUnderWay {
        self.count.fetch_add(1, Ordering::Relaxed);
        WriteUnderWay { writes: Arc::clone(self), began: Instant::now() }
    }

    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// How long a write takes at present, on average.
    pub(super) fn mean(&self) -> Duration {
        Duration::from_micros(self.mean_us.load(Ordering::Relaxed))
    }
}

impl Drop for WriteUnderWay {
    fn drop(&mut self) {
        self.writes.count.fetch_sub(1, Ordering::Relaxed);
        let elapsed = micros(self.began.elapsed());
        let mean = self.writes.mean_us.load(Ordering::Relaxed);
        // If two writes end at the same time, the average may miss one, which does not matter.
        self.writes.mean_us.store(mean - mean / 8 + elapsed / 8, Ordering::Relaxed);
    }
}
