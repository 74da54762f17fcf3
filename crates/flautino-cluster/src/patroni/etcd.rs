//! The etcd in which Patroni keeps who leads.

use std::path::Path;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use crate::error::{ClusterError, Step, tail};
use crate::home::Home;
use crate::ports::HeldPort;
use crate::program::Runner;
use crate::wait::POLL_INTERVAL;

/// One etcd, for clients of this machine.
#[derive(Debug)]
pub(super) struct Etcd {
    daemon: Daemon,
    /// For clients, and for other servers of which there are none. Taken for as long as it runs.
    ports: [HeldPort; 2],
}

impl Etcd {
    /// Starts it, and waits until it takes connections.
    pub(super) async fn start(
        program: &Path,
        runner: &Runner,
        home: &Home,
        timeout: Duration,
    ) -> Result<Self, ClusterError> {
        let dir = home.path().join("etcd");
        runner.create_private(&dir)?;
        let pick = || HeldPort::pick().step(|| "find a free port".to_owned());
        let ports = [pick()?, pick()?];
        for port in &ports {
            port.share().step(|| "share a port".to_owned())?;
        }
        let [clients, peers] =
            ports.each_ref().map(|held| format!("http://127.0.0.1:{}", held.port()));
        let mut command = runner.command_of(program, &dir);
        command.arg("--data-dir").arg(dir.join("data")).args([
            "--name=flautino",
            &format!("--listen-client-urls={clients}"),
            &format!("--advertise-client-urls={clients}"),
            &format!("--listen-peer-urls={peers}"),
            &format!("--initial-advertise-peer-urls={peers}"),
            &format!("--initial-cluster=flautino={peers}"),
        ]);
        let log = home.path().join("etcd.log");
        let mut etcd = Self { daemon: Daemon::start(command, &dir, &log)?, ports };
        let deadline = Instant::now() + timeout;
        while tokio::net::TcpStream::connect(etcd.address()).await.is_err() {
            let node = "etcd".to_owned();
            if let Some(status) = etcd.daemon.ended() {
                let status = status.to_string();
                return Err(ClusterError::Exited { node, status, log: tail(&log) });
            }
            if Instant::now() >= deadline {
                let step = "accept connections".to_owned();
                return Err(ClusterError::Timeout { node, step, waited: timeout, log: tail(&log) });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(etcd)
    }

    /// Host and port for its clients.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0].port())
    }
}
