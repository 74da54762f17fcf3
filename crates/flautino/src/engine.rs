//! The engine: the long-lived owner of nodes, pools and tasks.
//!
//! - here: the public API; `hooks`: what an app runs on its connections
//! - `state`, `phase`: what all clones share
//! - `lifecycle`, `closing`: how it opens and closes
//! - `members`, `discovery`, `changes`: nodes that come and go
//! - `status`, `report`: what it says of itself

mod changes;
mod closing;
mod discovery;
mod hooks;
mod lifecycle;
mod members;
mod phase;
mod report;
mod state;
mod status;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::task::TaskTracker;

use self::members::ORIGIN;
use self::phase::EnginePhase;
pub use self::report::{CloseReport, NodesReport, OpenReport};
use self::state::{EngineState, new_classifier};
pub use self::status::{EngineStatus, Health, NodeStatus, PoolStatus, ReadYourWrites};
use crate::config::{EngineConfig, MAIN, NodeConfig, PoolConfig, RoutingConfig};
use crate::error::{ConfigError, OpenError};
use crate::handle::Handle;
use crate::logging::Logger;
use crate::node::{Node, Shared};
use crate::router::Access;

/// A PostgreSQL engine: one main node, any number of named others, and a pool for each.
///
/// It is cheap to clone, and all clones are one engine. Before [`open`](Engine::open) queries
/// work, each on a connection of its own; after [`close`](Engine::close) they fail with
/// [`Error::Closed`](crate::Error::Closed).
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use flautino::{Engine, EngineConfig};
///
/// let engine = Engine::new(EngineConfig::find()?)?;
/// engine.open().await?;
/// sqlx::query("SELECT 1").execute(&engine.handle()).await?;
/// engine.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Engine {
    state: Arc<EngineState>,
}

