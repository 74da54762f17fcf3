//! What the benchmarks and the allocation test share: snapshots of clusters that do not exist, and the
//! memory of a process.
//!
//! `cargo bench -p flautino-bench` runs all benchmarks: `decisions` times the router's pure functions,
//! `memory` shows that a million statements do not grow the process, and `requests` counts and times
//! whole requests on a real cluster.
//!
//! The binary `bench` measures whole apps under load, flautino's beside those of other pools:
//!
//! ```sh
//! cargo run --release -p flautino-bench -- --quick      # one workload, two minutes
//! cargo run --release -p flautino-bench -- --only tx    # one workload, half an hour
//! cargo run --release -p flautino-bench -- --help       # all workloads, 50 minutes, and what they are
//! ```
//!
//! Its subcommand `growth` shows how costs grow: those of a read by the number of nodes, of tasks at once and of
//! texts, and the memory of requests that wait, of idle connections and of nodes.
//!
//! ```sh
//! cargo run --release -p flautino-bench -- growth       # about a quarter of an hour
//! ```
//!
//! Each app is a process of its own with the same axum routes, and so are the clients. An app uses what it
//! stands on as that one's documentation shows: `three` asks sqlx's pool three times, which is itself the
//! executor, and takes one connection out of deadpool's.
//!
//! | figure | what it is |
//! |---|---|
//! | `rps` | requests a second |
//! | `p50_us`, `p99_us`, `p999_us` | percentiles of the latency at the clients, in µs |
//! | `cpu_us_per_request` | CPU time of the app's process, in user space and in the kernel, in µs |
//! | `rss_kb` | the app's resident memory at the end of a round |
//! | `round_trips_per_request` | how often the app asked a server over its pool and waited for it, pings included |
//! | `statements_per_request` | how many statements it sent over its pool, `BEGIN` and `COMMIT` included |
//! | `monitor_statements_per_request` | how many flautino's monitor sent: questions for positions, and its few probes a second |
//! | `by_replicas_…` | which share of the reads replicas served |
//!
//! Figures of time are medians of rounds in which the variants take turns; ratios are to sqlx's `PgPool` as it
//! comes, round by round. Round trips and statements are counted by a proxy that reads the protocol, in a round
//! of their own that is not timed, once the pool has opened its connections and prepared its statements.

use std::error::Error;
use std::time::Instant;

use flautino::router::{Floor, Lsn, Position, Request, Snapshot, Target};
use flautino::{Access, Role};

/// A snapshot of so many nodes: a primary, and replicas that have replayed everything.
#[must_use]
pub fn snapshot(nodes: usize) -> Snapshot {
    let mut snapshot = Snapshot::unknown(nodes);
    for (number, node) in snapshot.nodes.iter_mut().enumerate() {
        node.role = if number == 0 { Role::Primary } else { Role::Replica };
        node.up = true;
        node.position = Some((position(100), Some(Instant::now())));
        node.fresh_as_of = Some(Instant::now());
    }
    snapshot.primary = Some(0);
    snapshot
}

/// A read of a session that has written.
#[must_use]
pub fn read() -> Request {
    let floor = Floor::At(position(50));
    let mut request = Request::new(Access::Read, Target::Auto, floor, Instant::now());
    // Snapshots grow old while a benchmark runs.
    request.max_lag = std::time::Duration::from_secs(3600);
    request
}

/// The resident memory of a process in kB, by its process id or as `self`. Linux only.
///
/// # Errors
///
/// When `/proc` does not tell.
pub fn resident_kb(process: &str) -> Result<u32, Box<dyn Error + Send + Sync>> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
}

fn position(lsn: u64) -> Position {
    Position::new(1, 1, Lsn(lsn))
}
