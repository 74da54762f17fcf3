//! The demo as a child process with a temporary folder of its own, and what is left of it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use flautino_lab::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::processes::processes;

/// What the demo reads of its environment, beside what is called `OTEL_…`.
const READ: [&str; 4] = ["DATABASE_URL", "FLAUTINO_CONF", "PGPORT", "RUST_LOG"];

/// Where a demo works: its `TMPDIR`, and beside it its working directory with what it says.
pub(crate) struct Place {
    pub(crate) tmp: TempDir,
    pub(crate) work: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let tmp = tempfile::Builder::new().prefix("notes-demo-").tempdir().unwrap();
        // As root the servers run as another user, who must get through.
        std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let work = tempfile::tempdir().unwrap();
        Self { tmp, work }
    }

    /// The demo here, on a free port, with nothing of the caller's environment that it reads.
    pub(crate) fn command(&self) -> Command {
        let log = std::fs::File::create(self.work.path().join("stderr")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_notes"));
        let of_telemetry = std::env::vars_os().map(|(name, _)| name);
        let of_telemetry = of_telemetry.filter(|name| name.to_string_lossy().starts_with("OTEL_"));
        for name in of_telemetry.chain(READ.map(Into::into)) {
            command.env_remove(name);
        }
        command
            .env("PORT", "0")
            .env("TMPDIR", self.tmp.path())
            .current_dir(self.work.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        command
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.work.path().join("stderr")).unwrap()
    }

    /// Names of what stands in the temporary folder.
    pub(crate) fn left(&self) -> Vec<String> {
        names_in(self.tmp.path())
    }

    /// Servers whose command line names the temporary folder.
    pub(crate) fn servers(&self) -> Vec<i32> {
        let dir = self.tmp.path().to_string_lossy().into_owned();
        let found = processes().into_iter().filter(|p| p.command.contains(&dir));
        found.map(|process| process.pid).collect()
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.left(), [""; 0], "{}", self.stderr());
        assert_eq!(self.servers(), [0; 0], "{}", self.stderr());
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect()
}

/// A running demo; killed when the test ends before it does.
pub(crate) struct Demo {
    child: Child,
    lines: UnboundedReceiver<String>,
    /// From the start to the first line.
    pub(crate) up_after: Duration,
    /// Such as `http://127.0.0.1:40001`.
    pub(crate) url: String,
    /// One that keeps its cookies, as a browser does, and so sees what it wrote.
    pub(crate) client: reqwest::Client,
}

impl Demo {
    /// Starts it without waiting for anything.
    pub(crate) fn launch(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = unbounded_channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let client = reqwest::Client::builder().cookie_store(true).build().unwrap();
        Self { child, lines, up_after: Duration::ZERO, url: String::new(), client }
    }

    /// Starts it and waits until it says where it listens.
    pub(crate) async fn start(command: &mut Command) -> Self {
        let started = Instant::now();
        let mut demo = Self::launch(command);
        let line = demo.line().await.expect("a first line on stdout");
        demo.up_after = started.elapsed();
        let port = line.strip_prefix("listening on http://127.0.0.1:");
        let port: u16 = port.and_then(|port| port.parse().ok()).expect(&line);
        demo.url = format!("http://127.0.0.1:{port}");
        demo
    }

    /// The next line on stdout; none when it is closed.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(Duration::from_secs(60), self.lines.recv());
        line.await.expect("a line on stdout in time")
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the demo has ended", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// All processes below it.
    pub(crate) fn family(&self) -> Vec<i32> {
        let all = processes();
        let mut found = vec![self.pid()];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(all.iter().filter(|p| p.parent == parent).map(|p| p.pid));
            next += 1;
        }
        found.split_off(1)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // In order first, so that a failing test leaves no server behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            for _ in 0..500 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
