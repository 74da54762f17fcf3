//! How to reach one PostgreSQL server, what it said it is, and how its sessions are set up.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool};

use super::backend::Backend;
use super::sender::Sender;
use super::setup::{Hello, SessionSetup};
use crate::config::NodeConfig;
use crate::error::timed_out;
use crate::logging::Logger;
use crate::router::Role;

/// One PostgreSQL server under a node's name.
pub(crate) struct Server {
    pub(crate) setup: SessionSetup,
    pub(crate) sender: Sender,
    options: PgConnectOptions,
    /// For one attempt of `open`.
    connect_timeout: Duration,
    role: AtomicU8,
    /// Why it is not usable, if it is not.
    trouble: Mutex<Option<String>>,
    watcher: OnceLock<Weak<dyn Watcher>>,
}

/// Who probes a server, while the engine has more than one node.
pub(crate) trait Watcher: Send + Sync {
    fn is_running(&self) -> bool;

    /// A new connection was answered by a server that started at this moment, in microseconds since
    /// 1970.
    fn connected<'a>(&'a self, server: &'a Arc<Server>, started: i64) -> BoxFuture<'a, ()>;
}

impl Server {
    pub(crate) fn new(
        name: Arc<str>,
        config: &NodeConfig,
        options: PgConnectOptions,
        logger: Arc<Logger>,
    ) -> Self {
        Self {
            setup: SessionSetup::new(config),
            sender: Sender {
                name,
                logger,
                is_pooler: config.pgbouncer,
                keeps_prepared: config.keeps_prepared(),
            },
            options,
            connect_timeout: config.connect_timeout.unwrap_or(Duration::from_secs(5)),
            role: AtomicU8::new(Role::Unknown as u8),
            trouble: Mutex::default(),
            watcher: OnceLock::new(),
        }
    }

    /// A server whose connections come from a pool that was made elsewhere, with a set-up of its own.
    pub(crate) fn behind_pool(name: Arc<str>, pool: &PgPool, logger: Arc<Logger>) -> Self {
        let options = pool.connect_options().as_ref().clone();
        let server = Self::new(name, &NodeConfig::default(), options, logger);
        Self { setup: SessionSetup::none(), ..server }
    }

    /// The name of its node.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.sender.name
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

    pub(crate) fn is_replica(&self) -> bool {
        self.role() == Role::Replica
    }

    /// Records what the server says it is. Returns whether it said that it is something else before.
    pub(super) fn set_role(&self, role: Role) -> bool {
        let before = self.role.swap(role as u8, Ordering::AcqRel);
        before != role as u8 && before != Role::Unknown as u8
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    /// From now on this one probes it.
    pub(crate) fn watched_by(&self, watcher: Weak<dyn Watcher>) {
        let _ = self.watcher.set(watcher);
    }

    fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        self.watcher.get()?.upgrade().filter(|watcher| watcher.is_running())
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watcher().is_some()
    }

    /// Whether its probes say that it is down. Where nothing probes it, only connecting tells.
    pub(super) fn is_known_down(&self) -> bool {
        self.is_watched() && self.trouble().is_some()
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// A connection without any set-up.
    async fn connect_bare(&self) -> Result<PgConnection, sqlx::Error> {
        self.options.connect().await
    }

    /// A new connection for the pool, with its session set up, and the process that serves it.
    pub(super) async fn open_session(
        self: &Arc<Self>,
    ) -> Result<(PgConnection, Option<Backend>), sqlx::Error> {
        let mut connection = self.connect_bare().await?;
        let backend = self.greet(&mut connection).await?;
        Ok((connection, backend))
    }

    /// Sets up a new session. If the server's role is not known, it is learnt from this session.
    pub(super) async fn greet(
        self: &Arc<Self>,
        connection: &mut PgConnection,
    ) -> Result<Option<Backend>, sqlx::Error> {
        let is_unknown = self.role() == Role::Unknown;
        // Behind a pooler there is nothing to set up.
        if !self.setup.owns_sessions() && !is_unknown {
            return Ok(None);
        }
        let hello = self.setup.hello(connection, &self.sender).await?;
        if is_unknown {
            self.learn(&hello);
        }
        let Some((backend, started)) = hello.process else { return Ok(None) };
        if let Some(watcher) = self.watcher() {
            watcher.connected(self, started).await;
        }
        Ok(Some(backend))
    }

    /// Takes the role over from a session's hello, unless somebody learnt it meanwhile.
    fn learn(&self, hello: &Hello) {
        hello.warn_if_too_old(self.name());
        let (unknown, role) = (Role::Unknown as u8, hello.role as u8);
        let _ = self.role.compare_exchange(unknown, role, Ordering::AcqRel, Ordering::Acquire);
        if !self.is_watched() {
            self.set_trouble(None);
        }
        tracing::info!(node = %self.name(), role = ?hello.role, "the node is reachable");
    }

    /// A connection for the engine's own questions. It has no deadline. `purpose` tells its session
    /// apart in `pg_stat_activity`.
    pub(crate) async fn connect_beside(&self, purpose: &str) -> Result<PgConnection, sqlx::Error> {
        let name = match self.options.get_application_name() {
            Some(name) => format!("{name} ({purpose})"),
            None => purpose.to_owned(),
        };
        let mut connection = self.options.clone().application_name(&name).connect().await?;
        self.set_up(&mut connection).await?;
        Ok(connection)
    }

    /// A connection outside any pool, with its session set up.
    pub(super) async fn connect_alone(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect_bare().await?;
        self.set_up(&mut connection).await?;
        Ok(connection)
    }

    async fn set_up(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.setup.owns_sessions() {
            self.setup.hello(connection, &self.sender).await?;
        }
        Ok(())
    }

    /// A new connection, and what the server says of itself, within the node's `connect_timeout` and
    /// `left`, whichever is less.
    pub(crate) async fn say_hello(
        &self,
        left: Duration,
    ) -> Result<(PgConnection, Hello), sqlx::Error> {
        let greeting = async {
            let mut connection = self.connect_bare().await?;
            let hello = self.setup.hello(&mut connection, &self.sender).await?;
            Ok((connection, hello))
        };
        self.within(self.connect_timeout.min(left), greeting).await
    }

    /// The work's result, or an error that names the server when it takes longer.
    pub(super) async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let late =
            |_| Err(timed_out(format!("{} did not answer within {timeout:?}", self.address())));
        tokio::time::timeout(timeout, work).await.unwrap_or_else(late)
    }

    /// A pool of sqlx's for one connection.
    pub(super) fn single_sqlx_pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(1).connect_lazy_with(self.options.clone())
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

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("name", self.name())
            .field("address", &self.address())
            .field("role", &self.role())
            .finish_non_exhaustive()
    }
}
