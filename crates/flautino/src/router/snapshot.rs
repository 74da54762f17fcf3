//! An immutable picture of all nodes as last probed: what the router decides on.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::position::Position;

/// What a server is now. Learnt from the server, never from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It is in recovery: a standby.
    Replica,
    /// It was not asked yet, or did not answer, or refused what its role should allow.
    Unknown,
}

/// All nodes at one moment; the main node first.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// In the order of the engine's nodes.
    pub nodes: Box<[NodeView]>,
    /// The node that takes writes, if one is known to be up.
    pub primary: Option<usize>,
    /// Where writes go: the primary, or where it was last seen, or the main node.
    pub writer: usize,
    /// Whether the primary tells positions. If not, sessions that wrote read from the primary
    /// for a while.
    pub positions: bool,
}

/// One node in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NodeView {
    /// What it says it is.
    pub role: Role,
    /// Whether it answers.
    pub up: bool,
    /// Why it is kept out of the rotation, whatever its lag.
    pub excluded: Option<Exclusion>,
    /// How far it certainly is, and, where that is known, a moment before which nothing happened
    /// on it that lies beyond. Behind the truth at the most: replay only advances.
    pub position: Option<(Position, Option<Instant>)>,
    /// A replica has everything that a query could see on its primary at this moment, of this
    /// machine's clock; sequences excepted.
    pub fresh_as_of: Option<Instant>,
    /// Which of its lives this is: another server under its name, a restart, another role begin a new
    /// one. No two nodes ever have the same.
    pub incarnation: u64,
    /// When it came back, for its slow start.
    pub readmitted: Option<Instant>,
}

/// Why a node that answers is not in the rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exclusion {
    /// It belongs to another cluster, with this system identifier.
    OtherSystem(u64),
    /// It is on this timeline, and the primary on another.
    OtherTimeline(u32),
    /// It is the same server as the node of this number.
    SameServer(usize),
    /// Its name leads to more than one server.
    SeveralServers,
    /// It takes writes, and another node is the primary, of this number.
    SecondPrimary(usize),
    /// Its replay is paused, and a transaction has ended that it has not replayed.
    Paused,
    /// It does not say how far it is.
    NoPosition,
}

impl NodeView {
    /// A node of which nothing is known.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            role: Role::Unknown,
            up: false,
            excluded: None,
            position: None,
            fresh_as_of: None,
            incarnation: 0,
            readmitted: None,
        }
    }

    /// Whether it is a replica of the right cluster that answers.
    #[must_use]
    pub fn is_usable_replica(&self) -> bool {
        use Exclusion::{NoPosition, Paused};
        self.up
            && self.role == Role::Replica
            && matches!(self.excluded, None | Some(Paused | NoPosition))
    }

    /// Whether reads may go there: a usable replica, and not too old. An unknown age is too old.
    #[must_use]
    pub fn in_rotation(&self, now: Instant, max_lag: Duration) -> bool {
        self.is_usable_replica()
            && self.excluded.is_none()
            && self.fresh_as_of.is_some_and(|fresh| now.saturating_duration_since(fresh) <= max_lag)
    }
}

impl Snapshot {
    /// Nothing is known of any of so many nodes.
    #[must_use]
    pub fn unknown(nodes: usize) -> Self {
        Self {
            nodes: std::iter::repeat_with(NodeView::unknown).take(nodes).collect(),
            primary: None,
            writer: 0,
            positions: true,
        }
    }

    /// Whether there is a node to send writes to: the primary, or one that takes writes under a name
    /// that leads to several servers, so that nothing more can be said of it.
    #[must_use]
    pub fn takes_writes(&self) -> bool {
        let several = |node: &NodeView| {
            node.up
                && node.role == Role::Primary
                && node.excluded == Some(Exclusion::SeveralServers)
        };
        self.primary.is_some() || self.nodes.get(self.writer).is_some_and(several)
    }

    /// How far the primary was when it was last asked, and when that was.
    #[must_use]
    pub fn primary_position(&self) -> Option<(Position, Instant)> {
        let (position, as_of) = self.nodes.get(self.primary?)?.position?;
        Some((position, as_of?))
    }
}
