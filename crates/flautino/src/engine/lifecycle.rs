//! How an engine opens and closes: every step bounded, and safe to cancel.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::discovery::keep_resolving;
use super::{CLOSED, CLOSING, CloseReport, DRAINING, EngineInner, OPEN, OpenReport, UNOPENED};
use crate::config::{EngineConfig, PoolConfig};
use crate::error::{NodeFailure, OpenError};
use crate::node::{Node, Role, create_extensions};
use crate::pool::{EndReason, NodePool};

/// How long `close` gives what it has cancelled, and its own goodbyes.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The longest pause between two attempts of `open`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl EngineInner {
    /// See [`Engine::open`](super::Engine::open).
    pub(super) async fn open(
        self: &Arc<Self>,
        config: &PoolConfig,
    ) -> Result<OpenReport, OpenError> {
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
        let mut warnings = Vec::new();
        if let Some(discovery) = &self.config.discovery
            && let Err(error) = self.discover_first(discovery).await
        {
            let host = &discovery.host;
            warnings.push(format!("`{host}` (`discovery.host`) was not resolved: {error}"));
        }
        warnings.extend(self.reach_nodes().await?);
        let nodes = self.nodes();
        let watching = match nodes.len() {
            1 => None,
            _ => Some(self.monitor.start(config.max_connections).await),
        };
        warnings.extend(self.create_extensions().await);
        let pools: Vec<_> = nodes.iter().map(|node| node.build_pool(config)).collect();
        let roles: Vec<_> = nodes.iter().map(|node| node.role()).collect();
        // One connection each, so that the first request finds it.
        let reachable = nodes.iter().zip(&pools).filter(|(node, _)| node.trouble().is_none());
        let first = reachable.map(async |(node, pool)| (node, pool.checkout(|| true).await));
        for (node, first) in futures_util::future::join_all(first).await {
            match first {
                Ok(connection) => connection.release(),
                Err(source)
                    if Arc::ptr_eq(node, self.main())
                        && (nodes.len() == 1 || is_final(&source)) =>
                {
                    return Err(OpenError::Refused(failure(node, source)));
                }
                Err(source) => warnings.push(failure(node, source).to_string()),
            }
        }
        for ((node, pool), role) in nodes.iter().zip(&pools).zip(roles) {
            // It was told of no change before it is in use.
            if node.role() != role {
                pool.renew();
            }
            node.use_pool(Arc::clone(pool));
        }
        *self.lock_pools() = pools;
        self.lock_members().pool = config.clone();
        if let Some(watching) = watching {
            watching.keep();
        }
        if let Some(discovery) = &self.config.discovery {
            let stop = CancellationToken::new();
            let resolving = keep_resolving(Arc::downgrade(self), discovery.clone());
            *self.lock_discovery() = Some(stop.clone().drop_guard());
            self.tasks().spawn(async move { stop.run_until_cancelled(resolving).await });
        }
        self.phase.store(OPEN, Ordering::Release);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(nodes = nodes.len(), "the engine is open");
        Ok(OpenReport { already_open: false, warnings })
    }

    /// See [`Engine::close_within`](super::Engine::close_within).
    pub(super) async fn close(&self, drain: Duration) -> CloseReport {
        // Before its turn, so that a change of the nodes does not keep the turn for their answers.
        let order = Ordering::AcqRel;
        let closing = |phase| matches!(phase, OPEN | DRAINING).then_some(CLOSING);
        if self.phase.fetch_update(order, Ordering::Acquire, closing).is_ok() {
            self.shut_nodes();
            self.closing.notify_waiters();
        }
        let _one_at_a_time = self.lifecycle.lock().await;
        if matches!(self.phase.load(Ordering::Acquire), UNOPENED | CLOSED) {
            tracing::info!("the engine is not open; there is nothing to close");
            return CloseReport::default();
        }
        let report = self.finish_close(drain).await;
        tracing::info!(?report, "the engine is closed");
        report
    }

    /// Asks every node what it is, again and again until one takes writes. Where others answer, that
    /// is waited for no longer than a write would wait. An engine of one node takes it as it is.
    async fn reach_nodes(&self) -> Result<Vec<String>, OpenError> {
        let timeout = self.config.startup_timeout;
        let patience = self.config.routing.failover_timeout.min(timeout);
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        let nodes = self.nodes();
        loop {
            // The last attempt comes when the time is over, and gets a moment of its own.
            let left = timeout.saturating_sub(started.elapsed()).max(LAST_WORDS);
            let probes = nodes.iter().map(|node| reach(node, left));
            let results = futures_util::future::join_all(probes).await;
            let writable = results.iter().any(|result| matches!(result, Ok(Role::Primary)));
            let answers = results.iter().any(Result::is_ok);
            let alone = nodes.len() == 1;
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
            if writable || (answers && (alone || waited >= patience)) {
                let joins = |failure| format!("{failure}; it joins when it is reachable");
                let mut warnings: Vec<_> = failures.into_iter().map(joins).collect();
                if !writable && !alone {
                    warnings.push(format!(
                        "no node takes writes after {waited:.1?}: replicas serve what they may, and \
                         all else waits for a primary"
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
            if answers {
                tracing::warn!(
                    ?waited,
                    "waiting for a primary: the nodes that answer are replicas"
                );
            }
            let until = if answers { patience } else { timeout };
            tokio::time::sleep(pause.min(until.saturating_sub(waited))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// On the primary, or on the only node. Answers warnings.
    async fn create_extensions(&self) -> Vec<String> {
        let EngineConfig { extensions, startup_timeout, .. } = &self.config;
        if extensions.is_empty() {
            return Vec::new();
        }
        let node = match self.monitor() {
            Some(monitor) => monitor.snapshot().primary_node().cloned(),
            None => Some(Arc::clone(self.main())),
        };
        let Some(node) = node else {
            let wanted = extensions.join("`, `");
            return vec![format!(
                "no node takes writes, so the extensions `{wanted}` were not looked for"
            )];
        };
        match node.say_hello(*startup_timeout).await {
            Ok((mut connection, _)) => {
                create_extensions(&node, &mut connection, extensions, *startup_timeout).await
            }
            Err(source) => vec![failure(&node, source).to_string()],
        }
    }

    async fn finish_close(&self, drain: Duration) -> CloseReport {
        let started = Instant::now();
        self.phase.store(CLOSING, Ordering::Release);
        self.lock_discovery().take();
        self.shut_nodes();
        self.monitor.stop().await;
        let pools = self.lock_pools().clone();
        let end = end_pools(&pools, drain, EndReason::Closed).await;
        self.lock_pools().clear();
        drop(pools);
        let tasks = self.tasks();
        tasks.close();
        let _ = tokio::time::timeout(LAST_WORDS, tasks.wait()).await;
        tasks.reopen();
        self.phase.store(CLOSED, Ordering::Release);
        CloseReport { was_open: true, elapsed: started.elapsed(), ..end }
    }

    fn shut_nodes(&self) {
        for node in &*self.nodes() {
            node.shut();
        }
    }
}

/// Closes pools: what is idle at once, and what is busy when it is given back. What still runs after
/// the drain time is ended, here and at the server.
pub(super) async fn end_pools(
    pools: &[Arc<NodePool>],
    drain: Duration,
    why: EndReason,
) -> CloseReport {
    let in_use = || pools.iter().map(|pool| pool.in_use() as usize).sum::<usize>();
    pools.iter().for_each(|pool| pool.shut());
    let busy = in_use();
    let idle = futures_util::future::join_all(pools.iter().map(|pool| pool.close_idle()));
    let idle = tokio::time::timeout(LAST_WORDS, idle).await.unwrap_or_default();
    let closing = futures_util::future::join_all(pools.iter().map(|pool| pool.close()));
    let mut closing = std::pin::pin!(closing);
    let mut cancelled = 0;
    if tokio::time::timeout(drain, &mut closing).await.is_err() {
        cancelled = in_use();
        pools.iter().for_each(|pool| pool.end(why));
        // Some are held by who does not look at them, and so does not end them.
        let stopping = futures_util::future::join_all(pools.iter().map(NodePool::cancel_all));
        let ending = futures_util::future::join(stopping, closing);
        let _ = tokio::time::timeout(LAST_WORDS, ending).await;
    }
    let still_held = in_use();
    CloseReport {
        idle: idle.iter().sum(),
        drained: busy.saturating_sub(cancelled),
        cancelled: cancelled.saturating_sub(still_held),
        still_held,
        ..CloseReport::default()
    }
}

/// One attempt to reach a node and to learn its role.
async fn reach(node: &Arc<Node>, left: Duration) -> Result<Role, NodeFailure> {
    match node.say_hello(left).await {
        Ok((_, hello)) => {
            hello.look_at_version(node);
            node.set_role(hello.role);
            node.set_trouble(None);
            Ok(hello.role)
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
