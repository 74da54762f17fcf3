//! The budget of the primary's connections for reads that replicas should have served, so that such
//! reads cannot starve writes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::monitor::Monitor;

/// Permits for such reads, while the engine is open.
#[derive(Debug, Default)]
pub(crate) struct FallbackBudget(ArcSwapOption<Semaphore>);

/// How the wait for a permit ended.
pub(super) enum Waited {
    Permit(OwnedSemaphorePermit),
    /// The read need not go to the primary any more.
    NotNeeded,
    TimedOut,
    /// The engine closes.
    Closed,
}

impl FallbackBudget {
    /// Begins with this share of the primary's connections: the most whole ones that are not above
    /// it, and at least one.
    pub(crate) fn open(&self, connections: u32, share: f64) {
        let share = f64::from(connections) * share;
        let permits = (1..=connections).take_while(|count| f64::from(*count) <= share).count();
        self.0.store(Some(Arc::new(Semaphore::new(permits.max(1)))));
    }

    /// Nobody gets a permit any more, and those who wait for one are told.
    pub(crate) fn close(&self) {
        if let Some(semaphore) = self.0.swap(None) {
            semaphore.close();
        }
    }

    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.0.load_full()?.try_acquire_owned().ok()
    }

    /// Waits for a permit as long as it is needed, which is asked whenever the monitor has learnt
    /// something.
    pub(super) async fn acquire(
        &self,
        timeout: Duration,
        monitor: &Monitor,
        is_needed: impl Fn() -> bool,
    ) -> Waited {
        let Some(semaphore) = self.0.load_full() else { return Waited::Closed };
        // One wait from beginning to end, so that the place in the queue is kept.
        let mut permit = pin!(tokio::time::timeout(timeout, semaphore.acquire_owned()));
        loop {
            // Before the question, so that no change is missed.
            let changed = monitor.changed();
            if !is_needed() {
                return Waited::NotNeeded;
            }
            tokio::select! {
                permit = &mut permit => return match permit {
                    Ok(Ok(permit)) => Waited::Permit(permit),
                    Ok(Err(_)) => Waited::Closed,
                    Err(_) => Waited::TimedOut,
                },
                () = changed => {}
            }
        }
    }
}
