//! One PostgreSQL server: how to connect to it, its role, and how its sessions are set up.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool};

use super::backend::Backend;
use super::sender::Sender;
use super::setup::{ServerInfo, SessionSetup};
use super::tls_files::TlsFiles;
use crate::config::NodeConfig;
use crate::error::{TlsFailure, timed_out};
use crate::logging::Logger;
use crate::metrics::NodeMetrics;
use crate::router::Role;

/// One PostgreSQL server under a node's name.
pub(crate) struct Server {
    pub(crate) setup: SessionSetup,
    pub(crate) sender: Sender,
    options: PgConnectOptions,
    tls_files: TlsFiles,
    /// The limit of [`connect_and_identify`](Self::connect_and_identify).
    pub(super) connect_timeout: Duration,
    pub(crate) metrics: NodeMetrics,
    /// A [`Role`], as the server said it last.
    role: AtomicU8,
    /// Why the server cannot be used. `None` while it can.
    trouble: Mutex<Option<String>>,
    /// The monitor, once it has been started.
    watcher: OnceLock<Weak<dyn Watcher>>,
}

/// What probes a server while the engine has more than one node: the monitor, behind a trait because it
/// is in a layer above.
pub(crate) trait Watcher: Send + Sync {
    fn is_running(&self) -> bool;

    /// A new connection was made. `started` is when the server that answered was started, in
    /// microseconds since 1970; another time than before means another server.
    fn connected<'a>(&'a self, server: &'a Arc<Server>, started: i64) -> BoxFuture<'a, ()>;
}

impl Server {
    pub(crate) fn new(
        name: Arc<str>,
        config: &NodeConfig,
        options: PgConnectOptions,
        engine: &str,
        logger: Arc<Logger>,
    ) -> Self {
        let from_url = &config.with_url();
        let (host, port) = host_and_port(&options);
        let metrics = NodeMetrics::new(engine, &name, (&host, port), options.get_database());
        Self {
            setup: SessionSetup::new(config),
            sender: Sender {
                name,
                logger,
                is_pooler: config.pgbouncer,
                keeps_prepared: from_url.keeps_prepared(),
            },
            options,
            tls_files: TlsFiles::new(from_url.certificates()),
            metrics,
            connect_timeout: from_url.connect_timeout.unwrap_or(Duration::from_secs(5)),
            role: AtomicU8::new(Role::Unknown as u8),
            trouble: Mutex::default(),
            watcher: OnceLock::new(),
        }
    }

