//! The engine: the long-lived owner of nodes, pools and tasks.

mod lifecycle;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::config::{EngineConfig, MAIN, PoolConfig, RoutingConfig};
use crate::error::{ConfigError, OpenError, UnknownNode};
use crate::handle::Handle;
use crate::logging::Logger;
use crate::node::Node;
use crate::pool::NodePool;
use crate::router::{Access, Classifier, Monitor, Reason};
use crate::status::EngineStatus;

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
    inner: Arc<EngineInner>,
}

pub(crate) struct EngineInner {
    /// The main node first.
    nodes: Vec<Arc<Node>>,
    config: EngineConfig,
    phase: AtomicU8,
    /// Held while opening or closing, so that these happen one at a time.
    lifecycle: tokio::sync::Mutex<()>,
    /// The pools of the nodes, until `close` is through with them.
    pools: Mutex<Vec<Arc<NodePool>>>,
    tasks: TaskTracker,
    decisions: [AtomicU64; Reason::ALL.len()],
    classifier: Arc<Classifier>,
    /// Where there is more than one node.
    monitor: Option<Arc<Monitor>>,
}

const UNOPENED: u8 = 0;
const OPEN: u8 = 1;
const DRAINING: u8 = 2;
const CLOSING: u8 = 3;
const CLOSED: u8 = 4;

/// What [`Engine::open`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The engine was open before, and nothing was changed.
    pub already_open: bool,
    /// What does not keep the app from serving: a node that is down, an extension that is
    /// missing. Each is logged too.
    pub warnings: Vec<String>,
}

/// What [`Engine::close`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// `false` where there was nothing to close.
    pub was_open: bool,
    /// Connections that were idle and closed at once.
    pub idle: usize,
    /// Connections that were busy and ended by themselves within the drain time.
    pub drained: usize,
    /// Connections whose statements were cancelled when the drain time was over.
    pub cancelled: usize,
    /// Connections that the app still holds; each closes when it is dropped.
    pub still_held: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl Engine {
    /// Checks the configuration and makes an engine of it. No I/O, but for the password file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`], with the path of the key that is not acceptable.
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        const ORIGIN: &str = "the configuration";
        config.validate(ORIGIN)?;
        let logger = Arc::new(Logger::new(config.log_queries, config.log_responses));
        let tasks = TaskTracker::new();
        let named = config.extra_nodes.iter().map(|(name, node)| (name.as_str(), node));
        let nodes = std::iter::once((MAIN, &config.main)).chain(named);
        let (classifier, catalogue_wanted) = classifier_of(config.routing.statement_cache);
        let nodes = nodes.map(|(name, node)| {
            let options = node.connect_options(ORIGIN, "")?;
            let (logger, classifier) = (Arc::clone(&logger), Arc::clone(&classifier));
            let pool = &config.pool;
            Ok(Arc::new(Node::new(name, node, options, pool, logger, classifier, tasks.clone())))
        });
        let nodes = nodes.collect::<Result<Vec<_>, ConfigError>>()?;
        let monitor = (nodes.len() > 1).then(|| {
            let routing = config.routing.clone();
            Monitor::new(&nodes, routing, Arc::clone(&classifier), catalogue_wanted)
        });
        Ok(Self::assemble(nodes, config, tasks, classifier, monitor, UNOPENED))
    }

    /// An engine of one node over a pool that exists, for `#[sqlx::test]` and for apps that move
    /// over step by step. It counts as open; `close` closes the pool. The pool's own settings
    /// and hooks stay as they are, and no session setting is made: a connection whose session was
    /// changed is closed, not reset.
    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        let tasks = TaskTracker::new();
        let config = EngineConfig { extensions: Vec::new(), ..EngineConfig::default() };
        let (classifier, _) = classifier_of(config.routing.statement_cache);
        let logger = Arc::new(Logger::default());
        let node = Node::over(MAIN, pool, logger, Arc::clone(&classifier), tasks.clone());
        let engine = Self::assemble(vec![node], config, tasks, classifier, None, OPEN);
        let pools = engine.inner.nodes.iter().filter_map(|node| node.pool().ok().flatten());
        *engine.inner.lock_pools() = pools.collect();
        engine
    }

    fn assemble(
        nodes: Vec<Arc<Node>>,
        config: EngineConfig,
        tasks: TaskTracker,
        classifier: Arc<Classifier>,
        monitor: Option<Arc<Monitor>>,
        phase: u8,
    ) -> Self {
        Self {
            inner: Arc::new(EngineInner {
                nodes,
                config,
                phase: AtomicU8::new(phase),
                lifecycle: tokio::sync::Mutex::default(),
                pools: Mutex::default(),
                tasks,
                decisions: Default::default(),
                classifier,
                monitor,
            }),
        }
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
    /// Safe: nothing is open then.
    pub async fn open(&self) -> Result<OpenReport, OpenError> {
        self.inner.open(&self.inner.config.pool).await
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
        self.inner.open(&pool.checked("open_with")?).await
    }

    /// Closes every pool, within a bound: idle connections at once, busy ones when they end or
    /// when `drain_timeout` is over, whichever is first. Statements that run then are cut off
    /// ([`Error::Cut`](crate::Error::Cut)). Up to three seconds are added for goodbyes that are
    /// not answered. An `open` under way is waited for.
    ///
    /// # Cancellation
    ///
    /// No statement starts any more; call it again to finish.
    pub async fn close(&self) -> CloseReport {
        self.close_within(self.inner.config.drain_timeout).await
    }

    /// As [`close`](Engine::close), with another drain time than the configuration's.
    ///
    /// # Cancellation
    ///
    /// As [`close`](Engine::close).
    pub async fn close_within(&self, drain: Duration) -> CloseReport {
        self.inner.close(drain).await
    }

    /// How long [`close`](Engine::close) lets running statements go on, as configured.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.inner.config.drain_timeout
    }

    /// Says that the end is near: [`is_ready`](Engine::is_ready) turns false while queries go
    /// on. The first step of an orderly shutdown, so that load balancers look elsewhere.
    pub fn start_draining(&self) {
        let order = Ordering::AcqRel;
        let _ = self.inner.phase.compare_exchange(OPEN, DRAINING, order, Ordering::Acquire);
    }

    /// Whether new requests are welcome: open, and not about to close.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.phase.load(Ordering::Acquire) == OPEN
    }

    /// What a request or a job queries through.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.inner))
    }

    /// sqlx's own pool of a node, while the engine is open: for code that wants a `PgPool`.
    #[must_use]
    pub fn pool(&self, node: &str) -> Option<PgPool> {
        let (_, node) = self.inner.node(node).ok()?;
        let pool = node.pool().ok()??;
        Some(pool.sqlx().clone())
    }

    /// What a statement needs, as the router sees it: for tests and explanations. Before `open`,
    /// and where there is one node, every call of a function is a write.
    #[must_use]
    pub fn access(&self, sql: &str) -> Access {
        let classifier = &self.inner.classifier;
        classifier.access(&classifier.plan(sql), sql)
    }

    /// Whether there is more than one node, so that statements are routed and tokens mean
    /// something.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        self.inner.any_monitor().is_some()
    }

    /// The replica router's settings.
    #[must_use]
    pub fn routing(&self) -> &RoutingConfig {
        &self.inner.config.routing
    }

    /// A picture of the engine, to be shown or serialized.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        EngineStatus::of(&self.inner)
    }
}

