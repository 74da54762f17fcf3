//! One PostgreSQL server under a name: how to reach it, what it is now, what runs on it.

mod backend;
mod extensions;
mod setup;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, PgPool, SqlSafeStr};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::backend::{Backend, Stop};
pub(crate) use self::extensions::create_extensions;
pub(crate) use self::setup::{Hello, SessionSetup, server_start};
use crate::config::{NodeConfig, PoolConfig};
use crate::error::Error;
use crate::gauges::Gauges;
use crate::logging::{Logger, Values};
use crate::pool::{EndReason, HookCell, NodePool};
use crate::router::{Classifier, Line, Monitor};
use crate::statement::Statement;

/// How often at most a refused write makes a node give up its connections.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);

/// What a server is now. Learnt from the server, never from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It is in recovery: a standby.
    Replica,
    /// It was not asked yet, or did not answer, or refused what its role should allow.
    Unknown,
}

pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) setup: SessionSetup,
    pub(crate) logger: Arc<Logger>,
    pub(crate) gauges: Gauges,
    options: PgConnectOptions,
    /// For a connection outside any pool.
    acquire_timeout: Duration,
    /// For one attempt of `open`.
    connect_timeout: Duration,
    pooler: bool,
    /// Whether sqlx keeps statements prepared on a connection.
    keeps_prepared: bool,
    role: AtomicU8,
    /// Why the node is not usable, if it is not.
    trouble: Mutex<Option<String>>,
    phase: RwLock<Phase>,
    last_renewal: Mutex<Option<Instant>>,
    /// What the app runs on its connections.
    hooks: Arc<HookCell>,
    tasks: TaskTracker,
    classifier: Arc<Classifier>,
    /// Who probes it while the engine has more than one node.
    watch: OnceLock<Weak<Monitor>>,
    pub(crate) line: Line,
    /// Cancelled when it is no node of the engine any more.
    pub(crate) left: CancellationToken,
    /// As it was configured.
    pub(crate) config: NodeConfig,
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
enum Phase {
    /// Never opened: each query has a connection of its own.
    Unopened,
    Open(Arc<NodePool>),
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
        let Shared { logger, classifier, hooks, tasks } = shared.clone();
        Self {
            name: name.into(),
            setup: SessionSetup::new(config),
            logger,
            gauges: Gauges::default(),
            options,
            acquire_timeout: pool.acquire_timeout,
            connect_timeout: config.connect_timeout.unwrap_or(Duration::from_secs(5)),
            pooler: config.pgbouncer,
            keeps_prepared: config.keeps_prepared(),
            role: AtomicU8::new(Role::Unknown as u8),
            trouble: Mutex::default(),
            phase: RwLock::new(Phase::Unopened),
            last_renewal: Mutex::default(),
            hooks,
            tasks,
            classifier,
            watch: OnceLock::new(),
            line: Line::default(),
            left: CancellationToken::new(),
            config: config.clone(),
        }
    }

    /// A node over a pool that exists; it counts as open.
    pub(crate) fn over(name: &str, pool: PgPool, shared: &Shared) -> Arc<Self> {
        let options = pool.connect_options().as_ref().clone();
        let (config, node) = (PoolConfig::default(), NodeConfig::default());
        let node = Self::new(name, &node, options, &config, shared);
        let node = Arc::new(Self { setup: SessionSetup::none(), ..node });
        node.set_phase(Phase::Open(NodePool::borrowing(&node, pool, shared.tasks.clone())));
        node
    }

    /// The pool to take a connection from, `None` before `open`.
    pub(crate) fn pool(&self) -> Result<Option<Arc<NodePool>>, Error> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Open(pool) => Ok(Some(Arc::clone(pool))),
            Phase::Unopened => Ok(None),
            Phase::Closed => Err(Error::Closed { node: self.name.to_string() }),
        }
    }

    /// Before `open`: a pool that is made for the occasion.
    pub(crate) fn single_sqlx_pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(1).connect_lazy_with(self.options.clone())
    }

    /// A pool with these settings, not yet in use.
    pub(crate) fn build_pool(self: &Arc<Self>, config: &PoolConfig) -> Arc<NodePool> {
        NodePool::new(self, config.clone(), self.hooks.get(), self.tasks.clone())
    }

    pub(crate) fn use_pool(&self, pool: Arc<NodePool>) {
        pool.keep_minimum();
        self.set_phase(Phase::Open(pool));
    }

    /// No statement starts from now on. Answers the pool that was open.
    pub(crate) fn shut(&self) -> Option<Arc<NodePool>> {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *phase, Phase::Closed) {
            Phase::Open(pool) => Some(pool),
            Phase::Unopened | Phase::Closed => None,
        }
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// A new connection for the pool, with its session set up, and the process that serves it.
    pub(crate) async fn open_session(
        self: &Arc<Self>,
    ) -> Result<(PgConnection, Option<Backend>), sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let backend = self.greet(&mut connection).await?;
        Ok((connection, backend))
    }

    /// Sets up a new session. A node that was down till now learns its role from it.
    pub(crate) async fn greet(
        self: &Arc<Self>,
        connection: &mut PgConnection,
    ) -> Result<Option<Backend>, sqlx::Error> {
        let is_unknown = self.role() == Role::Unknown;
        // Behind a pooler there is nothing to set up.
        if !self.setup.owns_sessions() && !is_unknown {
            return Ok(None);
        }
        let hello = self.setup.hello(connection, self).await?;
        if is_unknown {
            hello.look_at_version(self);
            self.set_role(hello.role);
            if self.watch().is_none() {
                self.set_trouble(None);
            }
            tracing::info!(node = %self.name, role = ?hello.role, "the node is reachable");
        }
        let Some((backend, started)) = hello.process else { return Ok(None) };
        if let Some(monitor) = self.watch() {
            monitor.met(self, started).await;
        }
        Ok(Some(backend))
    }

    /// It is probed by that monitor, while that runs.
    pub(crate) fn watched_by(&self, monitor: Weak<Monitor>) {
        let _ = self.watch.set(monitor);
    }

    fn watch(&self) -> Option<Arc<Monitor>> {
        self.watch.get()?.upgrade().filter(|monitor| monitor.is_running())
    }

    /// Whether a monitor says so. Without one, only connecting tells.
    pub(crate) fn is_known_down(&self) -> bool {
        self.watch().is_some() && self.trouble().is_some()
    }

    /// Something speaks against the node: a lost connection, a refused write.
    pub(crate) fn suspect(&self) {
        if self.watch().is_some() {
            self.line.suspect();
        }
    }

    /// A connection for the engine's own questions, which has deadlines of its own. Its session can be
    /// told apart in `pg_stat_activity`, by `purpose`.
    pub(crate) async fn connect_beside(&self, purpose: &str) -> Result<PgConnection, sqlx::Error> {
        let name = self
            .options
            .get_application_name()
            .map_or_else(|| purpose.to_owned(), |name| format!("{name} ({purpose})"));
        let mut connection = self.options.clone().application_name(&name).connect().await?;
        self.set_up(&mut connection).await?;
        Ok(connection)
    }

    /// Sets up a session outside any pool, where sessions are the engine's own.
    async fn set_up(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.setup.owns_sessions() {
            self.setup.hello(connection, self).await?;
        }
        Ok(())
    }

    /// Runs a task that `close` waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Ends what runs on the node, and tells what waits on it.
    pub(crate) fn end(&self, why: EndReason) {
        if let Ok(Some(pool)) = self.pool() {
            pool.end(why);
        }
    }

    /// Gives up every connection made so far.
    pub(crate) fn renew(&self) {
        if let Ok(Some(pool)) = self.pool() {
            pool.renew();
        }
    }

    /// A connection outside any pool, with its session set up and the app's hooks run.
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            self.set_up(&mut connection).await?;
            self.hooks.get().first_lent(&mut connection).await?;
            Ok(connection)
        };
        self.within(self.acquire_timeout, connecting).await
    }

    /// A bare connection, and what the server says of itself, within the node's `connect_timeout` and
    /// `left`, whichever is less.
    pub(crate) async fn say_hello(
        &self,
        left: Duration,
    ) -> Result<(PgConnection, Hello), sqlx::Error> {
        let greeting = async {
            let mut connection = self.options.connect().await?;
            let hello = self.setup.hello(&mut connection, self).await?;
            Ok((connection, hello))
        };
        self.within(self.connect_timeout.min(left), greeting).await
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("{} did not answer within {timeout:?}", self.address());
                Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
            }
        }
    }

    /// Sends the library's own SQL, as one message.
    pub(crate) async fn send(
        &self,
        connection: &mut PgConnection,
        sql: String,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let entry = self.logger.sending(&self.name, &sql, Values::None, None);
        let statement = Statement::simple(AssertSqlSafe(sql).into_sql_str());
        let result = connection.fetch_all(statement).await;
        entry.finish(&result);
        result
    }

    /// Sends the library's own SQL, kept prepared for the next time; not behind PgBouncer, where the
    /// session is other clients' as well.
    pub(crate) async fn send_prepared(
        &self,
        connection: &mut PgConnection,
        sql: &'static str,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        if self.pooler {
            return self.send(connection, sql.to_owned()).await;
        }
        let entry = self.logger.sending(&self.name, sql, Values::None, None);
        let result = sqlx::query(sql).persistent(self.keeps_prepared).fetch_all(connection).await;
        entry.finish(&result);
        result
    }

    /// The server refused a write as read-only: a primary was demoted or its name leads
    /// elsewhere by now, or a replica was promoted while its sessions are still read-only. Asks it
    /// anew, at most once a second.
    pub(crate) fn refused_a_write(node: &Arc<Self>) {
        let Ok(Some(pool)) = node.pool() else { return };
        let mut last = node.last_renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < RENEW_INTERVAL) {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        if node.role() != Role::Replica {
            tracing::warn!(
                node = %node.name,
                "the server refused a write as read-only; its connections are replaced, \
                 since a demoted primary would go on refusing"
            );
            pool.renew();
        }
        if node.watch().is_some() {
            return node.line.suspect();
        }
        let asking = Arc::clone(node);
        pool.spawn(async move {
            if let Ok((_, hello)) = asking.say_hello(Duration::MAX).await {
                asking.set_role(hello.role);
            }
        });
    }

    pub(crate) fn role(&self) -> Role {
        const PRIMARY: u8 = Role::Primary as u8;
        const REPLICA: u8 = Role::Replica as u8;
        match self.role.load(Ordering::Acquire) {
            PRIMARY => Role::Primary,
            REPLICA => Role::Replica,
            _ => Role::Unknown,
        }
    }

    /// Records what the server says it is. Connections made under another role are given up.
    pub(crate) fn set_role(&self, role: Role) {
        let before = self.role.swap(role as u8, Ordering::AcqRel);
        if before != role as u8 && before != Role::Unknown as u8 {
            self.renew();
        }
    }

    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(crate) fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.acquire_timeout
    }

    pub(crate) fn is_replica(&self) -> bool {
        self.role() == Role::Replica
    }

    pub(crate) fn is_pooler(&self) -> bool {
        self.pooler
    }

    pub(crate) fn keeps_prepared(&self) -> bool {
        self.keeps_prepared
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Host (or socket) and port.
    pub(crate) fn host_and_port(&self) -> (String, u16) {
        let host = match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.options.get_host().to_owned(),
        };
        (host, self.options.get_port())
    }

    /// `host:port`, for messages.
    pub(crate) fn address(&self) -> String {
        let (host, port) = self.host_and_port();
        format!("{host}:{port}")
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("address", &self.address())
            .field("role", &self.role())
            .finish_non_exhaustive()
    }
}
