//! What flautino adds to a warm read in instructions, and how often it takes a lock, reads the clock or
//! spawns a task: counted by callgrind, so that noise cannot touch it.
//!
//! The build is not optimised, so that no function is inlined and each call is seen. `just instructions`
//! counts the instructions of an optimised build.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use flautino_cluster::Cluster;
use flautino_lab::program;
use tempfile::TempDir;
use tokio::runtime::Builder;

const TABLE: &str =
    "CREATE TABLE counters (id int PRIMARY KEY, n int); INSERT INTO counters VALUES (1, 0)";

const READS: u64 = 100;

/// What one of these reads cost.
struct Costs {
    instructions: u64,
    /// How often a function called another one, by their names, rounded down: what happens now and then
    /// does not count.
    calls: BTreeMap<(String, String), u64>,
}

/// `arguments` say through what the reads go.
fn costs_of_one(valgrind: &Path, folder: &TempDir, arguments: &[&str]) -> Costs {
    let file = folder.path().join("callgrind.out");
    let output = Command::new(valgrind)
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
        .arg("--toggle-collect=warm_reads::counted")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env!("CARGO_BIN_EXE_warm_reads"))
        .args([arguments[0], &READS.to_string()])
        .args(&arguments[1..])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut costs = Costs { instructions: 0, calls: BTreeMap::new() };
    let (mut caller, mut called) = ("", "");
    let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(['=', ':']) else { continue };
        let number = || value.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        match key {
            "fn" => caller = value,
            "cfn" => called = value,
            "calls" => {
                *costs.calls.entry((caller.to_owned(), called.to_owned())).or_default() += number();
            }
            "totals" => costs.instructions = number() / READS,
            _ => {}
        }
    }
    costs.calls.values_mut().for_each(|count| *count /= READS);
    costs.calls.retain(|_, count| *count > 0);
    costs
}

impl Costs {
    /// The calls that flautino's own functions make of those that `is_meant` picks by their names.
    fn own_calls(&self, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let is_own = |name: &str| name.contains("flautino");
        let meant =
            self.calls.iter().filter(|((by, of), _)| is_own(by) && !is_own(of) && is_meant(of));
        meant
            .flat_map(|((by, of), count)| (0..*count).map(move |_| format!("{by} calls {of}")))
            .collect()
    }
}

fn ends_with(name: &str, ends: &[&str]) -> bool {
    ends.iter().any(|end| name.ends_with(end))
}

#[test]
fn a_warm_read_adds_few_instructions_locks_and_clock_reads_and_no_task() {
    if !cfg!(debug_assertions) {
        println!("skipped: in an optimised build, not every call is seen");
        return;
    }
    let Some(valgrind) = program("valgrind") else { return };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let cluster = runtime.block_on(Cluster::builder().replicas(1).start()).unwrap();
    runtime.block_on(cluster.primary().execute(TABLE)).unwrap();
    runtime.block_on(cluster.replica(0).catch_up_with(cluster.primary())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (primary, replica) = (cluster.primary().url(), cluster.replica(0).url());
    let bare = costs_of_one(&valgrind, &folder, &["route", "--primary", &primary]);
    let one = costs_of_one(&valgrind, &folder, &["layer", "--primary", &primary]);
    let two =
        costs_of_one(&valgrind, &folder, &["layer", "--primary", &primary, "--replica", &replica]);
    // Over two nodes the session is locked three times: for what it must see, for what it has seen, and for
    // the token.
    // In a debug build, whose runs differ by some thousands.
    let limits = [("one node", one, 46_000, 5, 5), ("two nodes", two, 66_000, 7, 6)];
    for (nodes, costs, most, most_locks, most_clock) in limits {
        let added = costs.instructions.saturating_sub(bare.instructions);
        println!("{nodes}: {added} instructions more than {}", bare.instructions);
        // None would say that something else was counted than a read.
        assert!((1_000..most).contains(&added), "{nodes}: {added}");
        // The pool's, at checkout and when the connection is given back; the session's; the request's; and
        // a shared one of the cache of statements.
        let locks = costs.own_calls(|name| {
            ends_with(name, &["Mutex<R,T>::lock", "RwLock<R,T>::read", "RwLock<R,T>::write"])
                || name.contains("quick_cache") && name.ends_with("::get")
        });
        assert!((1..=most_locks).contains(&locks.len()), "{nodes}: {locks:#?}");
        // For the time that the caller waits, for a statement's own (`log_slow`), for what the pool and the
        // monitor know since when; over two nodes also for what the router may take as fresh.
        let clock = costs.own_calls(|name| {
            ends_with(name, &["Instant>::now", "Instant>::elapsed", "SystemTime>::now"])
        });
        assert!((1..=most_clock).contains(&clock.len()), "{nodes}: {clock:#?}");
        let tasks = costs.calls.keys().filter(|(_, of)| of.contains("spawn")).collect::<Vec<_>>();
        assert!(tasks.is_empty(), "{nodes}: {tasks:#?}");
    }
}