impl Engine {
    /// Checks the configuration and makes an engine of it. No I/O, but for the password file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`], with the path of the key that is not acceptable.
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.validate(ORIGIN)?;
        let (classifier, catalogue_wanted) = new_classifier(config.routing.statement_cache);
        let logger = Arc::new(Logger::new(config.log_queries, config.log_responses));
        let (hooks, tasks) = (Arc::default(), TaskTracker::new());
        let shared = Shared { logger, classifier, hooks, tasks };
        let named = config.extra_nodes.iter().map(|(name, node)| (name.as_str(), node));
        let nodes = std::iter::once((MAIN, &config.main)).chain(named).map(|(name, node)| {
            let options = node.connect_options(ORIGIN, "")?;
            Ok(Arc::new(Node::new(name, node, options, &config.pool, &shared)))
        });
        let nodes = nodes.collect::<Result<Vec<_>, ConfigError>>()?;
        Ok(Self::of(EngineState::new(
            nodes,
            config,
            shared,
            catalogue_wanted,
            EnginePhase::Unopened,
        )))
    }

    /// An engine of one node over a pool that exists, for `#[sqlx::test]` and for apps that move
    /// over step by step. It counts as open; `close` closes the pool. Each lease takes a connection of
    /// that pool and gives it back, so that the pool's own settings and hooks hold, which costs sqlx's
    /// pings. No session setting is made: a connection whose session was changed is closed, not reset.
    /// Hooks of the engine do not run on it.
    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        let config = EngineConfig { extensions: Vec::new(), ..EngineConfig::default() };
        let (classifier, catalogue_wanted) = new_classifier(config.routing.statement_cache);
        let (hooks, tasks) = (Arc::default(), TaskTracker::new());
        let shared = Shared { logger: Arc::new(Logger::default()), classifier, hooks, tasks };
        let node = Arc::new(Node::over_pool(MAIN, pool, &shared));
        let pools = node.pool().ok().flatten().into_iter().collect();
        let state =
            EngineState::new(vec![node], config, shared, catalogue_wanted, EnginePhase::Open);
        *state.pools.lock() = pools;
        Self::of(state)
    }

    fn of(state: EngineState) -> Self {
        Self { state: Arc::new(state) }
    }

    /// Opens a pool for each node: asks each for role and version, waits for one that takes writes,
    /// and creates the extensions there.
    ///
    /// Opening what is open changes nothing and says so in the report; of two concurrent calls
    /// one opens. A node that is down is a warning; its pool connects when it is back. Where only
    /// replicas answer, a primary is waited for as long as a write would
    /// ([`failover_timeout`](RoutingConfig::failover_timeout)), and then the engine opens for what
    /// replicas may serve. An engine of one node opens over a standby, too.
    ///
    /// # Errors
    ///
    /// [`OpenError`], after `startup_timeout` where no node answered, at once where the main one
    /// refuses. Nothing is open then.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: nothing is open then.
    pub async fn open(&self) -> Result<OpenReport, OpenError> {
        self.state.open(&self.state.config.pool).await
    }

    /// As [`open`](Engine::open), with other pool settings than the configuration's.
    ///
    /// ```no_run
    /// # async fn f(engine: flautino::Engine) -> Result<(), flautino::OpenError> {
    /// use flautino::PoolConfig;
    ///
    /// engine.open_with(PoolConfig { max_connections: 20, ..PoolConfig::default() }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open`](Engine::open), and where the settings are not acceptable.
    ///
    /// # Cancellation
    ///
    /// As [`open`](Engine::open).
    pub async fn open_with(&self, pool: PoolConfig) -> Result<OpenReport, OpenError> {
        self.state.open(&pool.checked("open_with")?).await
    }

    /// Closes every pool, within a bound: idle connections at once, busy ones when they end or
    /// when `drain_timeout` is over, whichever is first. Statements that run then are cut off
    /// ([`Error::Cut`](crate::Error::Cut)). Up to three seconds are added for goodbyes that are
    /// not answered. An `open` under way is waited for; nodes that join are not.
    ///
    /// # Cancellation
    ///
    /// No statement starts any more; call it again to finish.
    pub async fn close(&self) -> CloseReport {
        self.close_within(self.state.config.drain_timeout).await
    }

    /// As [`close`](Engine::close), with another drain time than the configuration's.
    ///
    /// # Cancellation
    ///
    /// As [`close`](Engine::close).
    pub async fn close_within(&self, drain: Duration) -> CloseReport {
        self.state.close(drain).await
    }

    /// How long [`close`](Engine::close) lets running statements go on, as configured.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.state.config.drain_timeout
    }

    /// Says that the end is near: [`is_ready`](Engine::is_ready) turns false while queries go
    /// on. The first step of an orderly shutdown, so that load balancers look elsewhere.
    pub fn start_draining(&self) {
        self.state.phase.advance(&[EnginePhase::Open], EnginePhase::Draining);
    }

    /// Whether new requests are welcome: open, and not about to close.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.phase.get() == EnginePhase::Open
    }

    /// What a request or a job queries through.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.state.cluster))
    }

    /// A `PgPool` of a node, while the engine is open: for code that wants one, such as a job queue or
    /// `PgListener`.
    ///
    /// It stands beside the engine's own pool: it is made at the first call, and its connections, up to
    /// [`sqlx_connections`](PoolConfig::sqlx_connections), count extra. Their sessions are set up as the
    /// engine's own, reset between two users, and replaced when the node's role changes; the engine's
    /// hooks run on them, and `close` closes them. Of an engine [over a pool](Engine::from_pool) it is
    /// that pool.
    #[must_use]
    pub fn pool(&self, node: &str) -> Option<PgPool> {
        let node = self.state.monitor().node(node).ok()?;
        Some(node.pool().ok()??.sqlx_pool())
    }

    /// What a statement needs, as the router sees it: for tests and explanations. Before `open`,
    /// and where there is one node, every call of a function is a write.
    #[must_use]
    pub fn access(&self, sql: &str) -> Access {
        let classifier = &self.state.cluster.classifier;
        classifier.access(&classifier.plan(sql), sql)
    }

    /// Whether there is more than one node, so that statements are routed and tokens mean
    /// something.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        self.state.monitor().has_replicas()
    }

    /// The replica router's settings.
    #[must_use]
    pub fn routing(&self) -> &RoutingConfig {
        &self.state.config.routing
    }

    /// From now on these are the nodes beside the main one, under these names; those that
    /// [discovery](crate::DiscoveryConfig) found stay besides. Nodes of the same name and configuration stay
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
        let state = Arc::clone(&self.state);
        // `close` does not wait for this task, which may itself wait for `close` to be over.
        let setting = tokio::spawn(async move { state.set_nodes(nodes).await });
        match setting.await {
            Ok(report) => report,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => Ok(NodesReport::default()),
        }
    }

    /// From now on names of [`DiscoveryConfig`](crate::DiscoveryConfig) are resolved so, instead of by the operating system:
    /// by another DNS server, or by a registry of services. It is given the name and the port.
    ///
    /// ```no_run
    /// # fn f(engine: flautino::Engine) {
    /// engine.resolve_with(async |name, port| Ok(tokio::net::lookup_host((name, port)).await?.collect()));
    /// # }
    /// ```
    pub fn resolve_with<F, R>(&self, resolve: F)
    where
        F: Fn(String, u16) -> R + Send + Sync + 'static,
        R: Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        self.state.members.lock().resolver =
            Arc::new(move |host, port| Box::pin(resolve(host, port)));
    }

    /// The state of the engine, to be shown or serialized.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        EngineStatus::of(&self.state)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("nodes", &self.state.nodes()).finish_non_exhaustive()
    }
}
