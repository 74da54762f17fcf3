//! The replica router: which node a statement goes to, and why.
//!
//! Everything here is pure: no I/O, no clock, no runtime. The monitor hands in what servers say of
//! themselves and publishes the [`Snapshot`] that comes of it; [`route`] decides on one.
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
mod request;
mod sample;
mod snapshot;
mod topology;

pub use self::balance::{Load, choose};
pub use self::consistency::{Consistency, Floor};
pub(crate) use self::health::Transition;
pub use self::position::{Lsn, ParseLsnError, Position};
pub use self::reason::Reason;
pub use self::request::{Access, Decision, ExcludedNodes, Request, Target};
pub(crate) use self::sample::{Progress, Sample, ServerId};
pub use self::snapshot::{Exclusion, NodeView, Role, Snapshot};
pub(crate) use self::topology::{Change, Topology};

/// Chooses the node for a statement. `load` tells what a node carries; `random` decides between
/// equals. No I/O, no clock, no allocation.
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
        |wanted: &dyn Fn(&NodeView) -> bool| best(request, snapshot, &load, random, wanted);
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

/// The replica to fall back to when the primary is left to writes: one that may lag, and still
/// has what the session must see.
pub fn route_stale(
    request: &Request,
    snapshot: &Snapshot,
    load: impl Fn(usize) -> Load,
    random: u64,
) -> Option<Decision> {
    let node = best(request, snapshot, load, random, &NodeView::is_usable_replica)?;
    Some(Decision::other(node, Reason::Stale))
}

/// The best of the nodes that are wanted, have what the session must see, and have not failed yet.
fn best(
    request: &Request,
    snapshot: &Snapshot,
    load: impl Fn(usize) -> Load,
    random: u64,
    wanted: &dyn Fn(&NodeView) -> bool,
) -> Option<usize> {
    let admitted = |number: usize| {
        let node = &snapshot.nodes[number];
        wanted(node) && request.floor.admits(number, node) && !request.excluded.contains(number)
    };
    let load = |number: usize| {
        let came_back = snapshot.nodes[number].readmitted;
        load(number).readmitted(came_back, request.now, request.slow_start)
    };
    choose(snapshot.nodes.len(), admitted, load, random)
}

fn why_not_a_replica(
    request: &Request,
    snapshot: &Snapshot,
    in_rotation: impl Fn(&NodeView) -> bool,
) -> Reason {
    let any = |wanted: &dyn Fn(&NodeView) -> bool| {
        snapshot
            .nodes
            .iter()
            .enumerate()
            .any(|(number, node)| wanted(node) && !request.excluded.contains(number))
    };
    match request.floor {
        Floor::Primary(reason) => reason,
        _ if any(&in_rotation) => Reason::FloorAhead,
        _ if any(&NodeView::is_usable_replica) => Reason::Lagging,
        _ => Reason::NoReplica,
    }
}
