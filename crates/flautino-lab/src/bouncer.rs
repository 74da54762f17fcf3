//! The real PgBouncer.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use flautino_cluster::Node;

use crate::program::program;
use crate::wait::wait_until;

/// A PgBouncer in transaction mode in front of a node, with five servers at the most. Ends with
/// the test, whichever way that ends.
#[derive(Debug)]
pub struct Bouncer {
    process: Child,
    /// Where it listens.
    pub port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The user that PgBouncer changes to, since it refuses to run as root.
fn other_user() -> &'static str {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if is_root { "user = nobody\n" } else { "" }
}

/// A free port that the system gives to no connection that goes out, and that is given once.
fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = first + TRIED.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn start(binary: &Path, node: &Node, more: &str) -> Bouncer {
    let port = free_port();
    let dir = tempfile::Builder::new().prefix("flautino-bouncer").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let settings = dir.path().join("pgbouncer.ini");
    let text = format!(
        "[databases]\npostgres = host=127.0.0.1 port={} user=postgres\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = any\npool_mode = transaction\ndefault_pool_size = 5\nmax_client_conn = 200\n{}{more}",
        node.port(),
        other_user(),
    );
    std::fs::write(&settings, text).unwrap();
    let process = Command::new(binary)
        .arg("-q")
        .arg(&settings)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let bouncer = Bouncer { process, port, _dir: dir };
    wait_until("pgbouncer accepts", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    bouncer
}

impl Bouncer {
    /// Starts one; `None` where it is not installed, which fails under `CI=true`.
    pub async fn start(node: &Node) -> Option<Self> {
        Self::start_with(node, "").await
    }

    /// As [`start`](Self::start), with more lines of its configuration, which win.
    pub async fn start_with(node: &Node, settings: &str) -> Option<Self> {
        let binary = program("pgbouncer")?;
        Some(start(&binary, node, settings).await)
    }
}
