//! How an engine opens and closes. Every step has a time limit and is cancel safe.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::changes::keep_resolving;
use super::closing::{CLOSE_GRACE, close_pools};
use super::phase::EnginePhase;
use super::report::{CloseReport, OpenReport};
use super::state::EngineState;
use crate::backoff::Backoff;
use crate::config::{EngineConfig, MAIN, PoolConfig};
use crate::error::{NodeFailure, OpenError};
use crate::node::{self, Demand, EndReason, Node, NodePool, create_extensions, is_final};
use crate::router::Role;

/// The first and the longest pause between two attempts of `open` to reach the nodes.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How long an attempt may take at least. The last one starts when `startup_timeout` is over.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

impl EngineState {
    /// See [`Engine::open`](super::Engine::open).
    pub(super) async fn open(
        self: &Arc<Self>,
        config: &PoolConfig,
    ) -> Result<OpenReport, OpenError> {
        let _guard = self.lifecycle_lock.lock().await;
        match self.phase.get() {
            EnginePhase::Open | EnginePhase::Draining => {
                tracing::info!("the engine is already open; nothing was changed");
                // One that was made over a pool of the app's own is not measured yet.
                #[cfg(feature = "metrics")]
                self.start_measuring();
                return Ok(OpenReport { already_open: true, warnings: Vec::new() });
            }
            // A `close` was cancelled half-way, or the runtime of the last `open` has ended.
            EnginePhase::Closing | EnginePhase::Stranded => {
                self.finish_close(Duration::ZERO).await;
            }
            EnginePhase::Unopened | EnginePhase::Closed => {}
        }
        let mut warnings = Vec::new();
        if let Some(discovery) = &self.config.discovery
            && let Err(error) = self.discover_first(discovery).await
        {
            let host = &discovery.host;
            warnings.push(format!("`{host}` (`discovery.host`) was not resolved: {error}"));
        }
        warnings.extend(self.reach_nodes().await?);
        let nodes = self.nodes();
        let monitoring = match nodes.len() {
            1 => None,
            _ => Some(self.start_monitor(config).await),
        };
        warnings.extend(self.create_extensions().await);
        let pools: Vec<_> = nodes.iter().map(|node| node.build_pool(config)).collect();
        if pools[0].is_external() && *config != self.config.pool {
            let text = "is over a pool of the app's own, so its options hold, and not those of `open_with`";
            warnings.push(format!("node `{}` {text}", nodes[0].name()));
        }
        let roles: Vec<_> = nodes.iter().map(|node| node.server.role()).collect();
        warnings.extend(self.make_first_connections(&nodes, &pools).await?);
        for ((node, pool), role) in nodes.iter().zip(&pools).zip(roles) {
            // `Node::set_role` renews only the pool in use, so a change since then was missed.
            if node.server.role() != role {
                pool.renew();
            }
            node.use_pool(Arc::clone(pool));
        }
        *self.pools.lock() = pools;
        self.members.lock().pool = config.clone();
        if let Some(monitoring) = monitoring {
            monitoring.keep();
        }
        self.monitor().keep_reading_traces();
        self.start_discovery();
        self.phase.set(EnginePhase::Open);
        self.watch_runtime();
        #[cfg(feature = "metrics")]
        self.start_measuring();
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(nodes = nodes.len(), "the engine is open");
        Ok(OpenReport { already_open: false, warnings })
    }

    /// See [`Engine::close_within`](super::Engine::close_within).
    pub(super) async fn close(&self, drain: Duration) -> CloseReport {
        // Before taking the lock: whoever changes the nodes holds it, and stops waiting for their answers
        // when the engine closes.
        if self.phase.advance(&[EnginePhase::Open, EnginePhase::Draining], EnginePhase::Closing) {
            self.shut_nodes();
        }
        let _guard = self.lifecycle_lock.lock().await;
        if matches!(self.phase.get(), EnginePhase::Unopened | EnginePhase::Closed) {
            tracing::info!("the engine is not open; there is nothing to close");
            return CloseReport::default();
        }
        let report = self.finish_close(drain).await;
        tracing::info!(?report, "the engine is closed");
        report
    }

