//! How a connection is lent: a permit first, then what rests, else what comes first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{TryAcquireError, oneshot};

use super::NodePool;
use super::entry::{Entry, Idle};
use super::lent::PooledConnection;
use super::permit::Permit;
use crate::error::{AcquireStep, Error};

/// How long an asker waits before connections that are made for the minimum yield to it.
const CROWDED_AFTER: Duration = Duration::from_millis(200);

/// What one who has a permit finds.
enum Found {
    Idle(Idle),
    /// One that comes later.
    Later(Waiter),
    Closed,
}

/// One who waits for a connection. Dropped, what was handed over meanwhile goes to the next.
struct Waiter {
    receiver: oneshot::Receiver<Result<Entry, sqlx::Error>>,
    pool: Arc<NodePool>,
}

impl NodePool {
    /// Lends a connection: the one that was used last, else the first that comes. `up` says whether
    /// the node is up still; without that, nothing is waited for.
    ///
    /// Cancel safe: a connection under way is kept for the next.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        up: impl FnOnce() -> bool,
    ) -> Result<PooledConnection, sqlx::Error> {
        if let Some(connection) = self.checkout_warm() {
            return Ok(connection);
        }
        self.start();
        // Before the look at the node, so that one that turns down after it is noticed.
        let epoch = self.epoch();
        if !up() {
            return Err(epoch.error(self.name(), false));
        }
        let started = Instant::now();
        let lent = epoch.run(self.wait_for_one(started)).await;
        let waited = started.elapsed();
        if waited >= self.config.acquire_slow_threshold {
            tracing::warn!(
                node = %self.name(), ?waited, in_use = self.in_use(), max = self.max(),
                "a statement waited long for a connection (`pool.acquire_slow_threshold`)"
            );
        }
        lent.unwrap_or_else(|| Err(epoch.error(self.name(), false)))
    }

    /// The connection that was used last, where nothing has to be done before it is lent.
    fn checkout_warm(self: &Arc<Self>) -> Option<PooledConnection> {
        if self.hooks.run_at_checkout() {
            return None;
        }
        self.permits.try_acquire().ok()?.forget();
        let permit = Permit::of(Arc::clone(self));
        let mut state = self.state.lock();
        let top = state.idle.last()?;
        if top.since.elapsed() >= self.config.warm_time {
            return None;
        }
        let idle = state.idle.pop()?;
        drop(state);
        Some(PooledConnection::new(idle.entry, permit))
    }

    async fn wait_for_one(
        self: &Arc<Self>,
        started: Instant,
    ) -> Result<PooledConnection, sqlx::Error> {
        let mut permit = self.permit(started).await?;
        for _ in 0..=self.max() {
            let (entry, since) = match self.find() {
                Found::Idle(Idle { entry, since }) => (entry, Some(since)),
                Found::Later(waiter) => (waiter.wait(started).await?, None),
                Found::Closed => return Err(self.closed()),
            };
            let mut connection = PooledConnection::new(entry, permit);
            match self.is_usable(&mut connection, since, started).await {
                // Not where another epoch began while it was handed over or looked at.
                Ok(true) if connection.epoch().is(&self.epoch()) => return Ok(connection),
                Ok(_) => {}
                Err(error) => {
                    // `after_connect` failed, so that the session is not as the app wants it.
                    if connection.entry().is_new {
                        drop(connection.discard());
                    }
                    return Err(error);
                }
            }
            permit = connection.discard();
        }
        let refused = "`before_acquire` refused as many connections as the pool may have";
        Err(sqlx::Error::Protocol(refused.to_owned()))
    }

    /// Looks at a connection before it is lent: whether it answers, where it rested, and what the app's
    /// hooks say.
    async fn is_usable(
        &self,
        connection: &mut PooledConnection,
        since: Option<Instant>,
        started: Instant,
    ) -> Result<bool, sqlx::Error> {
        if let Some(since) = since.filter(|since| since.elapsed() >= self.config.warm_time)
            && !connection.entry().answers(self.config.ping_timeout).await
        {
            self.discard_rested(since);
            return Ok(false);
        }
        self.run_hooks(connection, started).await
    }

    /// Runs the hooks before a connection is lent, in the asker's task. `Ok(false)` where another is
    /// wanted.
    async fn run_hooks(
        &self,
        connection: &mut PooledConnection,
        started: Instant,
    ) -> Result<bool, sqlx::Error> {
        if !self.hooks.run_at_checkout() {
            return Ok(true);
        }
        let Entry { link, is_new, .. } = connection.entry();
        let running = async {
            if *is_new {
                self.hooks.renewed(link).await?;
                *is_new = false;
            }
            self.hooks.lent(link).await
        };
        let ran = tokio::time::timeout(self.left(started), running).await;
        ran.unwrap_or_else(|_| Err(self.timed_out(started, AcquireStep::Hook)))
    }

    async fn permit(self: &Arc<Self>, started: Instant) -> Result<Permit, sqlx::Error> {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(self.closed()),
            Err(TryAcquireError::NoPermits) => {
                let _queued = Queued::begin(self);
                match tokio::time::timeout(self.left(started), self.permits.acquire()).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) => return Err(self.closed()),
                    Err(_) => return Err(self.timed_out(started, AcquireStep::WaitingForSlot)),
                }
            }
        };
        permit.forget();
        Ok(Permit::of(Arc::clone(self)))
    }

    fn find(self: &Arc<Self>) -> Found {
        let receiver = {
            let mut state = self.state.lock();
            if state.closed {
                return Found::Closed;
            }
            if let Some(idle) = state.idle.pop() {
                return Found::Idle(idle);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            receiver
        };
        let waiter = Waiter { receiver, pool: Arc::clone(self) };
        self.grow();
        Found::Later(waiter)
    }

    pub(super) fn left(&self, started: Instant) -> Duration {
        self.config.acquire_timeout.saturating_sub(started.elapsed())
    }

    pub(super) fn timed_out(&self, started: Instant, step: AcquireStep) -> sqlx::Error {
        Error::AcquireTimeout {
            node: self.name().to_string(),
            waited: started.elapsed(),
            step,
            in_use: self.in_use(),
            max: self.max(),
        }
        .into()
    }
}

impl Waiter {
    async fn wait(mut self, started: Instant) -> Result<Entry, sqlx::Error> {
        let left = self.pool.left(started);
        let first = tokio::time::timeout(left.min(CROWDED_AFTER), &mut self.receiver).await;
        let answer = match first {
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.pool.crowded.notify_waiters();
                let left = self.pool.left(started);
                tokio::time::timeout(left, &mut self.receiver).await
            }
        };
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.pool.closed()),
            Err(_) => Err(self.pool.timed_out(started, AcquireStep::Connecting)),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.receiver.close();
        let handed_over = self.receiver.try_recv();
        self.pool.state.lock().waiting.retain(|waiter| !waiter.is_closed());
        if let Ok(Ok(entry)) = handed_over {
            self.pool.take_back(entry);
        }
    }
}

/// One who waits for a permit, counted for as long as it lives.
struct Queued<'a>(&'a NodePool);

impl<'a> Queued<'a> {
    fn begin(pool: &'a NodePool) -> Self {
        pool.queued.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
        // The semaphore may have given a permit that was not taken any more.
        self.0.tell_returned();
    }
}
