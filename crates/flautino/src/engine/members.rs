//! Nodes that come and go while the engine is open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};

use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinHandle;

use super::discovery::{Resolver, resolve, system_resolver};
use super::lifecycle::end_pools;
use super::{CloseReport, Engine, EngineInner, ORIGIN};
use crate::config::{DiscoveryConfig, EngineConfig, NodeConfig, PoolConfig};
use crate::error::ConfigError;
use crate::node::Node;
use crate::pool::{EndReason, NodePool};

/// Which nodes there are beside the main one, and with what pools.
#[derive(Clone)]
pub(super) struct Members {
    /// By configuration, or by [`Engine::set_nodes`].
    named: BTreeMap<String, NodeConfig>,
    /// By [`DiscoveryConfig`].
    discovered: BTreeSet<SocketAddr>,
    pub(super) resolver: Resolver,
    /// What the engine was opened with.
    pub(super) pool: PoolConfig,
}

/// What [`Engine::set_nodes`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodesReport {
    /// Nodes that are new, or have another configuration than before.
    pub added: Vec<String>,
    /// Nodes that left, or have another configuration than before.
    pub removed: Vec<String>,
    /// Connections of those that ended by themselves within the drain time.
    pub drained: usize,
    /// Connections whose statements were ended when the drain time was over. Reads among them were
    /// run elsewhere.
    pub cancelled: usize,
    /// Connections that the app still holds; each closes when it is dropped.
    pub still_held: usize,
}

/// What [`Members`] come to.
struct Nodes {
    /// The main one first.
    all: Vec<Arc<Node>>,
    /// Those that were not there before.
    added: Vec<Arc<Node>>,
}

impl Members {
    pub(super) fn new(config: &EngineConfig) -> Self {
        Self {
            named: config.extra_nodes.clone(),
            discovered: BTreeSet::new(),
            resolver: system_resolver(),
            pool: config.pool.clone(),
        }
    }
}

impl Engine {
    /// From now on these are the nodes beside the main one, under these names; those that
    /// [discovery](DiscoveryConfig) found stay besides. Nodes of the same name and configuration stay
    /// as they are.
    ///
    /// A new node is probed before this returns (unless the engine closes meanwhile), and serves as
    /// soon as it may. One that leaves gets no statement from now on; what runs there may go on for
    /// `drain_timeout`, which is waited for. After that it is ended, and reads are run elsewhere. A
    /// handle that [names](crate::Handle::node) a node keeps to the name: it leads to a successor,
    /// and gets [`UnknownNode`](crate::UnknownNode) where there is none.
    ///
    /// It may be called before `open` and after `close`, too.
    ///
    /// ```no_run
    /// # async fn f(engine: flautino::Engine) -> Result<(), flautino::ConfigError> {
    /// use std::collections::BTreeMap;
    /// use flautino::NodeConfig;
    ///
    /// let url = Some("postgres://replica-2/my_app".to_owned());
    /// let node = NodeConfig { url, ..NodeConfig::default() };
    /// let report = engine.set_nodes(BTreeMap::from([("replica_2".to_owned(), node)])).await?;
    /// println!("{:?} came, {:?} went", report.added, report.removed);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`] with the name and the key that are not acceptable; nothing is changed
    /// then.
    ///
    /// # Cancellation
    ///
    /// What has begun goes on in the background.
    pub async fn set_nodes(
        &self,
        nodes: BTreeMap<String, NodeConfig>,
    ) -> Result<NodesReport, ConfigError> {
        EngineConfig::check_nodes(&nodes, ORIGIN)?;
        let inner = Arc::clone(&self.inner);
        // None of the tasks that `close` waits for: it may wait for its turn until that is over.
        let setting = tokio::spawn(async move {
            let (mut report, leaving) = inner.change(|all| all.named = nodes).await?;
            for left in leaving {
                // It fails only where the runtime ends.
                let Ok(left) = left.await else { continue };
                report.drained += left.drained;
                report.cancelled += left.cancelled;
                report.still_held += left.still_held;
            }
            Ok(report)
        });
        match setting.await {
            Ok(report) => report,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => Ok(NodesReport::default()),
        }
    }
}

