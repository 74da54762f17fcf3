//! The engine: the long-lived owner of nodes, pools and tasks.

mod discovery;
mod lifecycle;
mod members;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use self::members::Members;
pub use self::members::NodesReport;
use crate::config::{EngineConfig, MAIN, PoolConfig, RoutingConfig};
use crate::error::{ConfigError, OpenError, UnknownNode};
use crate::handle::Handle;
use crate::logging::Logger;
use crate::node::{Node, Shared};
use crate::pool::{ConnectionHook, NodePool, boxed};
use crate::router::{Access, Classifier, Monitor, Nodes, Plan, Reason};
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
    main: Arc<Node>,
    config: EngineConfig,
    /// What nodes are made of, beside their own configuration.
    shared: Shared,
    members: Mutex<Members>,
    phase: AtomicU8,
    /// Held while opening or closing, so that these happen one at a time.
    lifecycle: tokio::sync::Mutex<()>,
    /// Told when the phase becomes [`CLOSING`].
    closing: Notify,
    /// Ends the task that resolves the replicas' name, when it is dropped.
    discovery: Mutex<Option<DropGuard>>,
    /// The pools of the nodes, until `close` is through with them, or those of a node that left.
    pools: Mutex<Vec<Arc<NodePool>>>,
    decisions: [AtomicU64; Reason::ALL.len()],
    /// Has the nodes. It runs while the engine is open and has more than one, or had.
    monitor: Arc<Monitor>,
}

