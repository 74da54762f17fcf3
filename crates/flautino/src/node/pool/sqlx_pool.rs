//! sqlx's own pool of a node, beside the engine's: for code that wants a `PgPool`.
//!
//! It is made when it is first asked for. Its connections are set up and washed as the engine's own,
//! and count beside them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::epoch::Epoch;
use super::{NodePool, Source};
use crate::config::PoolConfig;
use crate::node::hooks::Hooks;
use crate::node::server::Server;

impl NodePool {
    /// sqlx's pool of this node; of an engine over a pool that exists, that one.
    pub(crate) fn sqlx_pool(self: &Arc<Self>) -> PgPool {
        if let Source::Pool(pool) = &self.source {
            return pool.clone();
        }
        let pool = self.sqlx_pool.get_or_init(|| self.build_sqlx_pool());
        // It may have been made while the engine closed.
        if self.closing.is_cancelled() {
            drop(pool.close());
        }
        pool.clone()
    }

    pub(super) fn made_sqlx_pool(&self) -> Option<&PgPool> {
        match &self.source {
            Source::Pool(pool) => Some(pool),
            Source::Server => self.sqlx_pool.get(),
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
        // The closures belong to a pool that this one owns, so they must not keep this one alive.
        let [connecting, lending] = [(); 2].map(|()| Arc::downgrade(self));
        let [greeting, releasing] = [(); 2].map(|()| Arc::clone(&self.server));
        let [first_hooks, lent_hooks, released_hooks] = [(); 3].map(|()| self.hooks.clone());
        let options = PgPoolOptions::new()
            .max_connections(*sqlx_connections)
            .min_connections(0)
            .acquire_timeout(*acquire_timeout)
            .idle_timeout(limit(*idle_timeout))
            .max_lifetime(limit(*max_lifetime))
            .acquire_slow_threshold(*acquire_slow_threshold)
            .after_connect(move |connection, _| {
                let (pool, server) = (connecting.clone(), Arc::clone(&greeting));
                let hooks = first_hooks.clone();
                Box::pin(async move {
                    let before = current_epoch(&pool);
                    server.greet(connection).await?;
                    let is_same = match (before, current_epoch(&pool)) {
                        (Some(before), Some(now)) => before.is(&now),
                        _ => true,
                    };
                    if !is_same {
                        let changed = "the node became another while the connection was made";
                        return Err(sqlx::Error::Protocol(changed.to_owned()));
                    }
                    // sqlx lends it at once, without asking its own `before_acquire`.
                    hooks.first_lent(connection).await
                })
            })
            .before_acquire(move |connection, metadata| {
                let (epoch, hooks) = (current_epoch(&lending), lent_hooks.clone());
                Box::pin(async move {
                    // One that was made in an earlier epoch is not lent.
                    let usable = epoch.is_none_or(|epoch| metadata.age < epoch.began().elapsed());
                    Ok(usable && hooks.lent(connection).await?)
                })
            })
            .after_release(move |connection, _| {
                let (server, hooks) = (Arc::clone(&releasing), released_hooks.clone());
                Box::pin(async move { reset_released(&server, &hooks, connection).await })
            });
        // It spawns what keeps its limits.
        let _context = self.runtime.get().map(tokio::runtime::Handle::enter);
        options.connect_lazy_with(self.server.options().clone())
    }

    /// A transaction of sqlx's own, which `commit` ends without looking whether it stands.
    ///
    /// Fails with [`sqlx::Error::PoolTimedOut`] after `acquire_timeout`, and when the node turns down.
    pub(crate) async fn begin(
        self: &Arc<Self>,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.start();
        let epoch = self.epoch();
        let pool = self.sqlx_pool();
        // Where nobody washes what was left open, it goes on until the pool is closed.
        let is_reset_by_us = self.server.setup.owns_sessions();
        let (home, during) = (Arc::clone(self), Arc::clone(&epoch));
        // In a task of its own, since sqlx's `begin` leaves the transaction open on the connection when
        // it is cancelled half-way.
        let begun = self.tasks.spawn(async move {
            let beginning = pool.begin();
            if is_reset_by_us {
                return home.in_time(&during, beginning).await;
            }
            during.run(beginning).await.unwrap_or_else(|| Err(during.error(home.name(), false)))
        });
        let begun =
            async { begun.await.map_err(|err| sqlx::Error::Io(std::io::Error::other(err)))? };
        self.in_time(&epoch, begun).await
    }

    /// The work's result, unless it takes longer than `acquire_timeout` or the epoch is ended.
    async fn in_time<T>(
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

/// Resets a session for its next user. `Ok(false)` where it is to be closed.
async fn reset_released(
    server: &Server,
    hooks: &Hooks,
    connection: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    if !hooks.released(connection).await? {
        return Ok(false);
    }
    if !server.setup.owns_sessions() {
        return Ok(true);
    }
    let is_reset = server.setup.reset(connection, &server.sender).await?;
    hooks.renewed(connection).await?;
    Ok(is_reset)
}
