//! How an engine opens and closes: every step bounded, and safe to cancel.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};

use super::{CLOSED, CLOSING, CloseReport, DRAINING, EngineInner, OPEN, OpenReport, UNOPENED};
use crate::bootstrap;
use crate::config::{EngineConfig, PoolConfig};
use crate::error::{NodeFailure, OpenError};
use crate::node::{Node, Role};

/// How long `close` gives what it has cancelled, and its own goodbyes.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The longest pause between two attempts of `open`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl EngineInner {
    /// See [`Engine::open`](super::Engine::open).
    pub(super) async fn open(&self, config: &PoolConfig) -> Result<OpenReport, OpenError> {
        let _one_at_a_time = self.lifecycle.lock().await;
        match self.phase.load(Ordering::Acquire) {
            OPEN | DRAINING => {
                tracing::info!("the engine is already open; nothing was changed");
                return Ok(OpenReport { already_open: true, warnings: Vec::new() });
            }
            // A `close` that was cancelled half-way.
            CLOSING => {
                self.finish_close(Duration::ZERO).await;
            }
            _ => {}
        }
        let (mut main, mut warnings) = self.reach_nodes().await?;
        let EngineConfig { extensions, startup_timeout, .. } = &self.config;
        let missing =
            bootstrap::create_extensions(self.main(), &mut main, extensions, *startup_timeout)
                .await;
        warnings.extend(missing);
        drop(main);

        let watching = match self.any_monitor() {
            Some(monitor) => Some(monitor.start(config.max_connections).await),
            None => None,
        };
        let pools: Vec<_> = self.nodes.iter().map(|node| node.build_pool(config)).collect();
        // One connection each, so that the first request finds it.
        let reachable = self.nodes.iter().zip(&pools).filter(|(node, _)| node.trouble().is_none());
        let first = reachable.map(async |(node, pool)| (node, pool, pool.checkout().await));
        for (node, pool, first) in futures_util::future::join_all(first).await {
            match first {
                Ok((taken, slot)) => {
                    pool.give_back(taken);
                    drop(slot);
                }
                Err(source) if Arc::ptr_eq(node, self.main()) => {
                    return Err(OpenError::Refused(failure(node, source)));
                }
                Err(source) => warnings.push(failure(node, source).to_string()),
            }
        }
        for (node, pool) in self.nodes.iter().zip(&pools) {
            node.use_pool(Arc::clone(pool));
        }
        *self.lock_pools() = pools;
        if let Some(watching) = watching {
            watching.keep();
        }
        self.phase.store(OPEN, Ordering::Release);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(nodes = self.nodes.len(), "the engine is open");
        Ok(OpenReport { already_open: false, warnings })
    }

    /// See [`Engine::close_within`](super::Engine::close_within).
    pub(super) async fn close(&self, drain: Duration) -> CloseReport {
        let _one_at_a_time = self.lifecycle.lock().await;
        if matches!(self.phase.load(Ordering::Acquire), UNOPENED | CLOSED) {
            tracing::info!("the engine is not open; there is nothing to close");
            return CloseReport::default();
        }
        let report = self.finish_close(drain).await;
        tracing::info!(?report, "the engine is closed");
        report
    }

    /// Asks every node what it is, again and again until the main node answers.
    async fn reach_nodes(&self) -> Result<(PgConnection, Vec<String>), OpenError> {
        let timeout = self.config.startup_timeout;
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let probes = self.nodes.iter().map(|node| reach(node, left));
            let mut results = futures_util::future::join_all(probes).await.into_iter();
            let main = results.next();
            let others: Vec<_> = results.filter_map(Result::err).collect();
            match main {
                Some(Ok(connection)) => {
                    let warnings = others
                        .iter()
                        .map(|failure| format!("{failure}; it joins when it is reachable"));
                    return Ok((connection, warnings.collect()));
                }
                Some(Err(failure)) if is_final(&failure.source) => {
                    return Err(OpenError::Refused(failure));
                }
                main => {
                    let waited = started.elapsed();
                    let failed = main.and_then(Result::err).into_iter().chain(others);
                    if waited + pause >= timeout {
                        return Err(OpenError::Unreachable { waited, nodes: failed.collect() });
                    }
                    for failure in failed {
                        tracing::warn!(?waited, "waiting for the database: {failure}");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn finish_close(&self, drain: Duration) -> CloseReport {
        let started = Instant::now();
        self.phase.store(CLOSING, Ordering::Release);
        for node in &self.nodes {
            node.shut();
        }
        if let Some(monitor) = self.any_monitor() {
            monitor.stop().await;
        }
        let pools = self.lock_pools().clone();
        let in_use = || pools.iter().map(|pool| pool.in_use() as usize).sum::<usize>();

        let idle = futures_util::future::join_all(pools.iter().map(|pool| pool.close_idle()));
        let idle = tokio::time::timeout(LAST_WORDS, idle).await.unwrap_or_default();
        let busy = in_use();
        // sqlx's `close` waits for every connection before it closes any, so the waiting is
        // bounded from outside.
        let closing: Vec<_> = pools.iter().map(|pool| pool.sqlx().clone()).collect();
        let all_closed = futures_util::future::join_all(closing.iter().map(PgPool::close));
        let mut all_closed = std::pin::pin!(all_closed);
        let mut cancelled = 0;
        if tokio::time::timeout(drain, &mut all_closed).await.is_err() {
            cancelled = in_use();
            pools.iter().for_each(|pool| pool.cut().cancel());
            let _ = tokio::time::timeout(LAST_WORDS, all_closed).await;
        }
        let still_held = in_use();
        self.lock_pools().clear();
        drop(pools);
        self.tasks.close();
        let _ = tokio::time::timeout(LAST_WORDS, self.tasks.wait()).await;
        self.tasks.reopen();
        self.phase.store(CLOSED, Ordering::Release);
        CloseReport {
            was_open: true,
            idle: idle.iter().sum(),
            drained: busy.saturating_sub(cancelled),
            cancelled: cancelled.saturating_sub(still_held),
            still_held,
            elapsed: started.elapsed(),
        }
    }
}

/// One attempt to reach a node and to learn its role.
async fn reach(node: &Arc<Node>, left: Duration) -> Result<PgConnection, NodeFailure> {
    let probe = async |connection: &mut PgConnection| bootstrap::probe(node, connection).await;
    match node.greet(left, probe).await {
        Ok((connection, role)) => {
            node.set_role(role);
            node.set_trouble(None);
            Ok(connection)
        }
        Err(source) => {
            let failure = failure(node, source);
            node.set_role(Role::Unknown);
            node.set_trouble(Some(failure.source.to_string()));
            Err(failure)
        }
    }
}

fn failure(node: &Node, source: sqlx::Error) -> NodeFailure {
    NodeFailure { node: node.name.to_string(), address: node.address(), source }
}

/// Whether waiting does not mend it: the server refuses the role, the password, the database or
/// a start-up parameter, or this build cannot speak as the configuration demands.
fn is_final(err: &sqlx::Error) -> bool {
    match err {
        sqlx::Error::Database(err) => err
            .code()
            .is_some_and(|code| code.starts_with("28") || code == "3D000" || code == "08P01"),
        sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => true,
        _ => false,
    }
}
