//! [`Snapshot`]: all nodes as they were last probed, by which the router decides. Never changed
//! once it is published.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::position::{Position, XidHorizon};

/// What a server is now, as the server itself reports; never taken from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The server takes writes.
    Primary,
    /// The server is in recovery: a standby.
    Replica,
    /// The server was not probed yet, did not answer, or refused a statement that its role should
    /// allow.
    Unknown,
}

/// All nodes at one moment. A node's number is its place among them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// In the order of the engine's nodes, the main node first.
    pub nodes: Box<[NodeView]>,
    /// The number of the node that takes writes, if one is known to be up.
    pub primary: Option<usize>,
    /// The number of the node to which writes go: the primary; else the node that was the primary
    /// last; else the main node.
    pub writer: usize,
    /// Whether the primary reports its WAL position. If not, sessions that wrote read from the
    /// primary for a while.
    pub positions: bool,
}

/// One node in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NodeView {
    /// What the server reports to be.
    pub role: Role,
    /// Whether the node answers.
    pub up: bool,
    /// Why the node is kept out of the rotation, whatever its lag.
    pub excluded: Option<Exclusion>,
    /// A position that the node has certainly reached; by now it may be further. Beside it the
    /// moment when it was asked for, if that is known: the position covers all that the node had
    /// then.
    pub position: Option<(Position, Option<Instant>)>,
    /// Below which transaction id all have ended on a replica, as far as its timeline is certain.
    pub ended: Option<XidHorizon>,
    /// The replica has everything that a query could see on the primary at this moment, by this
    /// machine's clock; sequences excepted.
    pub fresh_as_of: Option<Instant>,
    /// A number that changes whenever what was known of the node may not hold any more: another
    /// server answers under its name, its server restarted, or its role changed. Nodes never share
    /// one.
    pub incarnation: u64,
    /// When the node came back after it was down. Its slow start begins then.
    pub readmitted: Option<Instant>,
}

/// Why a node that answers is not in the rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exclusion {
    /// The node belongs to another cluster, with this system identifier.
    OtherSystem(u64),
    /// The node is on this timeline, and the primary on another.
    OtherTimeline(u32),
    /// The node is the same server as the node of this number.
    SameServer(usize),
    /// The node's address leads to more than one server.
    SeveralServers,
    /// The node takes writes, but the node of this number is the primary.
    SecondPrimary(usize),
    /// The node's replay is paused, and it has not replayed all transactions that have ended.
    Paused,
    /// The node does not report its WAL position.
    NoPosition,
}

impl NodeView {
    /// A node about which nothing is known yet.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            role: Role::Unknown,
            up: false,
            excluded: None,
            position: None,
            ended: None,
            fresh_as_of: None,
            incarnation: 0,
            readmitted: None,
        }
    }

    /// Whether the node certainly has what a query could see on a server at this position.
    #[must_use]
    pub fn has(&self, floor: Position) -> bool {
        self.position.is_some_and(|(position, _)| position.reaches(floor))
            || self.ended.is_some_and(|ended| ended.reaches(floor))
    }

    /// Whether the node is a replica of the right cluster, and is up. It may lag.
    #[must_use]
    pub fn is_usable_replica(&self) -> bool {
        use Exclusion::{NoPosition, Paused};
        self.up
            && self.role == Role::Replica
            && matches!(self.excluded, None | Some(Paused | NoPosition))
    }

    /// Whether reads may go to the node: it is a usable replica, and lags by `max_lag` at most. A
    /// replica of unknown lag is not in the rotation.
    #[must_use]
    pub fn in_rotation(&self, now: Instant, max_lag: Duration) -> bool {
        self.is_usable_replica()
            && self.excluded.is_none()
            && self.fresh_as_of.is_some_and(|fresh| now.saturating_duration_since(fresh) <= max_lag)
    }
}

impl Snapshot {
    /// A snapshot of this many nodes, about which nothing is known yet.
    #[must_use]
    pub fn unknown(nodes: usize) -> Self {
        Self {
            nodes: std::iter::repeat_with(NodeView::unknown).take(nodes).collect(),
            primary: None,
            writer: 0,
            positions: true,
        }
    }

    /// Whether there is a node to send writes to. This is the primary, or a node that takes writes
    /// and whose address leads to several servers; such a node is never elected as the primary,
    /// since its answers may come from different servers.
    #[must_use]
    pub fn takes_writes(&self) -> bool {
        let several = |node: &NodeView| {
            node.up
                && node.role == Role::Primary
                && node.excluded == Some(Exclusion::SeveralServers)
        };
        self.primary.is_some() || self.nodes.get(self.writer).is_some_and(several)
    }

    /// The primary's latest known position, and when it was asked for.
    #[must_use]
    pub fn primary_position(&self) -> Option<(Position, Instant)> {
        let (position, as_of) = self.nodes.get(self.primary?)?.position?;
        Some((position, as_of?))
    }
}
