//! One server of a cluster: its name, its address, its files, and its start.
//!
//! Statements to it are in `sql`, what can happen to it in `faults` and `replication`.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use sqlx::postgres::PgConnectOptions;

use crate::address;
use crate::context::Context;
use crate::error::{ClusterError, Step, tail};
use crate::ports::HeldPort;
use crate::postmaster::PidFile;
use crate::server::{Server, Status};
use crate::wait::POLL_INTERVAL;

/// A PostgreSQL server of a [`Cluster`](crate::Cluster).
///
/// All methods take `&self`, so a test can hold nodes while it does things to them. Those that
/// change the server wait for each other.
pub struct Node {
    name: String,
    dir: PathBuf,
    /// The port of the node it replicates from.
    upstream: Mutex<Option<u16>>,
    server: Mutex<Server>,
    /// Held while the server is being changed.
    changes: tokio::sync::Mutex<()>,
    /// Declared below the server, so that the folder is removed after the process has ended.
    context: Arc<Context>,
}

impl Node {
    /// `primary`, `replica_1`, `replica_2`… It is the `cluster_name` of the server, and the
    /// `application_name` under which its upstream lists it in `pg_stat_replication`. It stays the
    /// same when roles change.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Always `127.0.0.1`.
    #[must_use]
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The port; it stays the same, and stays taken, while the server is down.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server().port()
    }

    /// Host and port, as a [`Proxy`](crate::Proxy) takes them.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// `postgres://postgres@127.0.0.1:PORT/postgres`: a superuser, without a password.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for("postgres")
    }

    /// As [`url`](Self::url), for another database.
    #[must_use]
    pub fn url_for(&self, database: &str) -> String {
        address::url(self.port(), database)
    }

    /// As [`url`](Self::url), as options for a pool, whatever `PGSSLMODE` says.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        address::connect_options(self.port())
    }

    /// Where the server keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Writes a file into the data directory, which only the server can read, and replaces the one of that
    /// name. Most are read by the server when it starts, and again after `SELECT pg_reload_conf()`:
    /// `server.crt`, `server.key`, `pg_hba.conf`. Not `postgresql.conf`, which is the cluster's own.
    ///
    /// # Errors
    ///
    /// When `name` is no plain file name, or the file cannot be written.
    pub fn write_file(&self, name: &str, text: &str) -> Result<(), ClusterError> {
        if Path::new(name).file_name() != Some(OsStr::new(name)) || name == "postgresql.conf" {
            let why = format!("{name:?} is no file that can be written into a data directory");
            return Err(ClusterError::Invalid(why));
        }
        self.context.runner.replace_private(&self.data_dir().join(name), text)
    }

    /// All that the server has logged so far, over restarts.
    #[must_use]
    pub fn log(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The process id of the postmaster, when there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self.status() {
            Status::Up(pid) | Status::Hung(pid) => u32::try_from(pid).ok(),
            Status::Down(_) => None,
        }
    }

    /// Whether the server's process is there, hung or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether [`hang`](Self::hang) has stopped it.
    #[must_use]
    pub fn is_hung(&self) -> bool {
        matches!(self.status(), Status::Hung(_))
    }
}

impl Node {
    /// A node with an empty data directory, a port that is its own (a free one, if none is given), and
    /// no server yet.
    pub(crate) fn new(
        name: &str,
        port: Option<HeldPort>,
        context: &Arc<Context>,
    ) -> Result<Self, ClusterError> {
        let port = port.map_or_else(free_port, Ok)?;
        let dir = context.home.path().join(name);
        std::fs::create_dir(&dir).step(|| format!("create {}", dir.display()))?;
        // The user that the server runs as must reach the data in it, whatever the umask is.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(&dir, open).step(|| format!("open {}", dir.display()))?;
        let data = dir.join("data");
        context.runner.create_private(&data)?;
        Ok(Self {
            name: name.to_owned(),
            server: Mutex::new(Server::new(&data, port)),
            upstream: Mutex::new(None),
            changes: tokio::sync::Mutex::default(),
            context: Arc::clone(context),
            dir,
        })
    }