impl EngineInner {
    pub(crate) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    pub(crate) fn main(&self) -> &Arc<Node> {
        &self.nodes[0]
    }

    /// A node by its name, with its number.
    pub(crate) fn node(&self, name: &str) -> Result<(usize, &Arc<Node>), UnknownNode> {
        let named = self.nodes.iter().enumerate().find(|(_, node)| &*node.name == name);
        named.ok_or_else(|| UnknownNode {
            name: name.to_owned(),
            known: self.nodes.iter().map(|node| node.name.to_string()).collect(),
        })
    }

    pub(crate) fn count(&self, reason: Reason) {
        if let Some(counter) = self.decisions.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn decisions(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.decisions.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts)
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(crate) fn routing(&self) -> &RoutingConfig {
        &self.config.routing
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Who knows the nodes, while the engine is open and has more than one.
    pub(crate) fn monitor(&self) -> Option<&Arc<Monitor>> {
        self.monitor.as_ref().filter(|monitor| monitor.is_running())
    }

    /// The same, whether the engine is open or not.
    pub(crate) fn any_monitor(&self) -> Option<&Arc<Monitor>> {
        self.monitor.as_ref()
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), OPEN | DRAINING)
    }

    fn lock_pools(&self) -> std::sync::MutexGuard<'_, Vec<Arc<NodePool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A classifier of so many statements, and what tells that it wants the catalogue.
fn classifier_of(statements: usize) -> (Arc<Classifier>, Arc<Notify>) {
    let wanted = Arc::new(Notify::new());
    let want = Arc::clone(&wanted);
    let classifier = Classifier::new(statements, Box::new(move || want.notify_one()));
    (Arc::new(classifier), wanted)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("nodes", &self.inner.nodes).finish_non_exhaustive()
    }
}
