//! Fetching from a server of the tests' own, which serves an archive of this machine's programs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::builder::{Builder, find_programs};

const PROGRAMS: [&str; 5] = ["initdb", "postgres", "pg_ctl", "pg_basebackup", "pg_rewind"];

/// A server of a few files, until the process ends.
struct Mirror {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Mirror {
    fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines =
                    BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let first = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                count.fetch_add(1, Ordering::Relaxed);
                let path = first.split(' ').nth(1).unwrap_or_default();
                let head = |status, length| {
                    format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    )
                };
                let _ = match files.get(path) {
                    Some(file) => stream
                        .write_all(head("200 OK", file.len()).as_bytes())
                        .and_then(|()| stream.write_all(file)),
                    None => stream.write_all(head("404 Not Found", 0).as_bytes()),
                };
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn name() -> String {
    format!("postgresql-{VERSION}-{}", target().unwrap())
}

fn to_bin() -> String {
    format!("{}/bin", name())
}

fn path() -> String {
    format!("/{VERSION}/{}.tar.gz", name())
}

/// An archive as the project's own are laid out, with these folders in it.
fn archive(folders: &[(&str, &Path)]) -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    for (folder, from) in folders {
        for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name();
            // Where PostgreSQL lies in `/usr/bin`, the folder holds more than that.
            let is_wanted = PROGRAMS.contains(&&*name.to_string_lossy()) || folder.ends_with("lib");
            if is_wanted && entry.path().is_file() {
                tar.append_path_with_name(entry.path(), Path::new(folder).join(name)).unwrap();
            }
        }
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// One whose programs are none, in this folder.
fn small_archive(folder: &str) -> Vec<u8> {
    let from = tempfile::tempdir().unwrap();
    for name in ["initdb", "postgres", "pg_ctl"] {
        std::fs::write(from.path().join(name), "no program").unwrap();
    }
    archive(&[(folder, from.path())])
}

fn checksum(archive: &[u8]) -> String {
    let hex: String = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}  {}.tar.gz\n", name())
}

fn with_checksum(archive: Vec<u8>, checksum: String) -> BTreeMap<String, Vec<u8>> {
    [(path(), archive), (format!("{}.sha256", path()), checksum.into_bytes())].into()
}

/// A cache that every user may read, as the servers run as another one where this is root.
fn cache() -> TempDir {
    let cache = tempfile::tempdir().unwrap();
    std::fs::set_permissions(cache.path(), PermissionsExt::from_mode(0o755)).unwrap();
    cache
}

fn source(mirror: &Mirror, cache: &TempDir) -> Source {
    Source { releases: mirror.url.clone(), cache: cache.path().join("flautino") }
}

/// What a cache holds, apart from its lock.
fn kept(cache: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(cache.path().join("flautino")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

#[tokio::test]
async fn a_cluster_runs_on_what_was_fetched_once() {
    let bin = find_programs(None).await.unwrap().program("");
    // The server looks for its own libraries beside its programs where it was built so, and for the rest where
    // it was built for.
    let lib = bin.parent().unwrap().join("lib");
    let (to_bin, to_lib) = (to_bin(), format!("{}/lib", name()));
    let mut folders = vec![(&*to_bin, &*bin)];
    folders.extend(lib.join("dict_snowball.so").is_file().then_some((&*to_lib, &*lib)));
    let archive = archive(&folders);
    let sum = checksum(&archive);
    let (mirror, cache) = (Mirror::of(with_checksum(archive, sum)), cache());
    // Both at once, as tests of one process start their clusters.
    let fetched = futures_util::future::join(
        source(&mirror, &cache).fetch(),
        source(&mirror, &cache).fetch(),
    );
    let (bin, same) = fetched.await;
    let bin = bin.unwrap();
    assert_eq!(same.unwrap(), bin);
    assert_eq!(source(&mirror, &cache).fetch().await.unwrap(), bin);
    assert_eq!(mirror.requests(), 2, "the checksum and the archive");
    assert_eq!(kept(&cache), [name()]);
    let cluster = Builder::default().bin_dir(&bin).replicas(1).start().await.unwrap();
    cluster.primary().execute("CREATE TABLE fetched (a int)").await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn what_fails_is_told_with_what_to_install_and_leaves_nothing() {
    let good = small_archive(&to_bin());
    let sum = checksum(&good);
    let mut half = good.clone();
    half.truncate(good.len() / 2);
    let no_bin = small_archive("elsewhere");
    let sum_of_no_bin = checksum(&no_bin);
    let nothing = BTreeMap::new();
    let only_archive = [(path(), good.clone())].into();
    let mut closed = Mirror::of(BTreeMap::new());
    closed.url = "http://127.0.0.1:1".to_owned();
    for (mirror, why) in [
        (closed, "refused"),
        (Mirror::of(nothing), "404"),
        (Mirror::of(only_archive), "404"),
        (Mirror::of(with_checksum(good.clone(), "<html>".to_owned())), "no SHA-256"),
        (Mirror::of(with_checksum(half.clone(), sum)), "and not"),
        (Mirror::of(with_checksum(half.clone(), checksum(&half))), "unpacking it"),
        (Mirror::of(with_checksum(no_bin, sum_of_no_bin)), "no server programs"),
    ] {
        let cache = cache();
        let told = source(&mirror, &cache).fetch().await.unwrap_err().to_string();
        for part in [why, &mirror.url, "apt-get", "dnf", "brew", "wsl", "FLAUTINO_PG_BIN", MIRROR] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
        assert_eq!(kept(&cache), [""; 0], "{told}");
    }
}

#[tokio::test]
async fn what_killed_processes_have_left_is_removed() {
    let archive = small_archive(&to_bin());
    let sum = checksum(&archive);
    let (mirror, cache) = (Mirror::of(with_checksum(archive, sum)), cache());
    let left = cache.path().join("flautino").join(format!("{UNPACKING}1"));
    std::fs::create_dir_all(left.join("half")).unwrap();
    source(&mirror, &cache).fetch().await.unwrap();
    assert_eq!(kept(&cache), [name()]);
}

#[tokio::test]
async fn a_folder_from_which_programs_are_gone_is_fetched_anew() {
    let archive = small_archive(&to_bin());
    let sum = checksum(&archive);
    let (mirror, cache) = (Mirror::of(with_checksum(archive, sum)), cache());
    let bin = source(&mirror, &cache).fetch().await.unwrap();
    std::fs::remove_file(bin.join("postgres")).unwrap();
    assert_eq!(source(&mirror, &cache).fetch().await.unwrap(), bin);
    assert!(bin.join("postgres").is_file());
    // Whatever the umask is.
    let mode = bin.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}
