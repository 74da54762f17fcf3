//! PostgreSQL's programs from the net, for a machine that has none: the feature `embedded`.
//!
//! The archives are those of <https://github.com/theseus-rs/postgresql-binaries>: one for each version and
//! platform, `postgresql-VERSION-TARGET.tar.gz`, with its SHA-256 beside it under `….sha256`. The checksum comes
//! from the same place, so that it tells of a damaged archive and not of a forged one; that is for TLS.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::{OnceCell, oneshot};
use ureq::Agent;

use crate::binaries::Binaries;
use crate::error::ClusterError;

const VERSION: &str = "17.5.0";
const RELEASES: &str = "https://github.com/theseus-rs/postgresql-binaries/releases/download";
/// Names a server that has the archives in the same folders as `RELEASES`.
const MIRROR: &str = "FLAUTINO_PG_MIRROR";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the server may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// No archive is as large as that.
const MAX_SIZE: u64 = 1 << 30;
const CHUNK: usize = 64 * 1024;
/// What folders are called in which an archive is unpacked.
const UNPACKING: &str = ".unpacking-";

/// The folder of the programs. What comes of fetching them is kept for as long as the process runs, so that
/// only the first of many clusters waits for a server that does not answer.
pub(crate) async fn fetched() -> Result<PathBuf, ClusterError> {
    static FETCHED: OnceCell<Result<PathBuf, ClusterError>> = OnceCell::const_new();
    let fetching = async || Source::of_environment()?.fetch().await;
    match FETCHED.get_or_init(fetching).await {
        Ok(bin) => Ok(bin.clone()),
        Err(ClusterError::Fetch { from, why }) => Err(failed(from, why)),
        Err(other) => Err(failed(RELEASES, other)),
    }
}

/// Where the archive comes from, and where its programs are kept.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    releases: String,
    cache: PathBuf,
}

impl Source {
    /// GitHub, or the mirror that the environment names; and this user's cache.
    pub(crate) fn of_environment() -> Result<Self, ClusterError> {
        let mirror = std::env::var(MIRROR).ok().filter(|mirror| !mirror.is_empty());
        let releases = mirror.unwrap_or_else(|| RELEASES.to_owned());
        // Root's own cache is closed to the user whom the servers run as.
        let cache = match nix::unistd::geteuid().is_root() {
            true => Some(PathBuf::from("/var/cache")),
            false => dirs::cache_dir(),
        };
        let cache = cache.map(|cache| cache.join("flautino"));
        let no_cache = || failed("the cache", &"this user has no home folder");
        Ok(Self { releases, cache: cache.ok_or_else(no_cache)? })
    }

    /// The folder of the programs, fetched if they are not there yet. Dropped half-way, it stops.
    pub(crate) async fn fetch(self) -> Result<PathBuf, ClusterError> {
        let (sender, receiver) = oneshot::channel();
        // Not a thread of the runtime's, whose end would wait for it.
        std::thread::spawn(move || {
            let fetched = self.fetch_now(|| sender.is_closed());
            // Nobody is left who would want to know.
            let _ = sender.send(fetched);
        });
        receiver.await.unwrap_or_else(|_| Err(failed("the archive", &"its thread has panicked")))
    }

    fn fetch_now(&self, is_abandoned: impl Fn() -> bool) -> Result<PathBuf, ClusterError> {
        let name = format!("postgresql-{VERSION}-{}", target()?);
        let kept = self.cache.join(&name);
        let bin = kept.join("bin");
        if Binaries::are_in(&bin) {
            return Ok(bin);
        }
        let _lock = self.lock()?;
        // Another process may have been faster.
        if Binaries::are_in(&bin) {
            return Ok(bin);
        }
        self.remove_leftovers(&name);
        let url = format!("{}/{VERSION}/{name}.tar.gz", self.releases.trim_end_matches('/'));
        let archive = download(&url, &self.cache, is_abandoned)?;
        let unpacked = self.unpack(&archive, &url)?;
        let programs = unpacked.path().join(&name);
        if !Binaries::are_in(&programs.join("bin")) {
            return Err(failed(&url, &format!("the archive has no server programs in {name}/bin")));
        }
        open_to_all(&programs)
            .and_then(|()| std::fs::rename(&programs, &kept))
            .map_err(|error| self.unusable(&error))?;
        Ok(bin)
    }

