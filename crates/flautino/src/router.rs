//! The replica router: which node a statement goes to, and why.
//!
//! Everything here is pure: no I/O, no clock, no runtime. The monitor passes in the servers'
//! answers to its probes and publishes the resulting [`Snapshot`]; [`route`] decides by a snapshot.
//!
//! - here: [`route`], the decision
//! - `request`, `reason`: its input and its outcome
//! - `consistency`, `position`: what a read must see, and whether a node has it
//! - `balance`: which of several replicas that all fit
//! - `snapshot`: all nodes at one moment
//! - `sample`, `topology`, `lag`, `replay_time`, `health`: what comes of the probes: a snapshot, and
//!   when to ask a replica again
//!
//! ```
//! use std::time::Instant;
//!
//! use flautino::Access;
//! use flautino::router::{Floor, Load, Request, Snapshot, Target, route};
//!
//! let snapshot = Snapshot::unknown(3);
//! let request = Request::new(Access::Read, Target::Auto, Floor::None, Instant::now());
//! // Nothing is known of any node, so a read goes where writes go.
//! assert_eq!(route(&request, &snapshot, |_| Load::default(), 7).node, snapshot.writer);
//! ```

mod balance;
mod consistency;
mod health;
mod lag;
mod position;
mod reason;
mod replay_time;
mod request;
mod sample;
mod snapshot;
mod topology;

pub use self::balance::{Load, choose};
pub use self::consistency::{Consistency, Floor};
pub(crate) use self::health::Transition;
pub use self::position::{Lsn, ParseLsnError, Position, XidHorizon};
pub use self::reason::Reason;
pub use self::request::{Access, Decision, ExcludedNodes, Request, Target};
pub(crate) use self::sample::{Progress, Sample, ServerId};
pub use self::snapshot::{Exclusion, NodeView, Role, Snapshot};
pub(crate) use self::topology::{Change, Topology};

/// Chooses the node for a statement. `load` returns what a node carries; `random` decides between
/// equally good nodes. No I/O, no clock, no allocation.
pub fn route(
    request: &Request,
    snapshot: &Snapshot,
    load: impl Fn(usize) -> Load,
    random: u64,
) -> Decision {
    let writer = |reason| Decision::writer(snapshot, reason);
    match (request.target, request.access, request.floor) {
        (Target::Node(node), _, _) => return Decision::other(node, Reason::NamedNode),
        (Target::Primary, _, _) => return writer(Reason::PrimaryChosen),
        (Target::Auto, Access::Write, _) => return writer(Reason::Write),
        (Target::Auto, Access::Read, Floor::Primary(reason)) if !reason.is_fallback() => {
            return writer(reason);
        }
        _ => {}
    }
    let replica =
        |fits: &dyn Fn(&NodeView) -> bool| choose_replica(request, snapshot, &load, random, fits);
    let in_rotation = |node: &NodeView| node.in_rotation(request.now, request.max_lag);
    if let Some(node) = replica(&in_rotation) {
        let reason = match (request.target, request.floor) {
            (Target::Replica, _) => Reason::ReplicaChosen,
            (_, Floor::None) => Reason::NoFloor,
            (_, Floor::SeenOn(..)) => Reason::SameNode,
            _ => Reason::FloorMet,
        };
        return Decision::other(node, reason);
    }
    let primary_is_gone = snapshot.primary.is_none_or(|primary| request.excluded.contains(primary));
    if primary_is_gone && let Some(node) = replica(&NodeView::is_usable_replica) {
        return Decision::other(node, Reason::Stale);
    }
    writer(why_not_a_replica(request, snapshot, in_rotation))
}

/// The replica that serves a read when the primary's connections are reserved for writes. It may
/// lag, but has what the session must see.
pub fn route_stale(
    request: &Request,
    snapshot: &Snapshot,
    load: impl Fn(usize) -> Load,
    random: u64,
) -> Option<Decision> {
    let node = choose_replica(request, snapshot, load, random, &NodeView::is_usable_replica)?;
    Some(Decision::other(node, Reason::Stale))
}

/// Chooses among the nodes for which `fits` holds, which have what the session must see, and on
/// which the statement has not failed yet.
fn choose_replica(
    request: &Request,
    snapshot: &Snapshot,
    load: impl Fn(usize) -> Load,
    random: u64,
    fits: &dyn Fn(&NodeView) -> bool,
) -> Option<usize> {
    let admitted = |number: usize| {
        let node = &snapshot.nodes[number];
        fits(node) && request.floor.admits(number, node) && !request.excluded.contains(number)
    };
    let load = |number: usize| {
        let readmitted = snapshot.nodes[number].readmitted;
        load(number).readmitted(readmitted, request.now, request.slow_start)
    };
    choose(snapshot.nodes.len(), admitted, load, random)
}

/// Why the primary serves a read for which no replica in the rotation was admitted.
fn why_not_a_replica(
    request: &Request,
    snapshot: &Snapshot,
    in_rotation: impl Fn(&NodeView) -> bool,
) -> Reason {
    let any = |fits: &dyn Fn(&NodeView) -> bool| {
        snapshot
            .nodes
            .iter()
            .enumerate()
            .any(|(number, node)| fits(node) && !request.excluded.contains(number))
    };
    match request.floor {
        Floor::Primary(reason) => reason,
        _ if any(&in_rotation) => Reason::FloorAhead,
        _ if any(&NodeView::is_usable_replica) => Reason::Lagging,
        _ => Reason::NoReplica,
    }
}
