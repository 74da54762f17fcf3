use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flautino_cluster::{Cluster, Node};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::{eventually, fill};

/// Processes of any state whose postmaster's command line names the folder, by id.
pub(crate) fn servers_in(dir: &Path) -> Vec<String> {
    let output = Command::new("ps").args(["-ww", "-axo", "pid=,stat=,command="]).output().unwrap();
    let dir = dir.to_string_lossy().into_owned();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}

/// The process ids below a process, itself included.
fn tree(root: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-axo", "pid=,ppid="]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs: Vec<(u32, u32)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(str::parse);
            Some((fields.next()?.ok()?, fields.next()?.ok()?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(pairs.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

fn is_there(pid: u32) -> bool {
    kill(Pid::from_raw(pid.try_into().unwrap()), None).is_ok()
}

/// The System V shared memory of a server, as its `postmaster.pid` tells.
pub(crate) fn segment(node: &Node) -> String {
    let text = std::fs::read_to_string(node.data_dir().join("postmaster.pid")).unwrap();
    let line = text.lines().nth(6).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

pub(crate) fn is_segment(id: &str) -> bool {
    let output = Command::new("ipcs").arg("-m").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().any(|line| line.split_whitespace().nth(1) == Some(id))
}

fn home(cluster: &Cluster) -> PathBuf {
    let data = cluster.primary().data_dir();
    data.ancestors().nth(2).unwrap().to_owned()
}

#[tokio::test]
async fn drop_leaves_no_process_and_no_folder() {
    let cluster = Cluster::builder().replicas(2).start().await.unwrap();
    let dir = home(&cluster);
    cluster.replica(0).hang().await.unwrap();
    cluster.replica(1).kill().await.unwrap();
    let segments: Vec<_> = cluster.nodes().map(segment).collect();
    assert!(segments.iter().all(|id| is_segment(id)));
    let _open = cluster.primary().connect().await.unwrap();
    let running = cluster.nodes().filter_map(Node::pid);
    let pids: Vec<u32> = running.flat_map(tree).collect();
    assert!(pids.len() > 8, "{pids:?}");
    assert!(dir.exists());
    drop(cluster);
    assert!(!dir.exists());
    assert_eq!(servers_in(&dir), [""; 0]);
    for pid in pids {
        assert!(!is_there(pid), "{pid} is left");
    }
    assert!(!segments.iter().any(|id| is_segment(id)));
}

#[test]
fn a_panicking_test_leaves_nothing() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::builder().replicas(1).start().await.unwrap();
            sender.send(home(&cluster)).unwrap();
            panic!("as a failing assertion does");
        });
    });
    let dir = receiver.recv().unwrap();
    test.join().unwrap_err();
    assert!(!dir.exists());
    assert_eq!(servers_in(&dir), [""; 0]);
}

#[tokio::test]
async fn a_start_dropped_half_way_leaves_nothing() {
    let parent = tempfile::Builder::new().prefix("half-way-").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(parent.path(), open).unwrap();
    let empty = || std::fs::read_dir(parent.path()).unwrap().next().is_none();
    // At its beginning, in initdb, and while servers start.
    for millis in [1, 60, 300, 600, 800, 1000] {
        let start = Cluster::builder().replicas(1).temp_dir(parent.path()).start();
        let bound = std::time::Duration::from_millis(millis);
        drop(tokio::time::timeout(bound, start).await);
        eventually("the folder is gone", async || empty()).await;
        assert_eq!(servers_in(parent.path()), [""; 0], "after {millis} ms");
    }
}

#[tokio::test]
async fn a_cluster_whose_owner_was_killed_is_swept_at_the_next_start() {
    let parent = tempfile::Builder::new().prefix("sweep-").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(parent.path(), open).unwrap();
    let start = || Cluster::builder().temp_dir(parent.path()).start();

    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leftovers::owner", "--ignored", "--nocapture"])
        .env("FLAUTINO_TEST_OWNER", parent.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let dir = lines.find_map(|line| line.split_once("cluster in ").map(|(_, dir)| dir.to_owned()));
    let dir = PathBuf::from(dir.unwrap());
    assert_eq!(servers_in(&dir).len(), 2);

    // While it lives, its cluster stays.
    let other = start().await.unwrap();
    assert!(dir.exists());
    drop(other);
    assert_eq!(servers_in(&dir).len(), 2);

    owner.kill().unwrap();
    owner.wait().unwrap();
    // Two at once sweep it.
    let (one, two) = tokio::join!(start(), start());
    let (one, two) = (one.unwrap(), two.unwrap());
    eventually("the sweep is done", async || !dir.exists()).await;
    assert_eq!(servers_in(&dir), [""; 0]);
    fill(one.primary()).await;
    fill(two.primary()).await;
    drop((one, two));
    assert!(std::fs::read_dir(parent.path()).unwrap().next().is_none());
}

/// The owner that is killed: started by the test above in a process of its own.
#[tokio::test]
#[ignore = "a part of another test"]
async fn owner() {
    let Some(parent) = std::env::var_os("FLAUTINO_TEST_OWNER") else {
        return;
    };
    let cluster = Cluster::builder().replicas(1).temp_dir(parent).start().await.unwrap();
    cluster.replica(0).hang().await.unwrap();
    println!("cluster in {}", home(&cluster).display());
    std::future::pending::<()>().await;
}
