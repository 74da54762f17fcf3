//! Clusters that Patroni runs, where it is installed: who leads, and that nothing is left of them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flautino_cluster::patroni::{Builder, Listed, Patroni};
use flautino_cluster::{Cluster, ClusterError};
use tempfile::TempDir;

use crate::eventually;
use crate::leftovers::servers_in;

/// `None`, and a line that says so, where Patroni or etcd is not installed, which fails under `CI=true`.
async fn start(builder: Builder) -> Option<Patroni> {
    match builder.start().await {
        Err(error @ ClusterError::NoPatroni { .. }) => {
            assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "{error}");
            println!("skipped: {error}");
            None
        }
        started => Some(started.unwrap()),
    }
}

/// A folder that the user can pass through that the servers run as.
fn parent() -> TempDir {
    let parent = tempfile::Builder::new().prefix("patroni-").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(parent.path(), open).unwrap();
    parent
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

fn home(patroni: &Patroni) -> PathBuf {
    patroni.ctl_config().parent().unwrap().to_owned()
}

fn says(listed: &[Listed]) -> Vec<(&str, &str)> {
    listed.iter().map(|member| (&*member.name, &*member.role)).collect()
}

#[tokio::test]
async fn members_join_lead_in_turn_and_leave_nothing() {
    let Some(mut patroni) = start(Patroni::builder().members(2)).await else { return };
    let dir = home(&patroni);
    assert_eq!(patroni.leader().await.unwrap().name(), "p1");
    let listed = patroni.list().await.unwrap();
    assert_eq!(says(&listed), [("p1", "leader"), ("p2", "replica")]);
    let refused = patroni.switchover(Some("p7")).await.unwrap_err();
    assert!(matches!(refused, ClusterError::Rest { .. }), "{refused}");
    assert_eq!(patroni.add_member().await.unwrap().name(), "p3");
    assert_eq!(patroni.switchover(Some("p3")).await.unwrap().name(), "p3");
    patroni.until_streaming().await.unwrap();
    // In order, and at once: what stands still or was killed leaves nothing either.
    patroni.members()[0].stop().await;
    assert!(!patroni.members()[0].is_running());
    patroni.members()[1].kill().await;
    assert!(!servers_in(&dir).is_empty());
    drop(patroni);
    assert_eq!(servers_in(&dir), [""; 0]);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_start_dropped_half_way_leaves_nothing() {
    let parent = parent();
    // While etcd starts, in initdb, at the first start of a server, and while others copy it.
    for millis in [100, 1500, 3000, 5000, 7000] {
        let start = start(Patroni::builder().temp_dir(parent.path()));
        if let Ok(None) = tokio::time::timeout(Duration::from_millis(millis), start).await {
            return;
        }
        eventually("the folder is gone", async || is_empty(parent.path())).await;
        assert_eq!(servers_in(parent.path()), [""; 0], "after {millis} ms");
    }
}

#[tokio::test]
async fn one_whose_owner_was_killed_is_swept_at_the_next_start() {
    let parent = parent();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "patroni::owner", "--ignored", "--nocapture"])
        .env("FLAUTINO_TEST_OWNER", parent.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find(|line| line.contains("cluster in ") || line.contains("skipped: "));
    let said = said.unwrap();
    let Some((_, dir)) = said.split_once("cluster in ") else {
        println!("{said}");
        owner.wait().unwrap();
        return;
    };
    owner.kill().unwrap();
    owner.wait().unwrap();
    // etcd, Patroni and PostgreSQL go on without it.
    assert!(servers_in(Path::new(dir)).len() >= 3, "{:?}", servers_in(Path::new(dir)));
    let next = Cluster::builder().temp_dir(parent.path()).start().await.unwrap();
    assert_eq!(servers_in(Path::new(dir)), [""; 0]);
    drop(next);
    assert!(is_empty(parent.path()));
}

/// The owner that is killed: started by the test above in a process of its own.
#[tokio::test]
#[ignore = "a part of another test"]
async fn owner() {
    let Some(parent) = std::env::var_os("FLAUTINO_TEST_OWNER") else { return };
    let builder = Patroni::builder().members(1).temp_dir(parent);
    let Some(patroni) = start(builder).await else { return };
    println!("cluster in {}", home(&patroni).display());
    std::future::pending::<()>().await;
}
