//! What a pool looks at again and again: who rests too long, who is too old, what is missing.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle as Runtime;

use super::entry::Idle;
use super::{NodePool, Source, close_entry};

/// How often at least, and at most, the pool is looked at.
const MAX_PAUSE: Duration = Duration::from_secs(1);
const MIN_PAUSE: Duration = Duration::from_millis(20);

impl NodePool {
    /// Before anything runs: remembers the runtime, and starts the reaper on it.
    pub(super) fn start(self: &Arc<Self>) {
        self.reaper.get_or_init(|| {
            self.runtime.get_or_init(Runtime::current);
            if matches!(self.source, Source::Server) {
                let (pool, closing) = (Arc::downgrade(self), self.closing.clone());
                self.spawn(async move {
                    closing.run_until_cancelled(reap(pool)).await;
                });
            }
        });
    }

    /// From now on the minimum is kept open.
    pub(crate) fn keep_minimum(self: &Arc<Self>) {
        if self.config.min_connections > 0 {
            self.start();
            self.fill_up();
        }
    }

    fn reap_once(self: &Arc<Self>) {
        let (now, config) = (Instant::now(), &self.config);
        let due = {
            let mut state = self.state.lock();
            let spare = state.size.saturating_sub(config.min_connections) as usize;
            let rests_too_long = |idle: &Idle| {
                !config.idle_timeout.is_zero() && now - idle.since >= config.idle_timeout
            };
            let is_too_old = |idle: &Idle| idle.entry.expires.is_some_and(|expires| expires <= now);
            let mut due = state.take_idle(is_too_old);
            let mut left = spare.saturating_sub(due.len());
            // Those that rest longest are at the bottom of the stack, and come first.
            due.extend(state.take_idle(|idle| {
                let ends = left > 0 && rests_too_long(idle);
                left -= usize::from(ends);
                ends
            }));
            due
        };
        for Idle { entry, .. } in due {
            self.spawn(close_entry(entry));
        }
        // For those who wait while the server was full.
        self.grow();
        if !self.server.is_known_down() {
            self.fill_up();
        }
    }

    fn pause(&self) -> Duration {
        let times = [self.config.idle_timeout, self.config.max_lifetime];
        let shortest = times.into_iter().filter(|time| !time.is_zero()).min();
        shortest.map_or(MAX_PAUSE, |time| (time / 4).clamp(MIN_PAUSE, MAX_PAUSE))
    }
}

/// Nothing here keeps the pool alive between two looks at it.
async fn reap(pool: Weak<NodePool>) {
    while let Some(pause) = pool.upgrade().map(|pool| pool.pause()) {
        tokio::time::sleep(pause).await;
        if let Some(pool) = pool.upgrade() {
            pool.reap_once();
        }
    }
}
