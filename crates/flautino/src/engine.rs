//! The engine: the long-lived owner of nodes, pools and tasks.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};
use tokio_util::task::TaskTracker;

use crate::bootstrap;
use crate::config::{EngineConfig, MAIN, PoolConfig};
use crate::error::{ConfigError, NodeFailure, OpenError, UnknownNode};
use crate::handle::{Handle, Reason};
use crate::logging::Logger;
use crate::node::{Node, Role};
use crate::pool::NodePool;
use crate::status::EngineStatus;

/// How long `close` gives what it has cancelled, and its own goodbyes.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The longest pause between two attempts of `open`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

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
    decisions: [AtomicU64; REASONS.len()],
}

/// In the order of the counters.
pub(crate) const REASONS: [Reason; 2] = [Reason::MainNode, Reason::NamedNode];

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
        let named = config
            .extra_nodes
            .iter()
            .map(|(name, node)| (name.as_str(), node));
        let nodes = std::iter::once((MAIN, &config.main)).chain(named);
        let nodes = nodes.map(|(name, node)| {
            let options = node.connect_options(ORIGIN, "")?;
            let logger = Arc::clone(&logger);
            Ok(Arc::new(Node::new(
                name,
                node,
                options,
                &config.pool,
                logger,
                tasks.clone(),
            )))
        });
        let nodes = nodes.collect::<Result<_, ConfigError>>()?;
        Ok(Self::assemble(nodes, config, tasks, UNOPENED))
    }

    /// An engine of one node over a pool that exists, for `#[sqlx::test]` and for apps that move
    /// over step by step. It counts as open; `close` closes the pool. The pool's own settings
    /// and hooks stay as they are, and no session setting is made.
    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        let tasks = TaskTracker::new();
        let node = Node::over(MAIN, pool, Arc::new(Logger::default()), tasks.clone());
        let engine = Self::assemble(vec![Arc::new(node)], EngineConfig::default(), tasks, OPEN);
        let pools = engine
            .inner
            .nodes
            .iter()
            .filter_map(|node| node.pool().ok().flatten());
        *engine.inner.lock_pools() = pools.collect();
        engine
    }

    fn assemble(
        nodes: Vec<Arc<Node>>,
        config: EngineConfig,
        tasks: TaskTracker,
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
            }),
        }
    }

    /// Opens a pool for each node: waits for the main node, asks each for role and version, and
    /// creates the extensions on the main node.
    ///
    /// Opening what is open changes nothing and says so in the report; of two concurrent calls
    /// one opens. A node other than the main one that is down is a warning; its pool connects
    /// when it is back.
    ///
    /// # Errors
    ///
    /// [`OpenError`], after `startup_timeout` where no answer came, at once where the server
    /// refuses. Nothing is open then.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is open then.
    pub async fn open(&self) -> Result<OpenReport, OpenError> {
        self.open_pools(&self.inner.config.pool).await
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
        self.open_pools(&pool.checked("open_with")?).await
    }

    async fn open_pools(&self, config: &PoolConfig) -> Result<OpenReport, OpenError> {
        let inner = &self.inner;
        let _one_at_a_time = inner.lifecycle.lock().await;
        match inner.phase.load(Ordering::Acquire) {
            OPEN | DRAINING => {
                tracing::info!("the engine is already open; nothing was changed");
                return Ok(OpenReport {
                    already_open: true,
                    warnings: Vec::new(),
                });
            }
            // A `close` that was cancelled half-way.
            CLOSING => {
                inner.finish_close(Duration::ZERO).await;
            }
            _ => {}
        }
        let (mut main, mut warnings) = inner.reach_nodes().await?;
        let Settings {
            extensions,
            startup_timeout,
        } = inner.settings();
        let node = inner.main();
        let missing =
            bootstrap::create_extensions(node, &mut main, extensions, startup_timeout).await;
        warnings.extend(missing);
        drop(main);

        let pools: Vec<_> = inner
            .nodes
            .iter()
            .map(|node| node.build_pool(config))
            .collect();
        for (node, pool) in inner.nodes.iter().zip(&pools) {
            if node.trouble().is_some() {
                continue;
            }
            // One connection each, so that the first request finds it.
            match pool.checkout().await {
                Ok((taken, slot)) => {
                    pool.give_back(taken);
                    drop(slot);
                }
                Err(source) if Arc::ptr_eq(node, inner.main()) => {
                    return Err(OpenError::Refused(failure(node, source)));
                }
                Err(source) => warnings.push(failure(node, source).to_string()),
            }
        }
        for (node, pool) in inner.nodes.iter().zip(&pools) {
            node.use_pool(Arc::clone(pool));
        }
        *inner.lock_pools() = pools;
        inner.phase.store(OPEN, Ordering::Release);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(nodes = inner.nodes.len(), "the engine is open");
        Ok(OpenReport {
            already_open: false,
            warnings,
        })
    }

    /// Closes every pool, within a bound: idle connections at once, busy ones when they end or
    /// when `drain_timeout` is over, whichever is first. Statements that run then are cancelled.
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
        let inner = &self.inner;
        let _one_at_a_time = inner.lifecycle.lock().await;
        if matches!(inner.phase.load(Ordering::Acquire), UNOPENED | CLOSED) {
            tracing::info!("the engine is not open; there is nothing to close");
            return CloseReport::default();
        }
        let report = inner.finish_close(drain).await;
        tracing::info!(?report, "the engine is closed");
        report
    }

    /// Says that the end is near: [`is_ready`](Engine::is_ready) turns false while queries go
    /// on. The first step of an orderly shutdown, so that load balancers look elsewhere.
    pub fn start_draining(&self) {
        let order = Ordering::AcqRel;
        let _ = self
            .inner
            .phase
            .compare_exchange(OPEN, DRAINING, order, Ordering::Acquire);
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
        let pool = self.inner.node(node).ok()?.pool().ok()??;
        Some(pool.sqlx().clone())
    }

    /// A picture of the engine, to be shown or serialized.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        EngineStatus::of(&self.inner)
    }
}

