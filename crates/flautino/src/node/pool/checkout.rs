//! How a connection is checked out: the one that was used last; where none is idle, the caller waits for
//! the first one that is made or given back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::demand::{Caller, Demand};
use super::epoch::Epoch;
use super::managed::{Idle, ManagedConnection};
use super::pooled_connection::PooledConnection;
use super::queue::{Handed, Place};
use super::slot::Slot;
use super::{Connector, NodePool};
use crate::error::{AcquireStep, Error};

/// What a caller finds.
enum Found {
    /// A connection that is idle since then.
    Idle(PooledConnection, Instant),
    /// None is idle; the next one is handed to this waiter.
    Wait(Waiter),
}

/// A caller in the queue. When it is dropped it leaves; if a connection was handed to it by then, that is
/// given back for the next caller.
struct Waiter {
    pool: Arc<NodePool>,
    caller: Caller,
    place: Place,
    receiver: oneshot::Receiver<Handed>,
    /// It has got what it waited for.
    is_served: bool,
}

impl NodePool {
    /// Checks out a connection where none is warm: the one that was used last, else the first that comes.
    /// It fails at once if `is_up` says that the node is down.
    ///
    /// Cancel safe: a connection that is being made stays in the pool for the next caller.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        demand: &Demand,
        is_up: impl Fn() -> bool,
    ) -> Result<PooledConnection, sqlx::Error> {
        self.start();
        let came = Instant::now();
        let timeout = demand.acquire_timeout().unwrap_or(self.config.acquire_timeout);
        let caller = Caller { came, timeout };
        let mut checked_out = match &self.connector {
            Connector::Server => self.checkout_own(demand, caller, is_up).await,
            Connector::External(pool) => {
                Box::pin(self.checkout_external(pool, caller, is_up)).await
            }
        };
        let now = Instant::now();
        let waited = now.saturating_duration_since(came);
        match &mut checked_out {
            Ok(connection) => {
                self.server.metrics.waited(waited);
                connection.lend(now);
            }
            Err(error) => self.tell_failure(error),
        }
        if waited >= self.config.acquire_slow_threshold {
            tracing::warn!(
                node = %self.name(), ?waited, in_use = self.in_use(), max = self.max(),
                "a statement waited long for a connection (`pool.acquire_slow_threshold`)"
            );
        }
        checked_out
    }

    /// The connection that was used last, if nobody has to wait for it: it needs no ping and no hook.
    pub(crate) fn checkout_warm(self: &Arc<Self>, demand: &Demand) -> Option<PooledConnection> {
        if self.hooks.run_at_checkout() {
            return None;
        }
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.closed || !self.is_warm_at(now, state.idle.last()?.since) {
            return None;
        }
        let idle = state.take(demand, |idle| self.is_warm_at(now, idle.since))?;
        drop(state);
        self.server.metrics.waited(Duration::ZERO);
        let mut slot = Slot::counted(self);
        slot.lend(now);
        Some(PooledConnection::new(idle.managed, slot))
    }

    /// Tells that a caller got no connection.
    fn tell_failure(&self, error: &sqlx::Error) {
        let metrics = &self.server.metrics;
        match Error::of(error) {
            Some(Error::AcquireTimeout { step: AcquireStep::Connecting, .. }) => {
                metrics.timed_out(AcquireStep::Connecting);
                metrics.failed();
            }
            Some(Error::AcquireTimeout { step, .. }) => metrics.timed_out(*step),
            Some(Error::Closed { .. }) => {}
            Some(_) | None => metrics.failed(),
        }
    }

    async fn checkout_own(
        self: &Arc<Self>,
        demand: &Demand,
        caller: Caller,
        is_up: impl Fn() -> bool,
    ) -> Result<PooledConnection, sqlx::Error> {
        let mut former: Option<Arc<Epoch>> = None;
        for _ in 0..=self.max() {
            let may_wait = || is_up() && former.as_ref().is_none_or(|epoch| !epoch.is_ended());
            let (mut connection, since) = match self.find(demand, caller, may_wait)? {
                Found::Idle(connection, since) => (connection, Some(since)),
                Found::Wait(mut waiter) => (waiter.wait().await?, None),
            };
            match self.is_usable(&mut connection, since, caller).await {
                // The next epoch may have begun while the connection was handed over or tested.
                Ok(true) if self.is_in(connection.epoch()) => return Ok(connection),
                Ok(_) => former = Some(Arc::clone(&connection.managed().epoch)),
                Err(error) => {
                    // Still new: `after_connect` failed or took too long, so the session is not usable.
                    if connection.managed().is_new {
                        connection.discard();
                    }
                    return Err(error);
                }
            }
            connection.discard();
        }
        let refused = "`before_acquire` refused as many connections as the pool may have";
        Err(sqlx::Error::Protocol(refused.to_owned()))
    }

    /// Takes the idle connection that was used last, else a place in the queue.
    fn find(
        self: &Arc<Self>,
        demand: &Demand,
        caller: Caller,
        may_wait: impl FnOnce() -> bool,
    ) -> Result<Found, sqlx::Error> {
        let (waiter, may_grow) = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(self.closed_error());
            }
            // Asked while the state is locked: if the node goes down after that, `end` finds this caller.
            if !may_wait() {
                return Err(state.epoch.error(self.name(), false));
            }
            let idle = state.take(demand, |idle| self.is_warm(idle.since));
            if let Some(Idle { managed, since }) = idle {
                drop(state);
                let connection = PooledConnection::new(managed, Slot::counted(self));
                return Ok(Found::Idle(connection, since));
            }
            let (place, receiver) = state.queue.join(caller.came);
            let pool = Arc::clone(self);
            (Waiter { pool, caller, place, receiver, is_served: false }, state.size < state.max)
        };
        if may_grow {
            self.grow();
        }
        Ok(Found::Wait(waiter))
    }

    /// Whether a connection can be checked out: pings it if it was idle for longer than `warm_time`, and
    /// runs the app's hooks. `since` is when it became idle, `None` if it was handed over.
    async fn is_usable(
        &self,
        connection: &mut PooledConnection,
        since: Option<Instant>,
        caller: Caller,
    ) -> Result<bool, sqlx::Error> {
        let rested_since = since.filter(|since| !self.is_warm(*since));
        if rested_since.is_none() && !self.hooks.run_at_checkout() {
            return Ok(true);
        }
        let epoch = Arc::clone(&connection.managed().epoch);
        // Boxed, so that it takes no room where a connection is only waited for.
        let tests = Box::pin(async {
            if let Some(since) = rested_since
                && !self.is_alive(connection.managed(), since).await
            {
                return Ok(false);
            }
            if !self.hooks.run_at_checkout() {
                return Ok(true);
            }
            self.run_hooks(connection, caller).await
        });
        epoch.run(tests).await.unwrap_or_else(|| Err(epoch.error(self.name(), false)))
    }

    /// Runs the app's hooks for a checkout, in the caller's task. Returns `Ok(false)` if a hook refuses
    /// the connection.
    async fn run_hooks(
        &self,
        connection: &mut PooledConnection,
        caller: Caller,
    ) -> Result<bool, sqlx::Error> {
        let ManagedConnection { connection, is_new, .. } = connection.managed();
        let running = async {
            if *is_new {
                self.hooks.run_after_connect(connection).await?;
                *is_new = false;
            }
            self.hooks.run_before_acquire(connection).await
        };
        let ran = tokio::time::timeout(caller.remaining(), running).await;
        ran.unwrap_or_else(|_| Err(self.timed_out(caller.came, AcquireStep::Hook)))
    }

    /// Whether a connection that is idle since then is lent as it is.
    pub(super) fn is_warm(&self, since: Instant) -> bool {
        self.is_warm_at(Instant::now(), since)
    }

    fn is_warm_at(&self, now: Instant, since: Instant) -> bool {
        now.saturating_duration_since(since) < self.config.warm_time
    }

    pub(super) fn timed_out(&self, came: Instant, step: AcquireStep) -> sqlx::Error {
        let in_use = match &self.connector {
            Connector::Server => self.in_use(),
            Connector::External(pool) => Self::external_in_use(pool),
        };
        Error::AcquireTimeout {
            node: self.name().to_string(),
            waited: came.elapsed(),
            step,
            in_use,
            max: self.max(),
        }
        .into()
    }
}

impl Waiter {
    async fn wait(&mut self) -> Result<PooledConnection, sqlx::Error> {
        let Caller { came, .. } = self.caller;
        let remaining = self.caller.remaining();
        let Ok(handed) = tokio::time::timeout(remaining, &mut self.receiver).await else {
            return Err(self.pool.timed_out(came, self.step()));
        };
        self.is_served = true;
        let managed = handed.unwrap_or_else(|_| Err(self.pool.closed_error()))?;
        Ok(PooledConnection::new(managed, Slot::counted(&self.pool)))
    }

    /// What it waits for: the making of a connection, if one is made for it, else one that is in use.
    fn step(&self) -> AcquireStep {
        let state = self.pool.state.lock();
        let ahead = state.queue.ahead_of(self.place);
        match ahead < state.max.saturating_sub(state.in_use) as usize {
            true => AcquireStep::Connecting,
            false => AcquireStep::WaitingForSlot,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.is_served {
            return;
        }
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(Ok(managed)) => Slot::counted(&self.pool).give_back(managed),
            Ok(Err(_)) => {}
            Err(_) => self.pool.state.lock().queue.leave(self.place),
        }
    }
}
