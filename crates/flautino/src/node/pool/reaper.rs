//! The pool's housekeeping: closes connections that are idle for too long, too old or dead, and keeps the
//! minimum open.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle as Runtime;

use super::managed::{Idle, ManagedConnection};
use super::{Connector, NodePool, close_managed};

/// The bounds of the pause between two rounds of the reaper.
const MAX_PAUSE: Duration = Duration::from_secs(1);
const MIN_PAUSE: Duration = Duration::from_millis(20);

impl NodePool {
    /// Remembers the runtime and starts the reaper on it, at the first call. It has to be called before
    /// [`spawn`](Self::spawn), which does nothing without a runtime.
    pub(super) fn start(self: &Arc<Self>) {
        self.started.get_or_init(|| {
            self.runtime.get_or_init(Runtime::current);
            if matches!(self.connector, Connector::Server) {
                let (pool, closing) = (Arc::downgrade(self), self.closing.clone());
                self.spawn(async move {
                    closing.run_until_cancelled(reap(pool)).await;
                });
            }
        });
    }

    /// Opens `min_connections`; from now on the reaper replaces those that close.
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
            let above_minimum = state.size.saturating_sub(config.min_connections) as usize;
            let is_idle_too_long = |idle: &Idle| {
                !config.idle_timeout.is_zero() && now - idle.since >= config.idle_timeout
            };
            let is_too_old =
                |idle: &Idle| idle.managed.expires.is_some_and(|expires| expires <= now);
            let mut due = state.take_idle(is_too_old);
            let mut closable = above_minimum.saturating_sub(due.len());
            // The bottom of the stack comes first, and has been idle for the longest time.
            due.extend(state.take_idle(|idle| {
                let closes = closable > 0 && is_idle_too_long(idle);
                closable -= usize::from(closes);
                closes
            }));
            due
        };
        for Idle { managed, .. } in due {
            self.spawn(close_managed(managed));
        }
        // Nothing else tries again for waiters who were put off because the server was full.
        self.grow();
        if !self.server.is_known_down() {
            self.fill_up();
        }
    }

    /// A connection was lost in use, and the idle ones may be dead as well. Each is pinged, and put back
    /// if it answers.
    pub(crate) fn suspect_idle(self: &Arc<Self>) {
        let idle = std::mem::take(&mut self.state.lock().idle);
        for Idle { mut managed, .. } in idle {
            let pool = Arc::clone(self);
            self.spawn(async move {
                match managed.answers(pool.config.ping_timeout).await {
                    true => pool.offer(managed),
                    false => pool.discard(*managed),
                }
            });
        }
    }

    /// Pings a connection that was idle since then, and returns whether it answers.
    ///
    /// If it is dead, discards all that were idle for as long: they are probably dead as well, and
    /// pinging each would take the caller's time.
    pub(super) async fn is_alive(&self, managed: &mut ManagedConnection, since: Instant) -> bool {
        if managed.answers(self.config.ping_timeout).await {
            return true;
        }
        let dead = self.state.lock().take_idle(|idle| idle.since <= since);
        drop(dead);
        false
    }

    fn pause(&self) -> Duration {
        let times = [self.config.idle_timeout, self.config.max_lifetime];
        let shortest = times.into_iter().filter(|time| !time.is_zero()).min();
        shortest.map_or(MAX_PAUSE, |time| (time / 4).clamp(MIN_PAUSE, MAX_PAUSE))
    }
}

/// Runs until the pool is dropped; it holds the pool weakly, so that it does not keep it alive.
async fn reap(pool: Weak<NodePool>) {
    while let Some(pause) = pool.upgrade().map(|pool| pool.pause()) {
        tokio::time::sleep(pause).await;
        if let Some(pool) = pool.upgrade() {
            pool.reap_once();
        }
    }
}