    /// Makes the cache, which anybody may read, and waits until no other process fetches into it.
    fn lock(&self) -> Result<Flock<File>, ClusterError> {
        let unusable = |error: io::Error| self.unusable(&error);
        std::fs::create_dir_all(&self.cache).map_err(unusable)?;
        std::fs::set_permissions(&self.cache, PermissionsExt::from_mode(0o755))
            .map_err(unusable)?;
        let file = File::create(self.cache.join(".lock")).map_err(unusable)?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, _)| {
            say("another process is fetching PostgreSQL; waiting for it");
            Flock::lock(file, FlockArg::LockExclusive)
        });
        locked.map_err(|(_, error)| unusable(error.into()))
    }

    /// Removes what processes that were killed have left, and a folder from which programs are gone. The
    /// cache is locked.
    fn remove_leftovers(&self, name: &str) {
        let entries = std::fs::read_dir(&self.cache).into_iter().flatten().flatten();
        for entry in entries {
            let left = entry.file_name();
            if left.to_string_lossy().starts_with(UNPACKING) || left == name {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn unusable(&self, error: &io::Error) -> ClusterError {
        failed(&self.releases, &format!("the cache {}: {error}", self.cache.display()))
    }

    fn unpack(&self, archive: &[u8], url: &str) -> Result<TempDir, ClusterError> {
        let folder = tempfile::Builder::new().prefix(UNPACKING).tempdir_in(&self.cache);
        let folder = folder.map_err(|error| self.unusable(&error))?;
        let unpacked = tar::Archive::new(GzDecoder::new(Cursor::new(archive))).unpack(&folder);
        unpacked.map_err(|error| failed(url, &format!("unpacking it: {error}")))?;
        Ok(folder)
    }
}

/// The archive, if it is what its checksum says.
fn download(
    url: &str,
    cache: &Path,
    is_abandoned: impl Fn() -> bool,
) -> Result<Vec<u8>, ClusterError> {
    let agent: Agent = Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .timeout_global(Some(DOWNLOAD_TIMEOUT))
        .build()
        .into();
    let get = |url: &str| agent.get(url).call().map_err(|error| failed(url, &error));
    let beside = format!("{url}.sha256");
    let told =
        get(&beside)?.body_mut().read_to_string().map_err(|error| failed(&beside, &error))?;
    let wanted = told.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    if wanted.len() != 64 || wanted.contains(|c: char| !c.is_ascii_hexdigit()) {
        return Err(failed(&beside, &"it is no SHA-256"));
    }
    let body = get(url)?.into_body();
    let size = body.content_length();
    say(&format!(
        "PostgreSQL 13 or newer is not on this machine: fetching {VERSION}{} from {url} into {}, once",
        size.map_or(String::new(), |size| format!(" ({})", HumanBytes(size))),
        cache.display()
    ));
    let archive =
        read(body.into_reader(), size, is_abandoned).map_err(|error| failed(url, &error))?;
    let got = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if got != wanted {
        return Err(failed(url, &format!("its SHA-256 is {got}, and not {wanted}")));
    }
    Ok(archive)
}

/// Reads to the end, with a bar where a terminal shows it.
fn read(
    body: impl Read,
    size: Option<u64>,
    is_abandoned: impl Fn() -> bool,
) -> io::Result<Vec<u8>> {
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
    let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut body = bar.wrap_read(body.take(MAX_SIZE));
    let mut archive = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match body.read(&mut chunk)? {
            0 => break,
            _ if is_abandoned() => return Err(io::ErrorKind::Interrupted.into()),
            read => archive.extend_from_slice(&chunk[..read]),
        }
    }
    bar.finish_and_clear();
    Ok(archive)
}

/// Lets every user go into all folders below: the servers may run as another one, whatever this one's umask.
fn open_to_all(folder: &Path) -> io::Result<()> {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_to_all(&entry.path())?;
        }
    }
    Ok(())
}

/// Tells the user, also in a test, whose output is kept back.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// This platform, as Rust calls it.
fn target() -> Result<String, ClusterError> {
    let system = match (std::env::consts::OS, cfg!(target_env = "musl")) {
        ("linux", false) => "unknown-linux-gnu",
        ("linux", true) => "unknown-linux-musl",
        ("macos", _) => "apple-darwin",
        (other, _) => return Err(failed(RELEASES, &format!("it has no archive for {other}"))),
    };
    Ok(format!("{}-{system}", std::env::consts::ARCH))
}

fn failed(from: &str, why: &dyn Display) -> ClusterError {
    ClusterError::Fetch { from: from.to_owned(), why: why.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
