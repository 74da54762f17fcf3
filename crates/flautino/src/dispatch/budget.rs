//! Limits how many of the primary's connections may serve reads that replicas should have served,
//! so that such reads cannot starve writes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::monitor::Monitor;

/// One permit for each such read. Empty while the engine is not open.
#[derive(Debug, Default)]
pub(crate) struct FallbackBudget(ArcSwapOption<Semaphore>);

/// How the wait for a permit ended.
pub(super) enum Waited {
    Permit(OwnedSemaphorePermit),
    /// A replica can serve the read by now.
    NotNeeded,
    /// The time is over, or the engine is closing.
    InVain,
}

impl FallbackBudget {
    /// Makes permits for this share of the primary's connections, rounded down, but at least one.
    pub(crate) fn open(&self, connections: u32, share: f64) {
        let share = f64::from(connections) * share;
        let permits = (1..=connections).take_while(|count| f64::from(*count) <= share).count();
        self.0.store(Some(Arc::new(Semaphore::new(permits.max(1)))));
    }

    /// Grants no more permits. Everyone who is waiting for one gets [`Waited::InVain`].
    pub(crate) fn close(&self) {
        if let Some(semaphore) = self.0.swap(None) {
            semaphore.close();
        }
    }

    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.0.load_full()?.try_acquire_owned().ok()
    }

    /// Waits for a permit. Whenever the monitor publishes a new state, `is_needed` is asked again
    /// whether the read still has to go to the primary.
    pub(super) async fn acquire(
        &self,
        timeout: Duration,
        monitor: &Monitor,
        is_needed: impl Fn() -> bool,
    ) -> Waited {
        let Some(semaphore) = self.0.load_full() else { return Waited::InVain };
        // One future for the whole wait, since a new one would go to the end of the queue.
        let mut permit = pin!(tokio::time::timeout(timeout, semaphore.acquire_owned()));
        loop {
            // Subscribe before `is_needed` reads the state; a change in between would be missed
            // otherwise.
            let changed = monitor.changed();
            if !is_needed() {
                return Waited::NotNeeded;
            }
            tokio::select! {
                permit = &mut permit => return match permit {
                    Ok(Ok(permit)) => Waited::Permit(permit),
                    Ok(Err(_)) | Err(_) => Waited::InVain,
                },
                () = changed => {}
            }
        }
    }
}
