//! One node: a server under a name, with its pool.
//!
//! - `server`: how to connect to it, and its role
//! - `setup`, `backend`, `extensions`, `sender`: the library's own SQL: setting up and resetting sessions,
//!   signalling backends, creating extensions, and how all of it is sent
//! - `settings`: what a handle's statements run with
//! - `pool`: its connections while the engine is open
//! - `hooks`: what the app runs on new, checked-out and released connections
//! - `refusal`: why a connection cannot be made, and which key to mend
//! - `probe_connection`: the connection over which the monitor probes it
//! - `listener`: a connection that listens for notifications
//! - `migrating`: that one instance of an app migrates at a time
//! - `gauges`: how busy it is and how fast it answers

mod backend;
mod extensions;
mod gauges;
mod hooks;
mod listener;
#[cfg(feature = "migrate")]
mod migrating;
mod pool;
mod probe_connection;
mod refusal;
mod sender;
mod server;
mod settings;
mod setup;
mod tls_files;

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::backend::{Backend, drain};
pub(crate) use self::extensions::create_extensions;
use self::gauges::Gauges;
pub use self::hooks::{ConnectionHook, hook};
pub(crate) use self::hooks::{HookCell, boxed};
pub(crate) use self::listener::NodeListener;
#[cfg(feature = "migrate")]
pub(crate) use self::migrating::lock_for_migrations;
pub(crate) use self::pool::counts::Counts;
pub(crate) use self::pool::demand::Demand;
pub(crate) use self::pool::pooled_connection::{Parts as ConnectionParts, PooledConnection};
pub(crate) use self::pool::{EndListener, EndReason, Epoch, NodePool};
pub(crate) use self::probe_connection::{ProbeConnection, ProbeState, Question};
pub(crate) use self::refusal::{fix, is_final};
pub(crate) use self::sender::Sender;
pub(crate) use self::server::{Server, Watcher};
pub(crate) use self::settings::{Extent, Settings};
pub(crate) use self::setup::server_start;
use crate::config::{NodeConfig, PoolConfig};
use crate::error::Error;
use crate::logging::Logger;
use crate::router::Role;
use crate::sql::Classifier;

/// The shortest time after which a refused write makes a node replace its connections again.
const MIN_RENEW_INTERVAL: Duration = Duration::from_secs(1);

/// A server under a name, with its pool. A later node of the same name is another `Node`.
pub(crate) struct Node {
    pub(crate) server: Arc<Server>,
    pub(crate) gauges: Gauges,
    pub(crate) probe_connection: ProbeConnection,
    /// Cancelled when the node is removed from the engine.
    pub(crate) left: CancellationToken,
    /// As it was configured, to tell whether a new configuration changes it.
    pub(crate) config: NodeConfig,
    classifier: Arc<Classifier>,
    /// The time limit for a connection outside any pool.
    acquire_timeout: Duration,
    connections: ArcSwap<Connections>,
    /// When a refused write last made the node replace its connections.
    last_renewal: Mutex<Option<Instant>>,
    hooks: Arc<HookCell>,
    /// The pool of the app's own that its connections come from, if it was made over one.
    external: Option<PgPool>,
    /// The engine's tasks, which `close` waits for.
    tasks: TaskTracker,
}

/// What all nodes of an engine share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The engine's name in metrics.
    pub(crate) engine: Arc<str>,
    pub(crate) logger: Arc<Logger>,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) hooks: Arc<HookCell>,
    pub(crate) tasks: TaskTracker,
}

/// Where a node's connections come from.
enum Connections {
    /// The engine was never opened: each query makes a connection of its own.
    Unpooled,
    Pooled(Arc<NodePool>),
    Closed,
    /// The runtime has ended in which the engine was opened.
    Stranded,
}

impl Node {
    pub(crate) fn new(
        name: &str,
        config: &NodeConfig,
        options: PgConnectOptions,
        pool: &PoolConfig,
        shared: &Shared,
    ) -> Self {
        let server =
            Server::new(name.into(), config, options, &shared.engine, Arc::clone(&shared.logger));
        Self::with_server(server, config, pool, shared)
    }

    fn with_server(
        server: Server,
        config: &NodeConfig,
        pool: &PoolConfig,
        shared: &Shared,
    ) -> Self {
        let Shared { engine: _, logger: _, classifier, hooks, tasks } = shared.clone();
        Self {
            server: Arc::new(server),
            gauges: Gauges::default(),
            probe_connection: ProbeConnection::default(),
            left: CancellationToken::new(),
            config: config.clone(),
            classifier,
            acquire_timeout: pool.acquire_timeout,
            connections: ArcSwap::from_pointee(Connections::Unpooled),
            last_renewal: Mutex::default(),
            hooks,
            external: None,
            tasks,
        }
    }

    /// A node over an external pool; it counts as open. In a test it may stand in for a replica.
    pub(crate) fn over_pool(name: &str, pool: PgPool, shared: &Shared, stands_in: bool) -> Self {
        let logger = Arc::clone(&shared.logger);
        let server = Server::behind_pool(name.into(), &pool, &shared.engine, logger, stands_in);
        let config = PoolConfig::default();
        let node = Self {
            external: Some(pool),
            ..Self::with_server(server, &NodeConfig::default(), &config, shared)
        };
        node.use_pool(node.build_pool(&config));
        node
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        self.server.name()
    }

    /// Whether its connections come from a pool that the app made.
    pub(crate) fn is_over_external_pool(&self) -> bool {
        self.server.setup.is_external()
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.acquire_timeout
    }