impl EngineInner {
    pub(super) fn lock_members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves the name of the replicas, and takes over what it says. What leaves is not waited for.
    pub(super) async fn discover(self: &Arc<Self>, config: &DiscoveryConfig) -> io::Result<()> {
        let mut found = self.resolve(config).await?;
        let before = self.lock_members().discovered.clone();
        for address in before.difference(&found).copied().collect::<Vec<_>>() {
            if self.needs(address).await {
                found.insert(address);
            }
        }
        let changed = before != found;
        if changed {
            self.change(|all| all.discovered = found).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Whether a node must stay although its name does not lead to it any more: a replica that was
    /// promoted may leave the name, and is needed all the more. It may not be known as a primary yet,
    /// or down for a moment.
    async fn needs(&self, address: SocketAddr) -> bool {
        let picture = self.monitor.snapshot().clone();
        let address = (address.ip().to_string(), address.port());
        let is_there = |node: &Arc<Node>| node.host_and_port() == address;
        let Some(number) = picture.servers.iter().position(is_there) else { return false };
        let may_be_next = picture.primary.is_none() && picture.nodes[number].up;
        number == picture.writer
            || may_be_next
            || self.monitor.is_primary_now(&picture.servers[number]).await
    }

    /// The same as [`discover`](Self::discover), while nothing is open and the caller has the turn.
    pub(super) async fn discover_first(&self, config: &DiscoveryConfig) -> io::Result<()> {
        let found = self.resolve(config).await?;
        let members = Members { discovered: found.clone(), ..self.lock_members().clone() };
        let nodes = self.nodes_of(&members).map_err(io::Error::other)?;
        self.lock_members().discovered = found;
        self.monitor.replace(nodes.all).await;
        Ok(())
    }

    async fn resolve(&self, config: &DiscoveryConfig) -> io::Result<BTreeSet<SocketAddr>> {
        let resolver = Arc::clone(&self.lock_members().resolver);
        resolve(resolver, config, self.main().host_and_port().1).await
    }

    async fn change(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Members),
    ) -> Result<(NodesReport, Vec<JoinHandle<CloseReport>>), ConfigError> {
        let _one_at_a_time = self.lifecycle.lock().await;
        let mut members = self.lock_members().clone();
        change(&mut members);
        let before = self.nodes();
        let Nodes { all: nodes, added } = self.nodes_of(&members)?;
        let gone = |node: &&Arc<Node>| !nodes.iter().any(|stays| Arc::ptr_eq(stays, node));
        let removed: Vec<_> = before.iter().filter(gone).cloned().collect();
        let pool = members.pool;
        {
            let mut now = self.lock_members();
            (now.named, now.discovered) = (members.named, members.discovered);
        }
        let names = |nodes: &[Arc<Node>]| nodes.iter().map(|node| node.name.to_string()).collect();
        let report = NodesReport {
            added: names(&added),
            removed: names(&removed),
            ..NodesReport::default()
        };
        if added.is_empty() && removed.is_empty() {
            return Ok((report, Vec::new()));
        }
        tracing::info!(added = ?report.added, removed = ?report.removed, "the nodes are others now");
        // Those of nodes that left while the app held a connection of theirs.
        self.lock_pools().retain(|pool| !pool.is_closed() || pool.in_use() > 0);
        let is_open = self.is_open();
        for node in &added {
            if is_open {
                let pool = node.build_pool(&pool);
                self.lock_pools().push(Arc::clone(&pool));
                node.use_pool(pool);
            } else if self.is_closed() {
                node.shut();
            }
        }
        let meeting = async {
            self.monitor.replace(nodes).await;
            if is_open && !self.monitor.is_running() {
                self.monitor.start(pool.max_connections).await.keep();
            }
        };
        // After `close` nobody needs the answers: the next `open` asks anew.
        tokio::select! {
            // First, since the nodes are replaced before anything is waited for.
            biased;
            () = meeting => {}
            () = self.closing() => {}
        }
        Ok((report, removed.into_iter().map(|node| self.dismiss(node)).collect()))
    }

    fn nodes_of(&self, members: &Members) -> Result<Nodes, ConfigError> {
        let before = self.nodes();
        let mut nodes = vec![Arc::clone(self.main())];
        let mut added = Vec::new();
        let mut add = |name: &str, config: &NodeConfig, options: PgConnectOptions| {
            let same = |node: &&Arc<Node>| *node.name == *name && node.config == *config;
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
            let alone =
                members.discovered.iter().filter(|one| one.ip() == address.ip()).count() == 1;
            let name = if alone { host.clone() } else { address.to_string() };
            if members.named.contains_key(&name) {
                continue;
            }
            let config = &self.config.main;
            let options = config.connect_options(ORIGIN, "")?;
            let options = options.host(&host).port(address.port());
            let (host, port) = (Some(host), Some(address.port()));
            add(&name, &NodeConfig { host, port, ..config.clone() }, options);
        }
        Ok(Nodes { all: nodes, added })
    }

    /// Lets a node go that no statement is sent to any more.
    fn dismiss(self: &Arc<Self>, node: Arc<Node>) -> JoinHandle<CloseReport> {
        node.left.cancel();
        let pools: Vec<_> = node.shut().into_iter().collect();
        let engine = Arc::clone(self);
        self.tasks().spawn(async move {
            // Reads that are ended so are run elsewhere.
            let end = end_pools(&pools, engine.config.drain_timeout, EndReason::Down).await;
            pools.iter().for_each(|pool| pool.end(EndReason::Closed));
            let ended = |pool: &Arc<NodePool>| pools.iter().any(|left| Arc::ptr_eq(left, pool));
            if end.still_held == 0 {
                engine.lock_pools().retain(|pool| !ended(pool));
            }
            node.line.close().await;
            tracing::info!(node = %node.name, ?end, "the node has left");
            end
        })
    }
}
