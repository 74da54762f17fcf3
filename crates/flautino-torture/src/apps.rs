//! The app processes: this same program, started again as a child.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::RwLock;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::app::{LISTENING, STOPPED};
use crate::error::BoxError;

/// How long an app may take to listen, or to end after SIGTERM.
const TIMEOUT: Duration = Duration::from_secs(40);

/// The app processes, and where they listen.
#[derive(Debug)]
pub(crate) struct Apps {
    program: PathBuf,
    folder: PathBuf,
    children: Vec<Mutex<Option<Process>>>,
    /// `None` for an app that takes no requests.
    addresses: RwLock<Vec<Option<SocketAddr>>>,
}

/// A running app. It is killed when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// How an app ended after SIGTERM.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) status: std::process::ExitStatus,
    /// How many requests were cut off; `None` if the app did not say.
    pub(crate) requests_cut: Option<u64>,
}

impl Apps {
    /// Apps that do not run yet. Their configurations are in the folder, as `app-N.toml`.
    pub(crate) fn new(program: PathBuf, folder: &Path, count: usize) -> Self {
        Self {
            program,
            folder: folder.to_owned(),
            children: (0..count).map(|_| Mutex::new(None)).collect(),
            addresses: RwLock::new(vec![None; count]),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.children.len()
    }

    /// Where each listens.
    pub(crate) fn addresses(&self) -> Vec<Option<SocketAddr>> {
        self.addresses.read().clone()
    }

    /// One of the apps that take requests.
    pub(crate) fn any(&self, rng: &mut fastrand::Rng) -> Option<(usize, SocketAddr)> {
        let addresses = self.addresses.read();
        let apps = addresses.iter().enumerate();
        let listening: Vec<_> = apps.filter_map(|(app, at)| Some((app, (*at)?))).collect();
        rng.choice(listening)
    }

    fn set(&self, app: usize, address: Option<SocketAddr>) {
        self.addresses.write()[app] = address;
    }

    /// Starts an app and waits until it listens.
    pub(crate) async fn start(&self, app: usize) -> Result<(), BoxError> {
        let mut slot = self.children[app].lock().await;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("app-{app}.log")))?;
        let mut child = Command::new(&self.program)
            .arg("app")
            .env("FLAUTINO_CONF", self.folder.join(format!("app-{app}.toml")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the app has no stdout")?;
        let mut output = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(TIMEOUT, output.next_line()).await;
        let line = line.map_err(|_| format!("app {app} does not listen"))??;
        let line = line.ok_or_else(|| format!("app {app} ended before it listened"))?;
        let address = line.strip_prefix(LISTENING).ok_or("the app did not say where it listens")?;
        let address = address.trim().parse()?;
        *slot = Some(Process { child, output });
        self.set(app, Some(address));
        Ok(())
    }

    /// Ends an app with SIGKILL.
    pub(crate) async fn kill(&self, app: usize) -> Result<(), BoxError> {
        let process = self.children[app].lock().await.take();
        if let Some(mut process) = process {
            process.child.kill().await?;
        }
        self.set(app, None);
        Ok(())
    }

    /// Tells an app to stop, with SIGTERM, and waits for its end. It gets no new requests from then on,
    /// as behind a load balancer.
    pub(crate) async fn stop(&self, app: usize) -> Result<Stopped, BoxError> {
        self.set(app, None);
        let mut process = self.children[app].lock().await.take().ok_or("the app does not run")?;
        let pid = process.child.id().and_then(|pid| i32::try_from(pid).ok());
        kill(Pid::from_raw(pid.ok_or("the app has ended")?), Signal::SIGTERM)?;
        let rest = async {
            let mut requests_cut = None;
            while let Some(line) = process.output.next_line().await? {
                if let Some(number) = line.strip_prefix(STOPPED) {
                    requests_cut = number.trim().parse().ok();
                }
            }
            let status = process.child.wait().await?;
            Ok::<_, BoxError>(Stopped { status, requests_cut })
        };
        tokio::time::timeout(TIMEOUT, rest)
            .await
            .map_err(|_| format!("app {app} did not end within {TIMEOUT:?} after SIGTERM"))?
    }

    /// The app's process id.
    pub(crate) async fn pid(&self, app: usize) -> Option<u32> {
        self.children[app].lock().await.as_ref()?.child.id()
    }
}
