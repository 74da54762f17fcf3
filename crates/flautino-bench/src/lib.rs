//! What the benchmarks and the allocation test share: pictures of clusters, without a cluster.
//!
//! `cargo bench -p flautino-bench` runs all: `decisions` times the router's pure functions, `memory`
//! shows that a million statements do not grow the process, `requests` counts and times whole
//! requests on a real cluster.
//!
//! The binary `bench` measures whole apps under load, flautino's beside those of other pools:
//! `cargo run --release -p flautino-bench -- --help`.

use std::time::Instant;

use flautino::router::{Floor, Lsn, Position, Request, Snapshot, Target};
use flautino::{Access, Role};

/// A primary and so many more nodes, all replicas that have replayed everything.
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
    // The pictures do not age.
    request.max_lag = std::time::Duration::from_secs(3600);
    request
}

fn position(lsn: u64) -> Position {
    Position::new(1, 1, Lsn(lsn))
}