    /// A server whose connections come from an external pool, which sets up their sessions.
    pub(crate) fn behind_pool(
        name: Arc<str>,
        pool: &PgPool,
        engine: &str,
        logger: Arc<Logger>,
        stands_in: bool,
    ) -> Self {
        let options = pool.connect_options().as_ref().clone();
        let server = Self::new(name, &NodeConfig::default(), options, engine, logger);
        let role = if stands_in { Role::Replica } else { Role::Unknown };
        let role = AtomicU8::new(role as u8);
        Self { setup: SessionSetup::none(stands_in), role, ..server }
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

    /// Records the role. Returns whether another one was known before.
    pub(super) fn set_role(&self, role: Role) -> bool {
        if self.setup.stands_in() {
            return false;
        }
        let before = self.role.swap(role as u8, Ordering::AcqRel);
        before != role as u8 && before != Role::Unknown as u8
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    /// From now on this watcher probes the server.
    pub(crate) fn watched_by(&self, watcher: Weak<dyn Watcher>) {
        let _ = self.watcher.set(watcher);
    }

    /// The watcher, while it runs.
    fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        self.watcher.get()?.upgrade().filter(|watcher| watcher.is_running())
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watcher().is_some()
    }

    /// Whether probes have found the server to be down. `false` where nothing probes it, since then only
    /// an attempt to connect can tell.
    pub(super) fn is_known_down(&self) -> bool {
        self.is_watched() && self.trouble().is_some()
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Makes a connection whose session is not set up.
    async fn connect_bare(&self) -> Result<PgConnection, sqlx::Error> {
        self.connect_with(&self.options).await
    }

    pub(super) async fn connect_with(
        &self,
        options: &PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        options.connect().await.map_err(|source| match self.tls_files.blame(&source) {
            Some((what, fix)) => {
                let (node, address) = (self.name().to_string(), self.address());
                TlsFailure { node, address, what, fix, source }.into()
            }
            None => source,
        })
    }

    /// Makes a connection for the pool, with its session set up. Returns it with its backend.
    pub(super) async fn open_session(
        self: &Arc<Self>,
    ) -> Result<(PgConnection, Option<Backend>), sqlx::Error> {
        let mut connection = self.connect_bare().await?;
        let backend = self.set_up_and_learn_role(&mut connection).await?;
        Ok((connection, backend))
    }

    /// Sets up a new session, and takes the server's role from it if that is not known. Returns the
    /// session's backend.
    pub(super) async fn set_up_and_learn_role(
        self: &Arc<Self>,
        connection: &mut PgConnection,
    ) -> Result<Option<Backend>, sqlx::Error> {
        let is_unknown = self.role() == Role::Unknown;
        // Then there is nothing to set up and nothing to ask.
        if !self.setup.owns_sessions() && !is_unknown {
            return Ok(None);
        }
        let info = self.setup.set_up(connection, &self.sender).await?;
        if is_unknown {
            self.learn(&info);
        }
        let Some((backend, started)) = info.backend else { return Ok(None) };
        if let Some(watcher) = self.watcher() {
            watcher.connected(self, started).await;
        }
        Ok(Some(backend))
    }

    /// Takes over the role that a new session tells, unless another session was faster.
    fn learn(&self, info: &ServerInfo) {
        info.warn_if_too_old(self.name());
        let (unknown, role) = (Role::Unknown as u8, info.role as u8);
        let _ = self.role.compare_exchange(unknown, role, Ordering::AcqRel, Ordering::Acquire);
        if !self.is_watched() {
            self.set_trouble(None);
        }
        tracing::info!(node = %self.name(), role = ?info.role, "the node is reachable");
    }

    /// Makes a connection outside any pool for the engine's own statements, without a time limit.
    /// `purpose` becomes part of its `application_name`.
    pub(crate) async fn connect_beside(&self, purpose: &str) -> Result<PgConnection, sqlx::Error> {
        let name = match self.options.get_application_name() {
            Some(name) => format!("{name} ({purpose})"),
            None => purpose.to_owned(),
        };
        let options = self.options.clone().application_name(&name);
        let mut connection = self.connect_with(&options).await?;
        self.set_up(&mut connection).await?;
        Ok(connection)
    }

    /// Makes a connection outside any pool for the app, with its session set up.
    pub(super) async fn connect_unpooled(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect_bare().await?;
        self.set_up(&mut connection).await?;
        Ok(connection)
    }

    async fn set_up(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.setup.owns_sessions() {
            self.setup.set_up(connection, &self.sender).await?;
        }
        Ok(())
    }

    /// Connects, sets up the session and asks the server what it is, within the node's
    /// `connect_timeout` or `remaining`, whichever is less.
    pub(crate) async fn connect_and_identify(
        &self,
        remaining: Duration,
    ) -> Result<(PgConnection, ServerInfo), sqlx::Error> {
        let identifying = async {
            let mut connection = self.connect_bare().await?;
            let info = self.setup.set_up(&mut connection, &self.sender).await?;
            Ok((connection, info))
        };
        self.within(self.connect_timeout.min(remaining), identifying).await
    }

    /// Runs the work. When it takes longer than `timeout`, fails with an error that names the server.
    pub(super) async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let late =
            |_| Err(timed_out(format!("{} did not answer within {timeout:?}", self.address())));
        tokio::time::timeout(timeout, work).await.unwrap_or_else(late)
    }

    /// A `PgPool` for one connection, for a caller who needs one before `open`.
    pub(crate) fn single_sqlx_pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(1).connect_lazy_with(self.options.clone())
    }

    /// Host (or socket) and port.
    pub(crate) fn host_and_port(&self) -> (String, u16) {
        host_and_port(&self.options)
    }

    /// The database, or `None` where it is left to the server, which takes the role's name.
    pub(crate) fn database(&self) -> Option<&str> {
        self.options.get_database()
    }

    /// `host:port`, for messages.
    pub(crate) fn address(&self) -> String {
        match self.host_and_port() {
            (address, port) if address.contains(':') && !address.starts_with('/') => {
                format!("[{address}]:{port}")
            }
            (host, port) => format!("{host}:{port}"),
        }
    }
}

fn host_and_port(options: &PgConnectOptions) -> (String, u16) {
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => options.get_host().to_owned(),
    };
    (host, options.get_port())
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