    /// Asks every node for its role, again and again until one takes writes. If only replicas answer, it
    /// waits for a primary no longer than a write would. In an engine of one node any answer is enough.
    /// Returns a warning for each node that did not answer.
    async fn reach_nodes(&self) -> Result<Vec<String>, OpenError> {
        let timeout = self.config.startup_timeout;
        let primary_timeout = self.config.routing.failover_timeout.min(timeout);
        let started = Instant::now();
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        let nodes = self.nodes();
        loop {
            let remaining = timeout.saturating_sub(started.elapsed()).max(MIN_ATTEMPT);
            let attempts = nodes.iter().map(|node| reach(node, remaining));
            let results = futures_util::future::join_all(attempts).await;
            let has_primary = results.iter().any(|result| matches!(result, Ok(Role::Primary)));
            let any_answers = results.iter().any(Result::is_ok);
            let is_only_node = nodes.len() == 1;
            let waited = started.elapsed();
            let mut failures = Vec::new();
            for (number, failure) in results.into_iter().map(Result::err).enumerate() {
                match failure {
                    Some(failure) if number == 0 && is_final(&failure.source) => {
                        return Err(OpenError::Refused(failure));
                    }
                    failure => failures.extend(failure),
                }
            }
            let has_waited_enough = is_only_node || waited >= primary_timeout;
            if has_primary || (any_answers && has_waited_enough) {
                let warning = |failure| format!("{failure}; the node joins when it can be reached");
                let mut warnings: Vec<_> = failures.into_iter().map(warning).collect();
                if !has_primary && !is_only_node {
                    warnings.push(format!(
                        "no node takes writes after {waited:.1?}: replicas serve the reads that they \
                         may, and everything else waits for a primary"
                    ));
                }
                if !has_primary && is_only_node {
                    warnings.push(format!(
                        "node `{MAIN}` is a replica, so that nothing can be written: give the primary's \
                         address, or name the primary under `extra_nodes`"
                    ));
                }
                return Ok(warnings);
            }
            if waited >= timeout {
                return Err(OpenError::Unreachable { waited, nodes: failures });
            }
            for failure in failures {
                tracing::warn!(?waited, "waiting for the database: {failure}");
            }
            if any_answers {
                tracing::warn!(
                    ?waited,
                    "waiting for a primary: the nodes that answer are replicas"
                );
            }
            let until = if any_answers { primary_timeout } else { timeout };
            tokio::time::sleep(backoff.next_pause().min(until.saturating_sub(waited))).await;
        }
    }

    /// Makes one connection for each pool, so that the first request does not have to wait for it.
    /// Returns a warning for each that could not be made.
    async fn make_first_connections(
        &self,
        nodes: &[Arc<Node>],
        pools: &[Arc<NodePool>],
    ) -> Result<Vec<String>, OpenError> {
        // A pool of the app's own connects when its options say so, and runs its hooks for its users.
        let reachable = nodes
            .iter()
            .zip(pools)
            .filter(|(node, pool)| node.server.trouble().is_none() && !pool.is_external());
        let first = reachable.map(async |(node, pool)| {
            let mut first = pool.checkout(&Demand::default(), || true).await;
            if let Ok(connection) = &mut first
                && Arc::ptr_eq(node, &nodes[0])
            {
                self.monitor().read_traces(&node.server, connection.parts().connection).await;
            }
            (node, first)
        });
        let mut warnings = Vec::new();
        for (node, first) in futures_util::future::join_all(first).await {
            match first {
                Ok(connection) => connection.release(),
                Err(source)
                    if Arc::ptr_eq(node, &self.main())
                        && (nodes.len() == 1 || is_final(&source)) =>
                {
                    return Err(OpenError::Refused(failure(node, source)));
                }
                Err(source) => warnings.push(failure(node, source).to_string()),
            }
        }
        Ok(warnings)
    }

    /// Creates the extensions on the primary, or on the only node. Returns warnings.
    async fn create_extensions(&self) -> Vec<String> {
        let EngineConfig { extensions, startup_timeout, .. } = &self.config;
        if extensions.is_empty() {
            return Vec::new();
        }
        let node = match self.monitor().routes() {
            true => self.monitor().state().primary().cloned(),
            false => Some(self.main()),
        };
        let Some(node) = node else {
            let wanted = extensions.join("`, `");
            return vec![format!(
                "no node takes writes, so the extensions `{wanted}` were neither checked nor created"
            )];
        };
        match node.server.connect_and_identify(*startup_timeout).await {
            Ok((mut connection, _)) => {
                create_extensions(&node.server, &mut connection, extensions, *startup_timeout).await
            }
            Err(source) => vec![failure(&node, source).to_string()],
        }
    }

