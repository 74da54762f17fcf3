//! Connections of an external pool: one that the app made, and gave to `Engine::from_pool`.
//!
//! Each is taken for one lease, in the task of the caller who gets it, and goes back after that. So the
//! pool's own hooks run between every two users, as if each had asked the pool itself, and nobody else
//! who uses the pool waits for a connection that rests here. The pool's own queue is the only one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::PgPool;
use tokio::runtime::{EnterGuard, Handle as Runtime};
use tokio_util::task::TaskTracker;

use super::demand::Caller;
use super::managed::{DriverConnection, ManagedConnection, Registration};
use super::pooled_connection::PooledConnection;
use super::slot::Slot;
use super::{CLOSE_TIMEOUT, Connector, NodePool};
use crate::config::PoolConfig;
use crate::error::AcquireStep;
use crate::node::hooks::Hooks;
use crate::node::server::Server;

/// Counts a caller who waits for the external pool, until it is dropped.
struct Queued<'a>(&'a AtomicU32);

impl<'a> Queued<'a> {
    fn new(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NodePool {
    /// A pool that takes its connections from an external one. If that was closed, it is one with the
    /// same options, limits and hooks that takes its place.
    pub(crate) fn over_external(
        server: &Arc<Server>,
        pool: &PgPool,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let pool = match pool.is_closed() {
            false => pool.clone(),
            true => {
                let server = pool.connect_options().as_ref().clone();
                pool.options().clone().connect_lazy_with(server)
            }
        };
        let options = pool.options();
        let config = PoolConfig {
            max_connections: options.get_max_connections(),
            acquire_timeout: options.get_acquire_timeout(),
            // sqlx's pool warns by itself.
            acquire_slow_threshold: Duration::MAX,
            ..PoolConfig::default()
        };
        Self::build(server, Connector::External(pool), config, Hooks::default(), tasks)
    }

    /// Whether its connections are those of an external pool.
    pub(crate) fn is_external(&self) -> bool {
        matches!(self.connector, Connector::External(_))
    }

    /// Takes a connection from the external pool. It fails at once if `is_up` says that the node is down,
    /// and when the node goes down. If the caller leaves while the pool's hook runs on a connection, sqlx
    /// closes it.
    pub(super) async fn checkout_external(
        self: &Arc<Self>,
        pool: &PgPool,
        caller: Caller,
        is_up: impl FnOnce() -> bool,
    ) -> Result<PooledConnection, sqlx::Error> {
        // Taken before `is_up` is asked: if the node goes down after that, this epoch is ended.
        let epoch = self.epoch();
        let error = || epoch.error(self.name(), false);
        if !is_up() {
            return Err(error());
        }
        epoch.run(self.take_external(pool, caller)).await.unwrap_or_else(|| Err(error()))
    }

    async fn take_external(
        self: &Arc<Self>,
        pool: &PgPool,
        caller: Caller,
    ) -> Result<PooledConnection, sqlx::Error> {
        loop {
            let epoch = self.epoch();
            let queued = Queued::new(&self.waiting_outside);
            let acquiring = tokio::time::timeout(caller.remaining(), Box::pin(pool.acquire()));
            let acquired = self.closing.run_until_cancelled(acquiring).await;
            drop(queued);
            let acquired =
                acquired.map(|in_time| in_time.unwrap_or(Err(sqlx::Error::PoolTimedOut)));
            let connection = match acquired {
                Some(Ok(connection)) => connection,
                // The engine closes, or the app closed its own pool.
                None | Some(Err(sqlx::Error::PoolClosed)) => return Err(self.closed_error()),
                Some(Err(sqlx::Error::PoolTimedOut)) => {
                    return Err(self.timed_out(caller.came, AcquireStep::WaitingForAppPool));
                }
                Some(Err(error)) => return Err(error),
            };
            {
                let mut state = self.state.lock();
                if state.closed {
                    return Err(self.closed_error());
                }
                state.in_use += 1;
            }
            let managed = Box::new(ManagedConnection {
                connection: DriverConnection::External(Box::new(connection)),
                end: epoch.listener(),
                epoch,
                expires: None,
                is_new: false,
                // Nobody knows what other users of the pool did.
                has_advanced: true,
                settings: None,
                registration: Registration { pool: Weak::<Self>::new(), backend: None },
            });
            let connection = PooledConnection::new(managed, Slot::counted(self));
            if self.is_in(connection.epoch()) {
                return Ok(connection);
            }
            // It may have been made before the node changed.
            connection.discard();
        }
    }

    /// How many connections of the external pool are in use, here and elsewhere.
    pub(super) fn external_in_use(pool: &PgPool) -> u32 {
        pool.size().saturating_sub(u32::try_from(pool.num_idle()).unwrap_or(u32::MAX))
    }

    /// Discards the idle connections of the external pool, if there is one.
    pub(super) fn discard_external_idle(&self) {
        if let Connector::External(pool) = &self.connector {
            let _context = self.enter_runtime();
            while let Some(connection) = pool.try_acquire() {
                drop(connection.detach());
            }
        }
    }

    /// Closes the idle connections of the external pool. Returns how many there were.
    pub(super) async fn close_external_idle(pool: &PgPool) -> usize {
        let idle: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
        let count = idle.len();
        let closing = idle
            .into_iter()
            .map(|connection| tokio::time::timeout(CLOSE_TIMEOUT, connection.close()));
        futures_util::future::join_all(closing).await;
        count
    }

    /// Enters a runtime, because sqlx's pool spawns a task when a connection comes back.
    pub(super) fn enter_runtime(&self) -> Option<EnterGuard<'_>> {
        match Runtime::try_current() {
            Ok(_) => None,
            Err(_) => self.runtime.get().map(Runtime::enter),
        }
    }
}
