//! Adding and removing nodes, by [`Engine::set_nodes`](super::Engine::set_nodes) or by discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinHandle;

use super::closing::close_pools;
use super::discovery::resolve;
use super::members::{Members, ORIGIN};
use super::report::{CloseReport, NodesReport};
use super::state::EngineState;
use crate::config::{DiscoveryConfig, NodeConfig, PoolConfig};
use crate::error::ConfigError;
use crate::monitor::Started;
use crate::node::{EndReason, Node, NodePool};

/// The nodes for some [`Members`].
struct NodeSet {
    /// All nodes, the main one first. Unchanged ones are taken over from before.
    all: Vec<Arc<Node>>,
    /// The new ones among them.
    added: Vec<Arc<Node>>,
}

impl EngineState {
    /// See [`Engine::set_nodes`](super::Engine::set_nodes).
    pub(super) async fn set_nodes(
        self: &Arc<Self>,
        nodes: BTreeMap<String, NodeConfig>,
    ) -> Result<NodesReport, ConfigError> {
        let (mut report, leaving) = self.change_members(|members| members.named = nodes).await?;
        for left in leaving {
            // Fails only where the runtime ends.
            let Ok(left) = left.await else { continue };
            report.drained += left.drained;
            report.cancelled += left.cancelled;
            report.still_held += left.still_held;
        }
        Ok(report)
    }

    /// Starts the monitor, and sizes the budget for reads on the primary by the primary's pool.
    pub(super) async fn start_monitor(&self, pool: &PoolConfig) -> Started {
        self.context.budget.open(pool.max_connections, self.config.routing.fallback_share);
        self.monitor().start().await
    }

