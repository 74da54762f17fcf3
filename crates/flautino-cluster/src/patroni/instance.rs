//! The processes of one member, and the ports that are theirs.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::daemon::Daemon;
use super::shared::Shared;
use crate::error::{ClusterError, Step};
use crate::ports::HeldPort;
use crate::postmaster::PidFile;
use crate::process;
use crate::sweep::end_orphan;

/// A Patroni and its PostgreSQL, which may be up or down. Whoever has it must end both.
pub(super) struct Instance {
    name: String,
    dir: PathBuf,
    port: HeldPort,
    rest_port: HeldPort,
    daemon: Mutex<Option<Daemon>>,
    /// Last, so that the folder is removed after the processes have ended.
    shared: Arc<Shared>,
}

impl Instance {
    pub(super) fn new(number: usize, shared: &Arc<Shared>) -> Result<Self, ClusterError> {
        let name = format!("p{number}");
        let dir = shared.home.path().join(&name);
        shared.runner.create_private(&dir)?;
        let port = || {
            let port = HeldPort::pick().step(|| "find a free port".to_owned())?;
            port.share().step(|| "share a port".to_owned())?;
            Ok::<_, ClusterError>(port)
        };
        let (port, rest_port) = (port()?, port()?);
        let (daemon, shared) = (Mutex::default(), Arc::clone(shared));
        Ok(Self { name, dir, port, rest_port, daemon, shared })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// PostgreSQL's.
    pub(super) fn port(&self) -> u16 {
        self.port.port()
    }

    pub(super) fn rest_port(&self) -> u16 {
        self.rest_port.port()
    }

    /// The bound of each single step.
    pub(super) fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.shared.home.path().join(format!("{}.log", self.name))
    }

    /// Whether Patroni runs.
    pub(super) fn is_running(&self) -> bool {
        self.daemon.lock().as_mut().is_some_and(|daemon| daemon.ended().is_none())
    }

    /// How Patroni ended, if it has.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.daemon.lock().as_mut().and_then(Daemon::ended)
    }

    /// Starts Patroni, unless it runs.
    pub(super) fn start(&self) -> Result<(), ClusterError> {
        let mut daemon = self.daemon.lock();
        if daemon.as_mut().is_none_or(|daemon| daemon.ended().is_some()) {
            *daemon = Some(Daemon::start(self.command(), &self.dir, &self.log_path())?);
        }
        Ok(())
    }

    /// Asks Patroni to end in order.
    pub(super) fn terminate(&self) {
        if let Some(daemon) = &mut *self.daemon.lock() {
            daemon.terminate();
        }
    }

    /// Whether PostgreSQL takes connections.
    pub(super) fn is_up(&self) -> bool {
        let file = PidFile::read(&self.data_dir());
        file.is_some_and(|file| file.status == "ready" && self.is_its_postmaster(file.pid))
    }

    /// The number may be another process's since.
    fn is_its_postmaster(&self, pid: i32) -> bool {
        let data = self.data_dir();
        let line = process::command_line(pid);
        line.is_some_and(|line| line.contains(&*data.to_string_lossy()))
    }

    /// Ends PostgreSQL at once, without a runtime. Patroni must have ended.
    pub(super) fn end_server(&self) {
        end_orphan(&self.data_dir());
        // One that Patroni had started a moment ago may not have written its `postmaster.pid`.
        let data = self.data_dir();
        for pid in process::naming(&format!("-D {} ", data.display())) {
            process::kill_tree(pid);
        }
    }

    pub(super) fn end_patroni(&self) {
        if let Some(daemon) = &mut *self.daemon.lock() {
            daemon.kill();
        }
    }

    pub(super) fn kill(&self) {
        // First, since it would start PostgreSQL again.
        self.end_patroni();
        let file = PidFile::read(&self.data_dir());
        if let Some(pid) = file.map(|file| file.pid).filter(|pid| self.is_its_postmaster(*pid)) {
            process::kill_tree(pid);
        }
        self.end_server();
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn command(&self) -> Command {
        let Self { name, dir, port, rest_port, shared, .. } = self;
        let mut command = shared.runner.command_of(&shared.patroni, dir);
        let address = |port: &HeldPort| format!("127.0.0.1:{}", port.port());
        command
            .arg(&shared.config)
            .env("PATRONI_NAME", name)
            .env("PATRONI_ETCD3_HOST", &shared.etcd)
            .env("PATRONI_RESTAPI_LISTEN", address(rest_port))
            .env("PATRONI_RESTAPI_CONNECT_ADDRESS", address(rest_port))
            .env("PATRONI_POSTGRESQL_LISTEN", address(port))
            .env("PATRONI_POSTGRESQL_CONNECT_ADDRESS", address(port))
            .env("PATRONI_POSTGRESQL_DATA_DIR", self.data_dir())
            .env("PATRONI_POSTGRESQL_BIN_DIR", shared.runner.binaries.dir())
            .env("PATRONI_POSTGRESQL_PGPASS", dir.join("pgpass"));
        command
    }
}
