//! The replica router: which node a statement goes to, and why.
//!
//! Everything here but `monitor` decides without I/O, on a [`Snapshot`]: the monitor publishes
//! one whenever it has learnt something, and [`route`] reads it.
//!
//! ```
//! use flautino::Access;
//! use flautino::router::{Floor, Load, Request, Snapshot, Target, route};
//!
//! let snapshot = Snapshot::unknown(3);
//! let request = Request::new(Access::Read, Target::Auto, Floor::None);
//! // Nothing is known of any node, so a read goes where writes go.
//! assert_eq!(route(&request, &snapshot, |_| Load::default(), 7).node, snapshot.writer);
//! ```

mod balance;
mod classify;
mod consistency;
mod health;
mod moments;
mod monitor;
mod position;
mod snapshot;
mod topology;

use std::time::{Duration, Instant};

use serde::Serialize;

pub use self::balance::{Load, choose};
pub(crate) use self::classify::{Catalogue, Classifier, HARMLESS, Plan, SERVER_VIEWS};
pub use self::consistency::{Consistency, Floor};
pub(crate) use self::monitor::{Line, Monitor, Nodes, Picture, Standing, Writing};
pub use self::position::{Lsn, ParseLsnError, Position};
pub use self::snapshot::{Exclusion, NodeView, Snapshot};

/// What a statement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// It changes nothing, neither data nor session: a replica will do.
    Read,
    /// It changes something, or may: only the primary will do.
    Write,
}

/// What a handle was told about nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The router chooses.
    Auto,
    /// The primary, whatever the statement.
    Primary,
    /// A replica, whatever the statement; the primary where none is admitted.
    Replica,
    /// The node of this number.
    Node(usize),
}

/// Why a statement went to the node it went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The engine has one node, or is not open.
    MainNode,
    /// The handle names its node.
    NamedNode,
    /// The handle asks for the primary.
    PrimaryChosen,
    /// The handle asks for a replica.
    ReplicaChosen,
    /// It may change something.
    Write,
    /// A read on the primary: the session wrote, and no position of that is known yet.
    OwnWrite,
    /// A read on the primary: the session asks for `Strong` consistency.
    Strong,
    /// A read on the primary: the configuration says `mode = "primary"`.
    PrimaryMode,
    /// A read on the primary: the session's token says so, since no position could be had.
    TokenWindow,
    /// A read on the primary: the session's token is of another system or timeline, is further
    /// than the primary, or cannot be read.
    ForeignToken,
    /// A read on a replica: the session need not see anything in particular.
    NoFloor,
    /// A read on a replica that has replayed what the session must see.
    FloorMet,
    /// A read on the node that showed the session its latest state.
    SameNode,
    /// A read on the primary: no replica has replayed what the session must see.
    FloorAhead,
    /// A read on the primary: the replicas answer, and lag too far behind.
    Lagging,
    /// A read on the primary: no replica answers.
    NoReplica,
    /// A read on a replica that may lag: the primary does not answer, or is left to writes.
    Stale,
    /// A read that a replica refused as a write, and that the primary runs instead.
    Rescued,
    /// A read that is run again, since its first node failed.
    Retried,
}

impl Reason {
    /// All of them, in the order of the counters.
    pub(crate) const ALL: [Self; 19] = [
        Self::MainNode,
        Self::NamedNode,
        Self::PrimaryChosen,
        Self::ReplicaChosen,
        Self::Write,
        Self::OwnWrite,
        Self::Strong,
        Self::PrimaryMode,
        Self::TokenWindow,
        Self::ForeignToken,
        Self::NoFloor,
        Self::FloorMet,
        Self::SameNode,
        Self::FloorAhead,
        Self::Lagging,
        Self::NoReplica,
        Self::Stale,
        Self::Rescued,
        Self::Retried,
    ];

