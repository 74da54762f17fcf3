//! The app processes: this same program, started again as a child.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::app::{LISTENING, STOPPED};

/// What goes wrong in the run itself.
pub(crate) type Broken = Box<dyn Error + Send + Sync>;

/// How long an app may take to listen, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(40);

/// The processes, and where they listen.
#[derive(Debug)]
pub(crate) struct Apps {
    program: PathBuf,
    folder: PathBuf,
    children: Vec<Mutex<Option<Process>>>,
    /// `None` while there is none that takes requests.
    addresses: RwLock<Vec<Option<SocketAddr>>>,
}

/// A running app. It is killed when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

/// How an app ended after SIGTERM.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) status: std::process::ExitStatus,
    /// Requests that were cut off; `None` where it did not say.
    pub(crate) requests_cut: Option<u64>,
}

impl Apps {
    /// None runs yet. Their configurations are in the folder, as `app-N.toml`.
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
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of those that take requests.
    pub(crate) fn any(&self, rng: &mut fastrand::Rng) -> Option<(usize, SocketAddr)> {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        let alive: Vec<_> = addresses.iter().enumerate().collect();
        let alive: Vec<_> = alive.into_iter().filter_map(|(n, at)| Some((n, (*at)?))).collect();
        rng.choice(alive)
    }

    fn set(&self, app: usize, address: Option<SocketAddr>) {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner)[app] = address;
    }

    /// Starts an app and waits until it listens.
    pub(crate) async fn start(&self, app: usize) -> Result<(), Broken> {
        let mut place = self.children[app].lock().await;
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
        let output = child.stdout.take().ok_or("the app has no stdout")?;
        let mut said = BufReader::new(output).lines();
        let line = tokio::time::timeout(PATIENCE, said.next_line()).await;
        let line = line.map_err(|_| format!("app {app} does not listen"))??;
        let line = line.ok_or_else(|| format!("app {app} ended before it listened"))?;
        let address = line.strip_prefix(LISTENING).ok_or("the app did not say where it listens")?;
        let address = address.trim().parse()?;
        *place = Some(Process { child, said });
        self.set(app, Some(address));
        Ok(())
    }

    /// SIGKILL.
    pub(crate) async fn kill(&self, app: usize) -> Result<(), Broken> {
        let process = self.children[app].lock().await.take();
        if let Some(mut process) = process {
            process.child.kill().await?;
        }
        self.set(app, None);
        Ok(())
    }

    /// SIGTERM, and the wait for its end. It gets no new requests from then on, as behind a load
    /// balancer.
    pub(crate) async fn stop(&self, app: usize) -> Result<Stopped, Broken> {
        self.set(app, None);
        let mut process = self.children[app].lock().await.take().ok_or("the app does not run")?;
        let pid = process.child.id().and_then(|pid| i32::try_from(pid).ok());
        kill(Pid::from_raw(pid.ok_or("the app has ended")?), Signal::SIGTERM)?;
        let rest = async {
            let mut requests_cut = None;
            while let Some(line) = process.said.next_line().await? {
                if let Some(number) = line.strip_prefix(STOPPED) {
                    requests_cut = number.trim().parse().ok();
                }
            }
            let status = process.child.wait().await?;
            Ok::<_, Broken>(Stopped { status, requests_cut })
        };
        tokio::time::timeout(PATIENCE, rest)
            .await
            .map_err(|_| format!("app {app} did not end within {PATIENCE:?} after SIGTERM"))?
    }

    /// The app's process id.
    pub(crate) async fn pid(&self, app: usize) -> Option<u32> {
        self.children[app].lock().await.as_ref()?.child.id()
    }
}
