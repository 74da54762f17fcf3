//! How a connection is checked out: the caller takes a permit, then an idle connection; where there is
//! none, it waits for the first one that is made or given back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{TryAcquireError, oneshot};

use super::managed::{Idle, ManagedConnection};
use super::permit::Permit;
use super::pooled_connection::PooledConnection;
use super::{Connector, NodePool};
use crate::error::{AcquireStep, Error};

/// How long a caller waits before connections that are being made for the minimum give way to it.
const CONTENDED_AFTER: Duration = Duration::from_millis(200);

/// What a caller with a permit finds.
enum Found {
    Idle(Idle),
    /// No connection is idle; the next one is handed to this waiter.
    Wait(Waiter),
    Closed,
}

/// A caller's place in the queue for a connection. If it is dropped after a connection was handed to it,
/// that is put back for the next caller.
struct Waiter {
    receiver: oneshot::Receiver<Result<Box<ManagedConnection>, sqlx::Error>>,
    pool: Arc<NodePool>,
}

impl NodePool {
    /// Checks out a connection where none is warm: the one that was used last, else the first that comes.
    /// It fails at once if `is_up` says that the node is down.
    ///
    /// Cancel safe: a connection that is being made stays in the pool for the next caller.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        is_up: impl FnOnce() -> bool,
    ) -> Result<PooledConnection, sqlx::Error> {
        self.start();
        // Taken before `is_up` is asked: if the node goes down after that, this epoch is ended.
        let epoch = self.epoch();
        if !is_up() {
            return Err(epoch.error(self.name(), false));
        }
        let started = Instant::now();
        // Pinned here: a future that is given away takes its room twice.
        let checking_out = pin!(self.checkout_slow(started));
        let checked_out = epoch.run(checking_out).await;
        let waited = started.elapsed();
        if waited >= self.config.acquire_slow_threshold {
            tracing::warn!(
                node = %self.name(), ?waited, in_use = self.in_use(), max = self.max(),
                "a statement waited long for a connection (`pool.acquire_slow_threshold`)"
            );
        }
        checked_out.unwrap_or_else(|| Err(epoch.error(self.name(), false)))
    }

    /// The connection that was used last, if nobody has to wait for it: it needs no ping and no hook.
    pub(crate) fn checkout_warm(self: &Arc<Self>) -> Option<PooledConnection> {
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
        Some(PooledConnection::new(idle.managed, permit))
    }

    async fn checkout_slow(
        self: &Arc<Self>,
        started: Instant,
    ) -> Result<PooledConnection, sqlx::Error> {
        if let Connector::External(pool) = &self.connector {
            return Box::pin(self.checkout_external(pool, started)).await;
        }
        let mut permit = self.acquire_permit(started).await?;
        for _ in 0..=self.max() {
            let (managed, since) = match self.pop_idle_or_wait() {
                Found::Idle(Idle { managed, since }) => (managed, Some(since)),
                // Rare, as is a ping: boxed, they take no room where only a permit is waited for.
                Found::Wait(waiter) => (Box::pin(waiter.wait(started)).await?, None),
                Found::Closed => return Err(self.closed_error()),
            };
            let mut connection = PooledConnection::new(managed, permit);
            match self.is_usable(&mut connection, since, started).await {
                // The next epoch may have begun while the connection was handed over or tested.
                Ok(true) if self.is_in(connection.epoch()) => return Ok(connection),
                Ok(_) => {}
                Err(error) => {
                    // Still new: `after_connect` failed or took too long, so the session is not usable.
                    if connection.managed().is_new {
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

    /// Whether a connection can be checked out: pings it if it was idle for longer than `warm_time`, and
    /// runs the app's hooks. `since` is when it became idle, `None` if it was handed over.
    async fn is_usable(
        &self,
        connection: &mut PooledConnection,
        since: Option<Instant>,
        started: Instant,
    ) -> Result<bool, sqlx::Error> {
        if let Some(since) = since
            && !self.is_alive(connection.managed(), since).await
        {
            return Ok(false);
        }
        if !self.hooks.run_at_checkout() {
            return Ok(true);
        }
        Box::pin(self.run_hooks(connection, started)).await
    }

    /// Runs the app's hooks for a checkout, in the caller's task. Returns `Ok(false)` if a hook refuses
    /// the connection.
    async fn run_hooks(
        &self,
        connection: &mut PooledConnection,
        started: Instant,
    ) -> Result<bool, sqlx::Error> {
        let ManagedConnection { connection, is_new, .. } = connection.managed();
        let running = async {
            if *is_new {
                self.hooks.run_after_connect(connection).await?;
                *is_new = false;
            }
            self.hooks.run_before_acquire(connection).await
        };
        let ran = tokio::time::timeout(self.remaining(started), running).await;
        ran.unwrap_or_else(|_| Err(self.timed_out(started, AcquireStep::Hook)))
    }

    async fn acquire_permit(self: &Arc<Self>, started: Instant) -> Result<Permit, sqlx::Error> {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(self.closed_error()),
            Err(TryAcquireError::NoPermits) => {
                let _queued = Queued::new(self);
                let acquiring = self.permits.acquire();
                match tokio::time::timeout(self.remaining(started), acquiring).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) => return Err(self.closed_error()),
                    Err(_) => return Err(self.timed_out(started, AcquireStep::WaitingForSlot)),
                }
            }
        };
        permit.forget();
        Ok(Permit::of(Arc::clone(self)))
    }

    fn pop_idle_or_wait(self: &Arc<Self>) -> Found {
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
        Found::Wait(waiter)
    }

    /// What is left of `acquire_timeout` for a checkout that started then.
    fn remaining(&self, started: Instant) -> Duration {
        self.config.acquire_timeout.saturating_sub(started.elapsed())
    }

    pub(super) fn timed_out(&self, started: Instant, step: AcquireStep) -> sqlx::Error {
        let in_use = match &self.connector {
            Connector::Server => self.in_use(),
            Connector::External(pool) => Self::external_in_use(pool),
        };
        Error::AcquireTimeout {
            node: self.name().to_string(),
            waited: started.elapsed(),
            step,
            in_use,
            max: self.max(),
        }
        .into()
    }
}

impl Waiter {
    async fn wait(mut self, started: Instant) -> Result<Box<ManagedConnection>, sqlx::Error> {
        let remaining = self.pool.remaining(started);
        let first = tokio::time::timeout(remaining.min(CONTENDED_AFTER), &mut self.receiver).await;
        let received = match first {
            Ok(received) => Ok(received),
            Err(_) => {
                self.pool.contended.notify_waiters();
                let remaining = self.pool.remaining(started);
                tokio::time::timeout(remaining, &mut self.receiver).await
            }
        };
        match received {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.pool.closed_error()),
            Err(_) => Err(self.pool.timed_out(started, AcquireStep::Connecting)),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.receiver.close();
        let handed_over = self.receiver.try_recv();
        self.pool.state.lock().waiting.retain(|waiter| !waiter.is_closed());
        if let Ok(Ok(managed)) = handed_over {
            self.pool.put_back(managed);
        }
    }
}

/// Counts a caller who waits for a permit, or for an external pool, until it is dropped.
pub(super) struct Queued<'a>(&'a NodePool);

impl<'a> Queued<'a> {
    pub(super) fn new(pool: &'a NodePool) -> Self {
        pool.queued.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
        // If the caller leaves just when the semaphore has given it a permit, that goes back to the
        // semaphore without `return_permit`.
        self.0.notify_returned();
    }
}