/// Where a configuration that is a value comes from, for errors.
const ORIGIN: &str = "the configuration";

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
        config.validate(ORIGIN)?;
        let (classifier, catalogue_wanted) = classifier_of(config.routing.statement_cache);
        let logger = Arc::new(Logger::new(config.log_queries, config.log_responses));
        let (hooks, tasks) = (Arc::default(), TaskTracker::new());
        let shared = Shared { logger, classifier, hooks, tasks };
        let named = config.extra_nodes.iter().map(|(name, node)| (name.as_str(), node));
        let nodes = std::iter::once((MAIN, &config.main)).chain(named).map(|(name, node)| {
            let options = node.connect_options(ORIGIN, "")?;
            Ok(Arc::new(Node::new(name, node, options, &config.pool, &shared)))
        });
        let nodes = nodes.collect::<Result<Vec<_>, ConfigError>>()?;
        Ok(Self::assemble(nodes, config, shared, catalogue_wanted, UNOPENED))
    }

    /// An engine of one node over a pool that exists, for `#[sqlx::test]` and for apps that move
    /// over step by step. It counts as open; `close` closes the pool. Each lease takes a connection of
    /// that pool and gives it back, so that the pool's own settings and hooks hold, which costs sqlx's
    /// pings. No session setting is made: a connection whose session was changed is closed, not reset.
    /// Hooks of the engine do not run on it.
    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        let config = EngineConfig { extensions: Vec::new(), ..EngineConfig::default() };
        let (classifier, catalogue_wanted) = classifier_of(config.routing.statement_cache);
        let (hooks, tasks) = (Arc::default(), TaskTracker::new());
        let shared = Shared { logger: Arc::new(Logger::default()), classifier, hooks, tasks };
        let node = Node::over(MAIN, pool, &shared);
        let pools = node.pool().ok().flatten().into_iter().collect();
        let engine = Self::assemble(vec![node], config, shared, catalogue_wanted, OPEN);
        *engine.inner.lock_pools() = pools;
        engine
    }

    /// From now on this runs on each new connection of each node, before anyone uses it, as with sqlx's
    /// `PgPoolOptions::after_connect`: what an app sets in every session of its own. It runs again after
    /// a session was reset, since that takes such settings away; and in the task of whoever asked for
    /// the connection, within `acquire_timeout`. Its error is that one's error.
    ///
    /// To be called before [`open`](Engine::open): a pool keeps to the hooks that there were when it was
    /// opened. The monitor's own connections are left alone.
    ///
    /// ```no_run
    /// # fn f(config: flautino::EngineConfig) -> Result<(), flautino::ConfigError> {
    /// use sqlx::PgConnection;
    ///
    /// let engine = flautino::Engine::new(config)?.after_connect(async |connection: &mut PgConnection| {
    ///     sqlx::query("SET search_path = app").execute(connection).await.map(drop)
    /// });
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn after_connect(self, hook: impl for<'c> ConnectionHook<'c, ()>) -> Self {
        self.inner.shared.hooks.set(|hooks| hooks.after_connect = Some(boxed(hook)));
        self
    }

    /// From now on this runs each time that a connection is lent, in the task of the one who asked for
    /// it, within `acquire_timeout`. `Ok(false)` has the connection closed, and another one taken; its
    /// error is the asker's error.
    ///
    /// What it sets in the session stays there for the next one, unless it sets it anew each time; see
    /// [`after_connect`](Engine::after_connect) for when to call it.
    #[must_use]
    pub fn before_acquire(self, hook: impl for<'c> ConnectionHook<'c, bool>) -> Self {
        self.inner.shared.hooks.set(|hooks| hooks.before_acquire = Some(boxed(hook)));
        self
    }

    /// From now on this runs each time that a connection comes back, before its session is reset where
    /// it was changed. `Ok(false)`, or an error, has the connection closed. Since a lease may be dropped
    /// anywhere, it runs in a task of the engine's own, and the connection's place is taken so long.
    ///
    /// See [`after_connect`](Engine::after_connect) for when to call it.
    #[must_use]
    pub fn after_release(self, hook: impl for<'c> ConnectionHook<'c, bool>) -> Self {
        self.inner.shared.hooks.set(|hooks| hooks.after_release = Some(boxed(hook)));
        self
    }

    /// The main node first.
    fn assemble(
        nodes: Vec<Arc<Node>>,
        config: EngineConfig,
        shared: Shared,
        catalogue_wanted: Arc<Notify>,
        phase: u8,
    ) -> Self {
        let main = Arc::clone(&nodes[0]);
        let (routing, classifier) = (config.routing.clone(), Arc::clone(&shared.classifier));
        Self {
            inner: Arc::new(EngineInner {
                main,
                monitor: Monitor::new(nodes, routing, classifier, catalogue_wanted),
                members: Mutex::new(Members::new(&config)),
                config,
                shared,
                phase: AtomicU8::new(phase),
                lifecycle: tokio::sync::Mutex::default(),
                closing: Notify::new(),
                discovery: Mutex::default(),
                pools: Mutex::default(),
                decisions: Default::default(),
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
    /// not answered. An `open` under way is waited for; nodes that join are not.
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
        let node = self.inner.node(node).ok()?;
        node.pool().ok()??.sqlx_pool()
    }

    /// What a statement needs, as the router sees it: for tests and explanations. Before `open`,
    /// and where there is one node, every call of a function is a write.
    #[must_use]
    pub fn access(&self, sql: &str) -> Access {
        let classifier = self.inner.classifier();
        classifier.access(&classifier.plan(sql), sql)
    }

    /// Whether there is more than one node, so that statements are routed and tokens mean
    /// something.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        self.inner.has_replicas()
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
    /// The main node first.
    pub(crate) fn nodes(&self) -> Nodes {
        self.monitor.nodes()
    }

    pub(crate) fn main(&self) -> &Arc<Node> {
        &self.main
    }

    pub(crate) fn node(&self, name: &str) -> Result<Arc<Node>, UnknownNode> {
        let named = self.nodes().iter().find(|node| &*node.name == name).cloned();
        named.ok_or_else(|| self.unknown(name))
    }

    pub(crate) fn unknown(&self, name: &str) -> UnknownNode {
        let known = self.nodes().iter().map(|node| node.name.to_string()).collect();
        UnknownNode { name: name.to_owned(), known }
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
        &self.shared.tasks
    }

    pub(crate) fn routing(&self) -> &RoutingConfig {
        &self.config.routing
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        &self.shared.classifier
    }

    /// What a statement needs, by the catalogue as it is now: for an engine of one node, which does
    /// not keep it. A write where it cannot be read.
    pub(crate) async fn access_now(&self, plan: &Plan, sql: &str) -> Access {
        if self.monitor.refresh_catalogue(&self.main).await {
            self.classifier().access(plan, sql)
        } else {
            Access::Write
        }
    }

    /// Who knows the nodes, while the engine is open and routes statements.
    pub(crate) fn monitor(&self) -> Option<&Arc<Monitor>> {
        Some(&self.monitor).filter(|monitor| self.has_replicas() && monitor.is_running())
    }

    /// Whether statements are routed, or will be once the engine is open.
    pub(crate) fn has_replicas(&self) -> bool {
        self.monitor.snapshot().servers.len() > 1
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), OPEN | DRAINING)
    }

    fn is_closed(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), CLOSING | CLOSED)
    }

    /// Ready when the engine closes or is closed.
    async fn closing(&self) {
        // It hears of all that comes after this, and the phase says what came before.
        let told = self.closing.notified();
        if !self.is_closed() {
            told.await;
        }
    }

    fn lock_discovery(&self) -> MutexGuard<'_, Option<DropGuard>> {
        self.discovery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pools(&self) -> MutexGuard<'_, Vec<Arc<NodePool>>> {
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
        f.debug_struct("Engine").field("nodes", &self.inner.nodes()).finish_non_exhaustive()
    }
}