struct Settings<'a> {
    extensions: &'a [String],
    startup_timeout: Duration,
}

impl EngineInner {
    pub(crate) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    pub(crate) fn main(&self) -> &Arc<Node> {
        &self.nodes[0]
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Arc<Node>, UnknownNode> {
        self.nodes
            .iter()
            .find(|node| &*node.name == name)
            .ok_or_else(|| UnknownNode {
                name: name.to_owned(),
                known: self
                    .nodes
                    .iter()
                    .map(|node| node.name.to_string())
                    .collect(),
            })
    }

    pub(crate) fn count(&self, reason: Reason) {
        let index = REASONS.iter().position(|known| *known == reason);
        if let Some(counter) = index.and_then(|index| self.decisions.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn decisions(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self
            .decisions
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        REASONS.into_iter().zip(counts)
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), OPEN | DRAINING)
    }

    fn settings(&self) -> Settings<'_> {
        let EngineConfig {
            extensions,
            startup_timeout,
            ..
        } = &self.config;
        Settings {
            extensions,
            startup_timeout: *startup_timeout,
        }
    }

    fn lock_pools(&self) -> std::sync::MutexGuard<'_, Vec<Arc<NodePool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every node what it is, again and again until the main node answers.
    async fn reach_nodes(&self) -> Result<(PgConnection, Vec<String>), OpenError> {
        let timeout = self.settings().startup_timeout;
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let probes = self.nodes.iter().map(reach);
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
                        return Err(OpenError::Unreachable {
                            waited,
                            nodes: failed.collect(),
                        });
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
        let pools = self.lock_pools().clone();
        let in_use = || {
            pools
                .iter()
                .map(|pool| pool.in_use() as usize)
                .sum::<usize>()
        };

        let idle = futures_util::future::join_all(pools.iter().map(|pool| pool.close_idle()));
        let idle = tokio::time::timeout(LAST_WORDS, idle)
            .await
            .unwrap_or_default();
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
async fn reach(node: &Arc<Node>) -> Result<PgConnection, NodeFailure> {
    let reached = async {
        let mut connection = node.connect_bare().await?;
        bootstrap::probe(node, &mut connection).await?;
        Ok(connection)
    };
    match reached.await {
        Ok(connection) => {
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
    NodeFailure {
        node: node.name.to_string(),
        address: node.address(),
        source,
    }
}

/// Whether waiting does not mend it: the server refuses the role, the password, the database,
/// or this build cannot speak as the configuration demands.
fn is_final(err: &sqlx::Error) -> bool {
    match err {
        sqlx::Error::Database(err) => err
            .code()
            .is_some_and(|code| code.starts_with("28") || code == "3D000"),
        sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => true,
        _ => false,
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("nodes", &self.inner.nodes)
            .finish_non_exhaustive()
    }
}