    /// Resolves the name of the replicas, and adds and removes nodes accordingly. It does not wait for
    /// statements on the removed ones.
    pub(super) async fn discover(self: &Arc<Self>, config: &DiscoveryConfig) -> io::Result<()> {
        let mut found = self.resolve(config).await?;
        let before = self.members.lock().discovered.clone();
        for address in before.difference(&found).copied().collect::<Vec<_>>() {
            if self.is_needed(address).await {
                found.insert(address);
            }
        }
        let changed = before != found;
        if changed {
            self.change_members(|members| members.discovered = found)
                .await
                .map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Whether a node must stay although the name of the replicas does not lead to it any more, because
    /// it is the primary now, or may have been promoted just now.
    async fn is_needed(&self, address: SocketAddr) -> bool {
        let state = self.monitor().state().clone();
        let address = (address.ip().to_string(), address.port());
        let has_address = |node: &&Arc<Node>| node.server.host_and_port() == address;
        let Some(node) = state.nodes.iter().find(has_address) else { return false };
        let is_up = state.view(node).is_some_and(|view| view.up);
        let may_be_promoted = state.primary().is_none() && is_up;
        state.is_writer(node) || may_be_promoted || self.monitor().is_primary_now(node).await
    }

    /// As [`discover`](Self::discover), for an engine that is about to open: there is nothing to close,
    /// and the caller holds the `lifecycle_lock`.
    pub(super) async fn discover_first(&self, config: &DiscoveryConfig) -> io::Result<()> {
        let found = self.resolve(config).await?;
        let members = Members { discovered: found.clone(), ..self.members.lock().clone() };
        let nodes = self.nodes_of(&members).map_err(io::Error::other)?;
        self.members.lock().discovered = found;
        self.monitor().replace(nodes.all).await;
        Ok(())
    }

    async fn resolve(&self, config: &DiscoveryConfig) -> io::Result<BTreeSet<SocketAddr>> {
        let resolver = Arc::clone(&self.members.lock().resolver);
        resolve(resolver, config, self.main().server.host_and_port().1).await
    }

    /// Changes the members, and adds and removes nodes accordingly. Returns a task for each node that was
    /// removed, which closes its pool.
    async fn change_members(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Members),
    ) -> Result<(NodesReport, Vec<JoinHandle<CloseReport>>), ConfigError> {
        let _guard = self.lifecycle_lock.lock().await;
        let mut members = self.members.lock().clone();
        change(&mut members);
        let before = self.nodes();
        let NodeSet { all: nodes, added } = self.nodes_of(&members)?;
        let is_gone = |node: &&Arc<Node>| !nodes.iter().any(|kept| Arc::ptr_eq(kept, node));
        let removed: Vec<_> = before.iter().filter(is_gone).cloned().collect();
        let pool = members.pool;
        {
            let mut current = self.members.lock();
            (current.named, current.discovered) = (members.named, members.discovered);
        }
        let names =
            |nodes: &[Arc<Node>]| nodes.iter().map(|node| node.name().to_string()).collect();
        let report = NodesReport {
            added: names(&added),
            removed: names(&removed),
            ..NodesReport::default()
        };
        if added.is_empty() && removed.is_empty() {
            return Ok((report, Vec::new()));
        }
        tracing::info!(added = ?report.added, removed = ?report.removed, "the engine's nodes have changed");
        // A removed node's pool stays while the app holds a connection of it. Forget those that are done.
        self.pools.lock().retain(|pool| !pool.is_closed() || pool.in_use() > 0);
        let is_open = self.phase.is_open();
        for node in &added {
            if is_open {
                let pool = node.build_pool(&pool);
                self.pools.lock().push(Arc::clone(&pool));
                node.use_pool(pool);
            } else if self.phase.is_closed() {
                node.shut();
            }
        }
        let probing = async {
            self.monitor().replace(nodes).await;
            if is_open && !self.monitor().is_running() {
                self.start_monitor(&pool).await.keep();
            }
        };
        // When the engine closes, nobody needs the probes: the next `open` asks every node.
        tokio::select! {
            // Polls `probing` at least once, which replaces the nodes before it first waits.
            biased;
            () = probing => {}
            () = self.phase.closing() => {}
        }
        Ok((report, removed.into_iter().map(|node| self.remove_node(node)).collect()))
    }

    /// Makes the nodes for the members, and takes over those that are unchanged.
    fn nodes_of(&self, members: &Members) -> Result<NodeSet, ConfigError> {
        let before = self.nodes();
        let mut nodes = vec![self.main()];
        let mut added = Vec::new();
        let mut add = |name: &str, config: &NodeConfig, options: PgConnectOptions| {
            let same = |node: &&Arc<Node>| **node.name() == *name && node.config == *config;
            let node = before.iter().skip(1).find(same).cloned().unwrap_or_else(|| {
                let node = Arc::new(Node::new(name, config, options, &members.pool, &self.shared));
                added.push(Arc::clone(&node));
                node
            });
            nodes.push(node);
        };
        for (name, config) in &members.named {
            let path = format!("extra_nodes.{name}.");
            add(name, config, config.connect_options(ORIGIN, &path)?);
        }
        for address in &members.discovered {
            let host = address.ip().to_string();
            let same_host = members.discovered.iter().filter(|other| other.ip() == address.ip());
            let name = if same_host.count() == 1 { host.clone() } else { address.to_string() };
            if members.named.contains_key(&name) {
                continue;
            }
            let config = &self.config.main;
            let options = config.connect_options(ORIGIN, "")?;
            let options = options.host(&host).port(address.port());
            let (host, port) = (Some(host), Some(address.port()));
            add(&name, &NodeConfig { host, port, ..config.clone() }, options);
        }
        Ok(NodeSet { all: nodes, added })
    }

    /// Closes the pool of a node that the monitor does not know any more, in a task of its own.
    fn remove_node(self: &Arc<Self>, node: Arc<Node>) -> JoinHandle<CloseReport> {
        node.left.cancel();
        let pools: Vec<_> = node.shut().into_iter().collect();
        let engine = Arc::clone(self);
        self.tasks().spawn(async move {
            // `Removed` makes reads that are ended run again on another node.
            let drain = engine.config.drain_timeout;
            let report = close_pools(&pools, drain, EndReason::Removed).await;
            pools.iter().for_each(|pool| pool.end(EndReason::Closed));
            let is_closed = |pool: &Arc<NodePool>| pools.iter().any(|one| Arc::ptr_eq(one, pool));
            if report.still_held == 0 {
                engine.pools.lock().retain(|pool| !is_closed(pool));
            }
            node.probe_connection.close().await;
            tracing::info!(node = %node.name(), ?report, "the node was removed");
            report
        })
    }
}

/// Resolves the name of the replicas again and again, and adds and removes nodes accordingly. While the
/// name cannot be resolved, the nodes stay as they are.
pub(super) async fn keep_resolving(engine: Weak<EngineState>, config: DiscoveryConfig) {
    loop {
        tokio::time::sleep(config.interval.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
        let Some(engine) = engine.upgrade() else { return };
        if let Err(error) = engine.discover(&config).await {
            let host = &config.host;
            tracing::warn!(%error, "`{host}` (`discovery.host`) was not resolved; its nodes stay as they are");
        }
    }
}