    /// Starts the task that resolves the name of the replicas until `close`, if one is configured.
    fn start_discovery(self: &Arc<Self>) {
        let Some(discovery) = &self.config.discovery else { return };
        let stop = CancellationToken::new();
        let resolving = keep_resolving(Arc::downgrade(self), discovery.clone());
        *self.discovery.lock() = Some(stop.clone().drop_guard());
        self.tasks().spawn(async move { stop.run_until_cancelled(resolving).await });
    }

    async fn finish_close(&self, drain: Duration) -> CloseReport {
        let started = Instant::now();
        self.phase.set(EnginePhase::Closing);
        self.discovery.lock().take();
        self.runtime_watch.lock().take();
        #[cfg(feature = "metrics")]
        self.measuring.lock().take();
        self.shut_nodes();
        // The monitor first: a read that gets no budget fails with `Closed` only if the monitor has
        // stopped.
        self.monitor().stop();
        self.context.budget.close();
        self.monitor().close_connections().await;
        let pools = self.pools.lock().clone();
        let report = close_pools(&pools, drain, EndReason::Closed).await;
        self.pools.lock().clear();
        drop(pools);
        let tasks = self.tasks();
        tasks.close();
        let _ = tokio::time::timeout(CLOSE_GRACE, tasks.wait()).await;
        tasks.reopen();
        self.phase.set(EnginePhase::Closed);
        CloseReport { was_open: true, elapsed: started.elapsed(), ..report }
    }

    /// Starts a task that lives until `close`. If it is dropped before, the runtime has ended.
    fn watch_runtime(self: &Arc<Self>) {
        let stop = CancellationToken::new();
        *self.runtime_watch.lock() = Some(stop.clone().drop_guard());
        let watch = RuntimeWatch(Arc::downgrade(self));
        self.tasks().spawn(async move {
            stop.cancelled().await;
            watch.disarm();
        });
    }

    /// The runtime has ended, and with it all tasks. The sockets belong to it too, so that nothing that
    /// was made in it works any more.
    fn runtime_ended(&self) {
        let open = [EnginePhase::Open, EnginePhase::Draining];
        if !self.phase.advance(&open, EnginePhase::Stranded) {
            return;
        }
        tracing::warn!(
            "the tokio runtime in which the engine was opened has ended before the engine was closed"
        );
        self.discovery.lock().take();
        #[cfg(feature = "metrics")]
        self.measuring.lock().take();
        for node in &*self.nodes() {
            node.strand();
        }
        self.monitor().stop();
        self.context.budget.close();
        let pools = self.pools.lock().clone();
        for pool in pools {
            pool.shut();
            pool.end(EndReason::Closed);
        }
    }

    fn shut_nodes(&self) {
        for node in &*self.nodes() {
            node.shut();
        }
    }
}

/// Tells the engine, when it is dropped, that its runtime has ended.
struct RuntimeWatch(Weak<EngineState>);

impl RuntimeWatch {
    fn disarm(mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for RuntimeWatch {
    fn drop(&mut self) {
        if let Some(engine) = self.0.upgrade() {
            engine.runtime_ended();
        }
    }
}

/// Makes one attempt to connect to a node and to learn its role.
async fn reach(node: &Arc<Node>, remaining: Duration) -> Result<Role, NodeFailure> {
    match node.server.connect_and_identify(remaining).await {
        Ok((_, info)) => {
            info.warn_if_too_old(node.name());
            node.set_role(info.role);
            node.server.set_trouble(None);
            Ok(info.role)
        }
        Err(source) => {
            let failure = failure(node, source);
            node.set_role(Role::Unknown);
            node.server.set_trouble(Some(failure.source.to_string()));
            Err(failure)
        }
    }
}

fn failure(node: &Node, source: sqlx::Error) -> NodeFailure {
    let fix = node::fix(&source);
    NodeFailure { node: node.name().to_string(), address: node.server.address(), fix, source }
}