    /// Waits until nothing else changes the server, and keeps other changes waiting.
    pub(crate) async fn lock_changes(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    pub(crate) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock()
    }

    pub(crate) fn status(&self) -> Status {
        self.server().status()
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.context.timeout
    }

    pub(crate) fn upstream(&self) -> Option<u16> {
        *self.upstream.lock()
    }

    pub(crate) fn set_upstream(&self, port: u16) {
        let mut upstream = self.upstream.lock();
        *upstream = Some(port);
    }

    pub(crate) fn state_error(&self, step: &'static str, fix: &'static str) -> ClusterError {
        let node = self.name.clone();
        ClusterError::State { node, step, fix }
    }

    pub(crate) fn sql_error(&self, step: &str, source: sqlx::Error) -> ClusterError {
        let (node, step) = (self.name.clone(), step.to_owned());
        ClusterError::Sql { node, step, source }
    }

    pub(crate) fn timed_out(&self, step: &str) -> ClusterError {
        ClusterError::Timeout {
            node: self.name.clone(),
            step: step.to_owned(),
            waited: self.timeout(),
            log: tail(&self.log_path()),
        }
    }

    /// Writes `postgresql.conf` for the node's place in the cluster.
    pub(crate) fn configure(&self) -> Result<(), ClusterError> {
        let text = self.context.settings.render(&self.name, self.port(), self.upstream());
        let path = self.data_dir().join("postgresql.conf");
        self.context.runner.write(&path, &text)
    }

    /// Starts the server and waits until it accepts connections. If another program has taken its port
    /// meanwhile, the server gets another one with `may_move`; else it waits for its own.
    pub(crate) async fn bring_up(&self, may_move: bool) -> Result<(), ClusterError> {
        let deadline = Instant::now() + self.timeout();
        loop {
            let logged = std::fs::metadata(self.log_path()).map_or(0, |meta| meta.len());
            self.configure()?;
            self.launch()?;
            let error = match self.until_ready(deadline).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let new = self.log().split_off(usize::try_from(logged).unwrap_or(0));
            let port_taken = matches!(error, ClusterError::Exited { .. })
                && new.contains("Address already in use");
            if !port_taken || Instant::now() >= deadline {
                return Err(error);
            }
            if may_move {
                self.server().move_to(free_port()?);
            } else {
                tokio::time::sleep(5 * POLL_INTERVAL).await;
            }
        }
    }

    /// Waits until the server that was started accepts connections.
    pub(crate) async fn until_ready(&self, deadline: Instant) -> Result<(), ClusterError> {
        loop {
            let pid = match self.status() {
                Status::Up(pid) | Status::Hung(pid) => pid,
                Status::Down(status) => {
                    return Err(ClusterError::Exited {
                        node: self.name.clone(),
                        status: status.map_or_else(String::new, |status| status.to_string()),
                        log: tail(&self.log_path()),
                    });
                }
            };
            // The file of an earlier server may still be there; it names another process.
            let file = PidFile::read(&self.data_dir());
            if file.is_some_and(|file| file.pid == pid && file.status == "ready") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("accept connections"));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Where the output of a program that works for the node goes.
    pub(crate) fn program_log_path(&self) -> PathBuf {
        self.dir.join("program.log")
    }

    fn launch(&self) -> Result<(), ClusterError> {
        let path = self.log_path();
        let step = || format!("open {}", path.display());
        let log = File::options().create(true).append(true).open(&path).step(step)?;
        let copy = log.try_clone().step(step)?;
        let data = self.data_dir();
        let mut command = self.context.runner.command("postgres", &data);
        command.arg("-D").arg(&data).stdout(log).stderr(copy);
        self.server().launch(&mut command)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("port", &self.port())
            .field("status", &self.status())
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

fn free_port() -> Result<HeldPort, ClusterError> {
    HeldPort::pick().step(|| "find a free port".to_owned())
}
