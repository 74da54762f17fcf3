//! What these tests share: clusters with replicas of both kinds, and who answered.

use std::cell::RefCell;
use std::collections::BTreeSet;

use flautino::router::Reason;
use flautino::{Engine, EngineConfig, Handle};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{config, open, reader, run, wait_until_or_tell};

pub(crate) const MAIN: &str = "main";
/// Two standbys, and a third that streams from the first.
pub(crate) const REPLICAS: [&str; 3] = ["read_replica_1", "read_replica_2", "read_replica_3"];

/// A primary, two standbys, and one that cascades.
pub(crate) async fn cascade() -> Cluster {
    Cluster::builder().replicas(2).cascading(1).start().await.unwrap()
}

/// An engine of this configuration that reads from these nodes already.
pub(crate) async fn open_reading(config: EngineConfig, readers: &[&str]) -> Engine {
    let engine = open(config).await;
    until_reads_from(&engine, readers).await;
    engine
}

/// As [`open_reading`], with the defaults.
pub(crate) async fn open_default(cluster: &Cluster, name: &str) -> Engine {
    let readers = &REPLICAS[..cluster.nodes().count() - 1];
    open_reading(config(cluster, name), readers).await
}

/// Waits until each of these nodes, and no other, serves reads of new sessions.
pub(crate) async fn until_reads_from(engine: &Engine, readers: &[&str]) {
    let wanted: BTreeSet<String> = readers.iter().map(|&name| name.to_owned()).collect();
    let what = format!("reads are served by {readers:?}");
    let latest = RefCell::new(BTreeSet::new());
    let all_serve = async || {
        latest.take();
        for _ in 0..60 {
            let node = reader(engine).await;
            let failed = node.is_err();
            latest.borrow_mut().insert(node.unwrap_or_else(|error| error.to_string()));
            if failed || (*latest.borrow() == wanted && wanted.len() > 1) {
                break;
            }
        }
        *latest.borrow() == wanted
    };
    let tell = || format!("served by {:?}; {:#?}", latest.borrow(), engine.status());
    wait_until_or_tell(&what, all_serve, tell).await;
}

/// Runs a statement in a recorded session, and answers where and why it ended.
pub(crate) async fn why(db: &Handle, sql: &str) -> (String, Reason) {
    run(db, sql).await.unwrap();
    let timing = db.timings().pop().unwrap();
    (timing.node.to_string(), timing.reason)
}

pub(crate) fn decisions(engine: &Engine, reason: Reason) -> u64 {
    engine.status().decisions.get(reason.as_str()).copied().unwrap_or(0)
}

pub(crate) fn is_replica(node: &str) -> bool {
    REPLICAS.contains(&node)
}

/// The name in the configuration of each of the cluster's nodes.
pub(crate) fn named(cluster: &Cluster) -> impl Iterator<Item = (&'static str, &Node)> {
    [MAIN].into_iter().chain(REPLICAS).zip(cluster.nodes())
}

/// A line of this process's status, in kB.
pub(crate) fn status_kb(name: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Measures in a child process of its own, since other tests run side by side in this one. `test` is the
/// whole name of the test that calls this, and `measure` prints what it has "grown by".
pub(crate) fn in_a_process_of_its_own(test: &str, measure: impl FnOnce()) {
    const MEASURE: &str = "FLAUTINO_MEASURE";
    if std::env::var_os(MEASURE).is_some() {
        return measure();
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args([test, "--exact", "--nocapture"]).env(MEASURE, "1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("grown by"), "{told}{failed}");
}
