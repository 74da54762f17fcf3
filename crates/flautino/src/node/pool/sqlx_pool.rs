//! A `PgPool` of a node, beside the engine's own pool: for code that needs one.
//!
//! It is made when it is first asked for. Its sessions are set up and reset as the engine's own, and
//! its connections count in addition to them.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};

use super::epoch::Epoch;
use super::{Connector, NodePool};
use crate::config::PoolConfig;
use crate::node::hooks::Hooks;
use crate::node::server::Server;

impl NodePool {
    /// The `PgPool` of this node: the external pool if there is one, else one that is made at the first
    /// call.
    pub(crate) fn sqlx_pool(self: &Arc<Self>) -> PgPool {
        if let Connector::External(pool) = &self.connector {
            return pool.clone();
        }
        let pool = self.sqlx_pool.get_or_init(|| self.build_sqlx_pool());
        // If it was made while the engine closed, nobody else closes it.
        if self.closing.is_cancelled() {
            drop(pool.close());
        }
        pool.clone()
    }

    /// The same, `None` if nobody has asked for it.
    pub(super) fn existing_sqlx_pool(&self) -> Option<&PgPool> {
        match &self.connector {
            Connector::External(pool) => Some(pool),
            Connector::Server => self.sqlx_pool.get(),
        }
    }

    fn build_sqlx_pool(self: &Arc<Self>) -> PgPool {
        let limit = |time: Duration| (!time.is_zero()).then_some(time);
        // Exhaustive, so that a new setting cannot be forgotten here.
        let PoolConfig {
            max_connections: _,
            min_connections: _,
            acquire_timeout,
            idle_timeout,
            max_lifetime,
            warm_time: _,
            ping_timeout: _,
            connect_concurrency: _,
            sqlx_connections,
            acquire_slow_threshold,
        } = &self.config;
        // This pool owns sqlx's pool, which owns the closures, so they must not keep this pool alive.
        let [connect_pool, acquire_pool] = [(); 2].map(|()| Arc::downgrade(self));
        let [connect_server, release_server] = [(); 2].map(|()| Arc::clone(&self.server));
        let [connect_hooks, acquire_hooks, release_hooks] = [(); 3].map(|()| self.hooks.clone());
        let config = Arc::new(self.config.clone());
        let forgotten_since = Arc::new(Mutex::new(None));
        let options = PgPoolOptions::new()
            // sqlx's own ping has no time limit.
            .test_before_acquire(false)
            .max_connections(*sqlx_connections)
            .min_connections(0)
            .acquire_timeout(*acquire_timeout)
            .idle_timeout(limit(*idle_timeout))
            .max_lifetime(limit(*max_lifetime))
            .acquire_slow_threshold(*acquire_slow_threshold)
            .after_connect(move |connection, _| {
                let (pool, server) = (connect_pool.clone(), Arc::clone(&connect_server));
                let hooks = connect_hooks.clone();
                Box::pin(async move {
                    let before = current_epoch(&pool);
                    server.set_up_and_learn_role(connection).await?;
                    let is_same = match (before, current_epoch(&pool)) {
                        (Some(before), Some(now)) => before.is(&now),
                        _ => true,
                    };
                    if !is_same {
                        let changed =
                            "the node's role or server changed while the connection was made";
                        return Err(sqlx::Error::Protocol(changed.to_owned()));
                    }
                    // sqlx does not call `before_acquire` for a connection that it has just made.
                    hooks.run_on_first_checkout(connection).await
                })
            })
            .before_acquire(move |connection, metadata| {
                let (epoch, hooks) = (current_epoch(&acquire_pool), acquire_hooks.clone());
                let (config, forgotten) = (Arc::clone(&config), Arc::clone(&forgotten_since));
                Box::pin(async move {
                    // A connection of an earlier epoch may lead to another server.
                    let usable = epoch.is_none_or(|epoch| metadata.age < epoch.began().elapsed())
                        && is_alive(connection, metadata.idle_for, &config, &forgotten).await;
                    Ok(usable && hooks.run_before_acquire(connection).await?)
                })
            })
            .after_release(move |connection, _| {
                let (server, hooks) = (Arc::clone(&release_server), release_hooks.clone());
                Box::pin(async move { reset_released(&server, &hooks, connection).await })
            });
        // sqlx's pool spawns its own reaper.
        let _context = self.runtime.get().map(tokio::runtime::Handle::enter);
        options.connect_lazy_with(self.server.options().clone())
    }

    /// Begins sqlx's own transaction, whose `commit` does not check that the transaction has not failed.
    ///
    /// Fails with [`sqlx::Error::PoolTimedOut`] after `acquire_timeout`, and when the node goes down.
    pub(crate) async fn begin(
        self: &Arc<Self>,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.start();
        let epoch = self.epoch();
        let pool = self.sqlx_pool();
        let begun = async {
            // In the caller's task, because that is where the pool's hooks are to run.
            let connection = pool.acquire().await?;
            let (this, epoch) = (Arc::clone(self), Arc::clone(&epoch));
            // sqlx's `begin` leaves the transaction open on the connection when it is cancelled half-way.
            // A task of its own is not cancelled with the caller.
            let task = self.tasks.spawn(async move {
                let beginning = Transaction::begin(connection, None);
                if this.server.setup.owns_sessions() {
                    return this.within_timeout(&epoch, beginning).await;
                }
                // Without a reset when the connection is given back, a transaction that is left open would
                // reach the next user, so there is no timeout here.
                let begun = epoch.run(beginning).await;
                begun.unwrap_or_else(|| Err(epoch.error(this.name(), false)))
            });
            task.await.map_err(|err| sqlx::Error::Io(std::io::Error::other(err)))?
        };
        self.within_timeout(&epoch, begun).await
    }

    /// Runs the work, which fails after `acquire_timeout` and when the epoch is ended.
    async fn within_timeout<T>(
        &self,
        epoch: &Epoch,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match tokio::time::timeout(self.config.acquire_timeout, epoch.run(work)).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(epoch.error(self.name(), false)),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }
}

fn current_epoch(pool: &Weak<NodePool>) -> Option<Arc<Epoch>> {
    Some(pool.upgrade()?.epoch())
}

/// Pings a connection that was idle for so long. If one did not answer in time, a firewall has probably
/// forgotten all that had rested by then, and those are not pinged.
async fn is_alive(
    connection: &mut PgConnection,
    idle_for: Duration,
    config: &PoolConfig,
    forgotten_since: &Mutex<Option<Instant>>,
) -> bool {
    let idle_since = Instant::now().checked_sub(idle_for);
    if forgotten_since.lock().is_some_and(|then| idle_since.is_none_or(|since| since <= then)) {
        return false;
    }
    match tokio::time::timeout(config.ping_timeout, connection.ping()).await {
        Ok(result) => result.is_ok(),
        Err(_) => {
            let rested_since = Instant::now().checked_sub(config.warm_time);
            let mut forgotten_since = forgotten_since.lock();
            *forgotten_since = (*forgotten_since).max(rested_since);
            false
        }
    }
}

/// Resets a session for its next user. Returns `Ok(false)` if the connection has to be closed.
async fn reset_released(
    server: &Server,
    hooks: &Hooks,
    connection: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    if !hooks.run_after_release(connection).await? {
        return Ok(false);
    }
    if !server.setup.owns_sessions() {
        return Ok(true);
    }
    let is_reset = server.setup.reset(connection, &server.sender).await?;
    hooks.run_after_connect(connection).await?;
    Ok(is_reset)
}
