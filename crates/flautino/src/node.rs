//! One node: a server under a name, and what runs on it.
//!
//! - `server`: how to reach it and what it said it is; `sender`, `setup`, `backend`, `extensions`: the
//!   library's own SQL on it
//! - `pool`: its connections while the engine is open; `hooks`: what the app runs on them
//! - `probe_connection`, `gauges`: how it is asked, and what it carries

mod backend;
mod extensions;
mod gauges;
mod hooks;
mod pool;
mod probe_connection;
mod sender;
mod server;
mod setup;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::extensions::create_extensions;
pub(crate) use self::gauges::{Gauges, InFlight};
pub use self::hooks::{ConnectionHook, hook};
pub(crate) use self::hooks::{HookCell, boxed};
pub(crate) use self::pool::pooled_connection::PooledConnection;
pub(crate) use self::pool::{Counts, EndReason, Epoch, NodePool};
pub(crate) use self::probe_connection::{ProbeConnection, ProbeState};
pub(crate) use self::sender::Sender;
pub(crate) use self::server::{Server, Watcher};
pub(crate) use self::setup::server_start;
use crate::config::{NodeConfig, PoolConfig};
use crate::error::Error;
use crate::logging::Logger;
use crate::router::Role;
use crate::sql::Classifier;

/// How often at most a refused write makes a node replace its connections.
const MIN_RENEW_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Node {
    pub(crate) server: Arc<Server>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) probe_connection: ProbeConnection,
    /// Cancelled when it is no node of the engine any more.
    pub(crate) left: CancellationToken,
    /// As it was configured.
    pub(crate) config: NodeConfig,
    classifier: Arc<Classifier>,
    /// For a connection outside any pool.
    acquire_timeout: Duration,
    connections: RwLock<Connections>,
    last_renewal: Mutex<Option<Instant>>,
    hooks: Arc<HookCell>,
    tasks: TaskTracker,
}

/// What the nodes of an engine share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) logger: Arc<Logger>,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) hooks: Arc<HookCell>,
    pub(crate) tasks: TaskTracker,
}

/// Where a node's connections come from.
enum Connections {
    /// Never opened: each query has a connection of its own.
    Unpooled,
    Pooled(Arc<NodePool>),
    Closed,
}

impl Node {
    pub(crate) fn new(
        name: &str,
        config: &NodeConfig,
        options: PgConnectOptions,
        pool: &PoolConfig,
        shared: &Shared,
    ) -> Self {
        let server = Server::new(name.into(), config, options, Arc::clone(&shared.logger));
        Self::of(server, config, pool, shared)
    }

    fn of(server: Server, config: &NodeConfig, pool: &PoolConfig, shared: &Shared) -> Self {
        let Shared { logger: _, classifier, hooks, tasks } = shared.clone();
        Self {
            server: Arc::new(server),
            gauges: Arc::default(),
            probe_connection: ProbeConnection::default(),
            left: CancellationToken::new(),
            config: config.clone(),
            classifier,
            acquire_timeout: pool.acquire_timeout,
            connections: RwLock::new(Connections::Unpooled),
            last_renewal: Mutex::default(),
            hooks,
            tasks,
        }
    }

    /// A node over a pool that exists; it counts as open.
    pub(crate) fn over_pool(name: &str, pool: PgPool, shared: &Shared) -> Self {
        let server = Server::behind_pool(name.into(), &pool, Arc::clone(&shared.logger));
        let node = Self::of(server, &NodeConfig::default(), &PoolConfig::default(), shared);
        node.set_connections(Connections::Pooled(NodePool::over_external(
            &node.server,
            pool,
            node.tasks.clone(),
        )));
        node
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        self.server.name()
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.acquire_timeout
    }

    /// The pool to take a connection from, `None` before `open`.
    pub(crate) fn pool(&self) -> Result<Option<Arc<NodePool>>, Error> {
        match &*self.connections.read() {
            Connections::Pooled(pool) => Ok(Some(Arc::clone(pool))),
            Connections::Unpooled => Ok(None),
            Connections::Closed => Err(Error::Closed { node: self.name().to_string() }),
        }
    }

    fn open_pool(&self) -> Option<Arc<NodePool>> {
        self.pool().ok().flatten()
    }

    /// Before `open`: a pool of sqlx's that is made for the occasion.
    pub(crate) fn single_sqlx_pool(&self) -> PgPool {
        self.server.single_sqlx_pool()
    }

    /// A pool with these settings, not yet in use.
    pub(crate) fn build_pool(&self, config: &PoolConfig) -> Arc<NodePool> {
        NodePool::new(&self.server, config.clone(), self.hooks.get(), self.tasks.clone())
    }

    pub(crate) fn use_pool(&self, pool: Arc<NodePool>) {
        pool.keep_minimum();
        self.set_connections(Connections::Pooled(pool));
    }

    /// No statement starts from now on. Returns the pool that was open.
    pub(crate) fn shut(&self) -> Option<Arc<NodePool>> {
        match std::mem::replace(&mut *self.connections.write(), Connections::Closed) {
            Connections::Pooled(pool) => Some(pool),
            Connections::Unpooled | Connections::Closed => None,
        }
    }

    fn set_connections(&self, connections: Connections) {
        *self.connections.write() = connections;
    }

    /// Runs a task that `close` waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// A connection outside any pool, with its session set up and the app's hooks run.
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connecting = async {
            let mut connection = self.server.connect_unpooled().await?;
            self.hooks.get().run_on_first_checkout(&mut connection).await?;
            Ok(connection)
        };
        self.server.within(self.acquire_timeout, connecting).await
    }

    /// Records what the server says it is. Connections made under another role are replaced.
    pub(crate) fn set_role(&self, role: Role) {
        if self.server.set_role(role) {
            self.renew();
        }
    }

    /// Replaces every connection made so far. What runs on one goes on.
    pub(crate) fn renew(&self) {
        if let Some(pool) = self.open_pool() {
            pool.renew();
        }
    }

    /// Ends what runs on the node and what waits for a connection, and says why.
    pub(crate) fn end(&self, why: EndReason) {
        if let Some(pool) = self.open_pool() {
            pool.end(why);
        }
    }

    /// Has the node probed at once, because something speaks against it: a lost connection, a refused
    /// write.
    pub(crate) fn suspect(&self) {
        if self.server.is_watched() {
            self.probe_connection.suspect();
        }
    }

    /// Asks the server again what it is, at most once a second, because it refused a write as
    /// read-only: a primary was demoted, or the name leads to another server by now, or a replica was
    /// promoted whose sessions are still read-only.
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
                "the server refused a write as read-only; its connections are replaced, \
                 since a demoted primary would go on refusing"
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

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("server", &self.server).finish_non_exhaustive()
    }
}