    /// As in status, spans and `Server-Timing`: `floor_met`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MainNode => "main_node",
            Self::NamedNode => "named_node",
            Self::PrimaryChosen => "primary_chosen",
            Self::ReplicaChosen => "replica_chosen",
            Self::Write => "write",
            Self::OwnWrite => "own_write",
            Self::Strong => "strong",
            Self::PrimaryMode => "primary_mode",
            Self::TokenWindow => "token_window",
            Self::ForeignToken => "foreign_token",
            Self::NoFloor => "no_floor",
            Self::FloorMet => "floor_met",
            Self::SameNode => "same_node",
            Self::FloorAhead => "floor_ahead",
            Self::Lagging => "lagging",
            Self::NoReplica => "no_replica",
            Self::Stale => "stale",
            Self::Rescued => "rescued",
            Self::Retried => "retried",
        }
    }

    /// Whether the router chose the node, and not the user.
    pub(crate) const fn is_routed(self) -> bool {
        !matches!(
            self,
            Self::MainNode | Self::NamedNode | Self::PrimaryChosen | Self::ReplicaChosen
        )
    }

    /// Whether the primary serves in place of replicas, and so within its budget for that.
    #[must_use]
    pub const fn is_fallback(self) -> bool {
        matches!(
            self,
            Self::TokenWindow
                | Self::ForeignToken
                | Self::FloorAhead
                | Self::Lagging
                | Self::NoReplica
        )
    }
}

/// What [`route`] is asked.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Request {
    /// What the statement needs.
    pub access: Access,
    /// What the handle was told.
    pub target: Target,
    /// What the session must see.
    pub floor: Floor,
    /// Nodes on which the statement has failed already.
    pub tried: Tried,
    /// The time.
    pub now: Instant,
    /// How old a replica may be. Default: 10 s.
    pub max_lag: Duration,
    /// How long a node that came back starts slowly. Default: 10 s.
    pub slow_start: Duration,
}

impl Request {
    /// A request at this moment, with default thresholds.
    #[must_use]
    pub fn new(access: Access, target: Target, floor: Floor) -> Self {
        Self {
            access,
            target,
            floor,
            tried: Tried::default(),
            now: Instant::now(),
            max_lag: Duration::from_secs(10),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// Nodes to be left out: those on which a statement has failed already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried([Option<u16>; Self::MOST]);

impl Tried {
    /// More than this are not remembered.
    pub const MOST: usize = 8;

    /// Adds a node.
    pub fn insert(&mut self, node: usize) {
        let free = self.0.iter_mut().find(|slot| slot.is_none());
        if let (Some(slot), Ok(node)) = (free, u16::try_from(node)) {
            *slot = Some(node);
        }
    }

    /// Whether the node is among them.
    #[must_use]
    pub fn contains(&self, node: usize) -> bool {
        self.0.iter().flatten().any(|tried| usize::from(*tried) == node)
    }
}

/// The node that was chosen, by its number, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// Its place among the engine's nodes.
    pub node: usize,
    /// Why that one.
    pub reason: Reason,
    /// Whether it was chosen as the one for writes. While there is no primary, a replica may stand there.
    pub(crate) as_writer: bool,
}

impl Decision {
    pub(crate) const fn writer(snapshot: &Snapshot, reason: Reason) -> Self {
        Self { node: snapshot.writer, reason, as_writer: true }
    }

    /// A replica, or the node that was named.
    const fn other(node: usize, reason: Reason) -> Self {
        Self { node, reason, as_writer: false }
    }
}

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
    let primary_is_gone = snapshot.primary.is_none_or(|primary| request.tried.contains(primary));
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
        wanted(node) && request.floor.admits(number, node) && !request.tried.contains(number)
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
            .any(|(number, node)| wanted(node) && !request.tried.contains(number))
    };
    match request.floor {
        Floor::Primary(reason) => reason,
        _ if any(&in_rotation) => Reason::FloorAhead,
        _ if any(&NodeView::is_usable_replica) => Reason::Lagging,
        _ => Reason::NoReplica,
    }
}