    /// The pool to take a connection from, `None` before `open`. Fails after `close`, and after the
    /// engine's runtime has ended.
    pub(crate) fn pool(&self) -> Result<Option<Arc<NodePool>>, Error> {
        match &**self.connections.load() {
            Connections::Pooled(pool) => Ok(Some(Arc::clone(pool))),
            Connections::Unpooled => Ok(None),
            Connections::Closed => Err(Error::Closed { node: self.name().to_string() }),
            Connections::Stranded => Err(Error::RuntimeEnded { node: self.name().to_string() }),
        }
    }

    fn open_pool(&self) -> Option<Arc<NodePool>> {
        self.pool().ok().flatten()
    }

    /// Makes a pool that [`use_pool`](Self::use_pool) puts to use. Over a pool of the app's own, that one's
    /// options hold instead of `config`.
    pub(crate) fn build_pool(&self, config: &PoolConfig) -> Arc<NodePool> {
        if let Some(pool) = &self.external {
            return NodePool::over_external(&self.server, pool, self.tasks.clone());
        }
        if self.server.sender.is_pooler && self.hooks.get().run_at_checkout() {
            tracing::warn!(
                node = %self.name(),
                "`after_connect` and `before_acquire` run on connections to PgBouncer: what they set in \
                 a session stays on one of its servers, for whoever comes next, and is not there for \
                 this app's other statements; use `SET LOCAL` in transactions instead"
            );
        }
        NodePool::new(&self.server, config.clone(), self.hooks.get(), self.tasks.clone())
    }

    /// From now on connections come from this pool.
    pub(crate) fn use_pool(&self, pool: Arc<NodePool>) {
        pool.keep_minimum();
        self.set_connections(Connections::Pooled(pool));
    }

    /// From now on no statement starts. Returns the pool that was open.
    pub(crate) fn shut(&self) -> Option<Arc<NodePool>> {
        match &*self.connections.swap(Arc::new(Connections::Closed)) {
            Connections::Pooled(pool) => Some(Arc::clone(pool)),
            Connections::Unpooled | Connections::Closed | Connections::Stranded => None,
        }
    }

    /// From now on no statement starts, because the runtime has ended in which the engine was opened.
    pub(crate) fn strand(&self) {
        self.set_connections(Connections::Stranded);
        self.probe_connection.hang_up();
        let reason =
            "the tokio runtime in which the engine was opened has ended, so it is not probed";
        self.server.set_trouble(Some(reason.to_owned()));
    }

    fn set_connections(&self, connections: Connections) {
        self.connections.store(Arc::new(connections));
    }

    /// Spawns a task that `close` of the engine waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Makes a connection outside any pool, sets up its session and runs the app's hooks. Without a `timeout` it is
    /// the pool's.
    pub(crate) async fn connect(
        &self,
        timeout: Option<Duration>,
    ) -> Result<PgConnection, sqlx::Error> {
        let connecting = async {
            let mut connection = self.server.connect_unpooled().await?;
            self.hooks.get().run_on_first_checkout(&mut connection).await?;
            Ok(connection)
        };
        self.server.within(timeout.unwrap_or(self.acquire_timeout), connecting).await
    }

    /// Records the server's role. If another one was known, replaces the connections.
    pub(crate) fn set_role(&self, role: Role) {
        if self.server.set_role(role) {
            self.renew();
        }
    }

    /// Replaces every connection. Statements that run go on.
    pub(crate) fn renew(&self) {
        if let Some(pool) = self.open_pool() {
            pool.renew();
        }
    }

    /// Ends everything that runs on the node or waits for a connection to it.
    pub(crate) fn end(&self, reason: EndReason) {
        if let Some(pool) = self.open_pool() {
            pool.end(reason);
        }
    }

    /// Has the node probed at once, because a connection was lost or a write was refused.
    pub(crate) fn suspect(&self) {
        if self.server.is_watched() {
            self.probe_connection.suspect();
        }
    }

    /// The server refused a write as read-only, so what is known of it is outdated: a primary was demoted,
    /// the host name leads to another server now, or a replica was promoted whose sessions are still
    /// read-only. Replaces the connections and asks the server for its role, at most once a second.
    pub(crate) fn refused_a_write(self: &Arc<Self>) {
        let Some(pool) = self.open_pool() else { return };
        {
            let mut last = self.last_renewal.lock();
            if last.is_some_and(|last| last.elapsed() < MIN_RENEW_INTERVAL) {
                return;
            }
            *last = Some(Instant::now());
        }
        if !self.server.is_replica() {
            tracing::warn!(
                node = %self.name(),
                "the server refused a write as read-only; its connections are replaced, because it may \
                 have been demoted or replaced by another server"
            );
            pool.renew();
        }
        if self.server.is_watched() {
            return self.probe_connection.suspect();
        }
        let node = Arc::clone(self);
        pool.spawn(async move {
            if let Ok((_, info)) = node.server.connect_and_identify(Duration::MAX).await {
                node.set_role(info.role);
            }
        });
    }
}

/// A node that is counted as busy with a lease, until this is dropped.
pub(crate) struct InFlight(Arc<Node>);

impl InFlight {
    pub(crate) fn on(node: &Arc<Node>) -> Self {
        node.gauges.enter();
        Self(Arc::clone(node))
    }
}

impl Deref for InFlight {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.gauges.leave();
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("server", &self.server).finish_non_exhaustive()
    }
}
