//! The engine: the long-lived owner of nodes, pools and tasks.
//!
//! - here, `hooks`, `tuning`: the public API
//! - `state`, `phase`: what all clones of an engine share
//! - `lifecycle`, `closing`: how it opens and closes
//! - `for_tests`: an engine over one server that stands in for two
//! - `members`, `discovery`, `changes`: which nodes it has, how their addresses are found, and how nodes
//!   are added and removed
//! - `status`: its state at one moment
//! - `measuring`: that state, for the recorder of the `metrics` facade
//! - `listening`: notifications, from whichever node is the primary
//! - `common_floor`: what all new sessions must see
//! - `report`: what opening, closing and changing the nodes did

mod changes;
mod closing;
mod common_floor;
mod discovery;
mod for_tests;
mod hooks;
mod lifecycle;
mod listening;
#[cfg(feature = "metrics")]
mod measuring;
mod members;
mod phase;
mod report;
mod state;
mod status;
mod tuning;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
#[cfg(feature = "migrate")]
use sqlx::migrate::{MigrateError, Migrator};
use tokio::sync::Notify;

pub use self::listening::{Event, Listener};
use self::members::ORIGIN;
use self::phase::EnginePhase;
pub use self::report::{CloseReport, NodesReport, OpenReport};
use self::state::{EngineState, new_shared};
pub use self::status::{EngineStatus, Health, NodeStatus, PoolStatus, ReadYourWrites};
use crate::config::{EngineConfig, MAIN, NodeConfig, PoolConfig, RoutingConfig};
#[cfg(feature = "migrate")]
use crate::error::Error;
use crate::error::{ConfigError, OpenError};
use crate::handle::Handle;
pub use crate::logging::{StatementStatus, StatementWatch};
pub use crate::monitor::{EngineEvent, EventKind};
#[cfg(feature = "migrate")]
use crate::node::lock_for_migrations;
use crate::node::{Node, Shared};
use crate::router::Access;
use crate::session::Token;

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
    /// Checks the configuration and makes an engine of it. It does no I/O, except that it reads the
    /// password file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`], with the path of the key that is not acceptable.
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.validate(ORIGIN)?;
        let (shared, catalogue_wanted) = new_shared(&config);
        let named = config.extra_nodes.iter().map(|(name, node)| (name.as_str(), node));
        let nodes = std::iter::once((MAIN, &config.main)).chain(named).map(|(name, node)| {
            let options = node.connect_options(ORIGIN, "")?;
            Ok(Arc::new(Node::new(name, node, options, &config.pool, &shared)))
        });
        let nodes = nodes.collect::<Result<Vec<_>, ConfigError>>()?;
        Ok(Self::with_state(EngineState::new(
            nodes,
            config,
            shared,
            catalogue_wanted,
            EnginePhase::Unopened,
        )))
    }

    /// Makes an engine of one node over a pool of the app's own, for `#[sqlx::test]` and for apps that
    /// move over step by step. The engine counts as open, and [`close`](Engine::close) closes the pool.
    ///
    /// Each statement outside a transaction, each transaction and each lease takes a connection from that
    /// pool, in the caller's task, and gives it back at its end. So the pool's own limits, timeouts and
    /// hooks apply, and so do the pings that sqlx sends each time: `before_acquire` and `after_release` run
    /// between every two users, and `after_release` runs in a task of its own, as ever with sqlx. To know
    /// what functions and triggers leave in a session, the engine reads the catalogue over a connection
    /// of its own, at the first statement and when that may have changed.
    ///
    /// The engine sets up no session, and closes a connection whose session may have changed (`SET`, a
    /// lock, what ran on the bare `PgConnection`), or on which a statement was given up, instead of
    /// resetting it. The engine's own hooks do not run.
    ///
    /// A pool that is closed stays so. If the engine is opened after `close`, it makes another one with the
    /// same options, limits and hooks, which [`pool`](Engine::pool) returns; the settings of
    /// [`open_with`](Engine::open_with) do not apply to it, and its report says so.
    #[must_use]
    pub fn from_pool(pool: PgPool) -> Self {
        let config = EngineConfig { extensions: Vec::new(), ..EngineConfig::default() };
        let (shared, catalogue_wanted) = new_shared(&config);
        let node = Arc::new(Node::over_pool(MAIN, pool, &shared, false));
        Self::over_open_nodes(vec![node], config, shared, catalogue_wanted)
    }

    /// An engine of nodes that are open already.
    fn over_open_nodes(
        nodes: Vec<Arc<Node>>,
        config: EngineConfig,
        shared: Shared,
        catalogue_wanted: Arc<Notify>,
    ) -> Self {
        let pools = nodes.iter().filter_map(|node| node.pool().ok().flatten()).collect();
        let state = EngineState::new(nodes, config, shared, catalogue_wanted, EnginePhase::Open);
        *state.pools.lock() = pools;
        Self::with_state(state)
    }

    fn with_state(state: EngineState) -> Self {
        Self { state: Arc::new(state) }
    }

    /// Opens a pool for each node: asks each node for its role and version, waits for one that takes
    /// writes, and creates the extensions there.
    ///
    /// The engine belongs to the tokio runtime in which it is opened. When that ends, statements fail with
    /// [`Error::RuntimeEnded`](crate::Error::RuntimeEnded), until the engine is opened in another one.
    ///
    /// If the engine is open already, nothing changes and the report says so. Of two concurrent calls one
    /// opens the engine. A node that is down causes a warning, and its pool connects when the node is
    /// back. If only replicas answer, the engine waits for a primary as long as a write would
    /// ([`failover_timeout`](RoutingConfig::failover_timeout)), and then opens for what replicas may
    /// serve. An engine of one node opens over a standby too.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: at once if the main node refuses, else after `startup_timeout` if no node answered.
    /// The engine is not open then.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: the engine is not open then.
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
    /// As [`open`](Engine::open), and if the settings are not acceptable.
    ///
    /// # Cancellation
    ///
    /// As [`open`](Engine::open).
    pub async fn open_with(&self, pool: PoolConfig) -> Result<OpenReport, OpenError> {
        self.state.open(&pool.checked("open_with")?).await
    }

    /// Closes every pool within a limited time. Idle connections are closed at once, and busy ones when
    /// they are given back. Statements that still run after `drain_timeout` are cancelled, and fail with
    /// [`Error::Cut`](crate::Error::Cut). If servers do not answer, closing takes up to three seconds
    /// more. An `open` under way is waited for; nodes that are just joining are not.
    ///
    /// # Cancellation
    ///
    /// The engine stays half closed: no statement starts any more. Call `close` again to finish.
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

    /// Announces that the engine will be closed: [`is_ready`](Engine::is_ready) returns `false` from now
    /// on, while queries still work. It is the first step of an orderly shutdown, in which load balancers
    /// stop sending requests here.
    pub fn start_draining(&self) {
        self.state.phase.advance(&[EnginePhase::Open], EnginePhase::Draining);
    }

    /// Whether new requests should come: the engine is open and not about to close.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.phase.get() == EnginePhase::Open
    }

    /// Returns a new [`Handle`], through which a request or a job queries.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let handle = Handle::new(Arc::clone(&self.state) as _);
        self.state.common_floor.current().for_each(|token| handle.resume(&token));
        handle
    }

    /// From now on each new handle sees what the token covers: a migration that another program ran, say, or
    /// the data that a job has loaded. Replicas that have not replayed it serve none of their reads, but those
    /// at the level [`Eventual`](crate::Consistency::Eventual). Of several tokens the furthest one counts.
    ///
    /// This lasts for [`max_lag`](RoutingConfig::max_lag), since no replica that is further behind serves
    /// reads anyway.
    pub fn observe(&self, token: &Token) {
        self.state.common_floor.observe(*token, self.routing().max_lag);
    }

    /// Runs the migrations on the primary that were not run yet, one instance of the app at a time. Then all handles
    /// that are made from then on see them, as [`observe`](Engine::observe) says.
    ///
    /// An instance that waits for another one asks for the lock again and again: sqlx's own wait would hold up
    /// `CREATE INDEX CONCURRENTLY`, and be held up by it. No `statement_timeout` and no `lock_timeout` applies.
    ///
    /// It needs the feature `migrate`, and an engine that is open.
    ///
    /// ```no_run
    /// # async fn f(engine: flautino::Engine, migrator: &sqlx::migrate::Migrator)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// engine.open().await?;
    /// engine.migrate(migrator).await?; // `&sqlx::migrate!()`
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of the first migration that fails, and of what was run before: one that was changed, one that
    /// is missing. Those before it are done. Behind PgBouncer,
    /// [`Error::SharedSession`](crate::Error::SharedSession): the lock would stay in a session that others use.
    ///
    /// # Cancellation
    ///
    /// The migration under way is cancelled at the server, and rolled back unless it says `no-transaction`. In an
    /// engine [over a pool](Engine::from_pool) of the app's own, its connection is closed instead, and the
    /// server may finish the statement.
    #[cfg(feature = "migrate")]
    pub async fn migrate(&self, migrator: &Migrator) -> Result<(), MigrateError> {
        let db = self.handle().primary();
        let mut lease = db.acquire().await?;
        if lease.is_behind_pooler() {
            let node = lease.node().to_owned();
            let instead = "migrate through an engine whose node is the server itself";
            let what = "a migration's lock".to_owned();
            return Err(sqlx::Error::from(Error::SharedSession { node, what, instead }).into());
        }
        lock_for_migrations(&mut lease).await?;
        // Not `run`, whose future is `Send` for the compiler only where the connection outlives it; sqlx has this one
        // for that, hidden.
        let migrated = migrator.run_direct(None, &mut *lease, false).await;
        drop(lease);
        // What was migrated before one failed counts too.
        if let Some(token) = db.token().await {
            self.observe(&token);
        }
        migrated
    }

    /// Returns a `PgPool` of a node, for code that needs one, such as a job queue or `PgListener`. `None`
    /// while the engine is not open, and if there is no such node.
    ///
    /// The pool is made at the first call. It has up to
    /// [`sqlx_connections`](PoolConfig::sqlx_connections) connections, in addition to those of the
    /// engine's own pool. Their sessions are set up as the engine's own and reset between two users, and
    /// the connections are replaced when the node's role changes. The engine's hooks run on them, and
    /// [`close`](Engine::close) closes them. For an engine [over a pool](Engine::from_pool) this returns
    /// that pool.
    ///
    /// It stays with its node. What writes asks for the pool of the node that
    /// [`status().primary`](EngineStatus::primary) names, and does so again after a failover (`examples/queue`).
    #[must_use]
    pub fn pool(&self, node: &str) -> Option<PgPool> {
        let node = self.state.monitor().node(node).ok()?;
        Some(node.pool().ok()??.sqlx_pool())
    }

    /// Listens to these channels: a stream of what `NOTIFY` and `pg_notify` send there from now on. It goes along
    /// with the primary to another node, connects anew where its connection is lost, and tells with
    /// [`Event::Gap`] when notifications may have been lost: then a cache that they keep in step is emptied.
    ///
    /// It has one connection to the primary, beside those of the pool. An idle connection is asked every 15 s
    /// whether it is still there. A task reads what comes, whether or not the stream is read, so that the server
    /// has nothing to keep; beyond 1,024 events that wait, notifications are dropped, and a gap is told.
    ///
    /// ```no_run
    /// # async fn f(engine: flautino::Engine) -> Result<(), sqlx::Error> {
    /// use flautino::Event;
    ///
    /// let mut listener = engine.listen(["prices"]).await?;
    /// while let Some(event) = listener.next().await {
    ///     match event {
    ///         Event::Notification(told) => println!("{} has changed", told.payload()),
    ///         _ => println!("anything may have changed"), // `Event::Gap`
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed) unless the engine is open,
    /// [`Error::SharedSession`](crate::Error::SharedSession) behind PgBouncer, and what keeps the first connection
    /// from listening: with replicas after [`failover_timeout`](RoutingConfig::failover_timeout), else at once.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: nothing listens then.
    pub async fn listen(
        &self,
        channels: impl IntoIterator<Item: Into<String>>,
    ) -> Result<Listener, sqlx::Error> {
        self.state.listen(channels.into_iter().map(Into::into).collect()).await
    }

    /// Returns what a statement needs, as the router sees it: for tests and explanations. Before `open`,
    /// and if there is one node, every call of a function counts as a write.
    #[must_use]
    pub fn access(&self, sql: &str) -> Access {
        let classifier = &self.state.context.classifier;
        classifier.access(&classifier.plan(sql), sql)
    }

    /// Whether there is more than one node, so that statements are routed and tokens are used.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        self.state.monitor().has_replicas()
    }

    /// The replica router's settings.
    #[must_use]
    pub fn routing(&self) -> &RoutingConfig {
        &self.state.config.routing
    }

    /// Replaces the nodes beside the main one. Nodes with the same name and configuration as before stay
    /// as they are, and so do the nodes that [discovery](crate::DiscoveryConfig) has found.
    ///
    /// A new node is probed before this returns (unless the engine closes meanwhile), and serves as soon
    /// as it may. A node that is removed gets no statement from now on. This waits until the statements
    /// that run there have ended, for up to `drain_timeout`; after that they are ended, and reads among
    /// them are run on another node. A handle that [names](crate::Handle::node) a node keeps the name: it
    /// leads to the new node of that name, or to [`UnknownNode`](crate::UnknownNode) if there is none.
    ///
    /// It may also be called before `open` and after `close`.
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
    /// [`ConfigError::Key`] with the name and the key that are not acceptable. Nothing is changed then.
    ///
    /// # Cancellation
    ///
    /// The change goes on in the background.
    pub async fn set_nodes(
        &self,
        nodes: BTreeMap<String, NodeConfig>,
    ) -> Result<NodesReport, ConfigError> {
        EngineConfig::check_nodes(&nodes, ORIGIN)?;
        let state = Arc::clone(&self.state);
        // Not one of the tasks that `close` waits for, because this task may itself wait for `close`.
        let setting = tokio::spawn(async move { state.set_nodes(nodes).await });
        match setting.await {
            Ok(report) => report,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The task was dropped, because the runtime ends.
            Err(_) => Ok(NodesReport::default()),
        }
    }

    /// Sets how names of [`DiscoveryConfig`](crate::DiscoveryConfig) are resolved from now on, instead of
    /// by the operating system: by another DNS server, say, or by a service registry. `resolve` gets the
    /// name and the port.
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

    /// Returns the state of the engine at this moment, to be shown or serialized.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        EngineStatus::of(&self.state)
    }

    /// Returns what the engine is configured with, or was switched to since, by the keys' paths: its own settings
    /// and those of the pool and the routing. Those of nodes, among which are passwords, are not told.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let logger = &self.state.shared.logger;
        let mut told = self.state.config.told();
        told.extend(
            [
                ("log_queries", logger.queries().to_string()),
                ("log_responses", logger.responses().to_string()),
                ("log_slow", format!("{:?}", logger.slow())),
                ("log_repeated", logger.repeated().to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        told
    }

    /// Has the statements of the app counted and timed for [`EngineStatus::statements`], until the watch is
    /// dropped. Each costs two or three microseconds more meanwhile. The first watch begins anew.
    #[must_use]
    pub fn watch_statements(&self) -> StatementWatch {
        StatementWatch::new(&self.state.shared.logger.statements)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("nodes", &self.state.nodes()).finish_non_exhaustive()
    }
}
