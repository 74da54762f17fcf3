//! [`Decisions`]: how often statements went where they went, for each reason.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::router::Reason;

/// How many statements were sent to a node for each [`Reason`].
#[derive(Debug, Default)]
pub(crate) struct Decisions([AtomicU64; Reason::ALL.len()]);

impl Decisions {
    pub(crate) fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.iter().copied().zip(counts)
    }
}
