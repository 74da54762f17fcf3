//! The router's input and output: [`Request`] and [`Decision`].

use std::time::{Duration, Instant};

use serde::Serialize;

use super::consistency::Floor;
use super::reason::Reason;
use super::snapshot::Snapshot;

/// Whether a statement needs the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// The statement changes neither data nor its session, so a replica can run it.
    Read,
    /// The statement changes something, or may, so only the primary can run it.
    Write,
}

/// Where a handle sends its statements. `N` identifies a node; for the router it is the node's
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<N = usize> {
    /// The router chooses for each statement.
    Auto,
    /// Every statement goes to the primary.
    Primary,
    /// Every statement goes to a replica, or to the primary if no replica is fresh enough.
    Replica,
    /// Every statement goes to this node.
    Node(N),
}

impl<N> Target<N> {
    /// The same target without its node.
    pub(crate) fn kind(&self) -> Target<()> {
        match self {
            Self::Auto => Target::Auto,
            Self::Primary => Target::Primary,
            Self::Replica => Target::Replica,
            Self::Node(_) => Target::Node(()),
        }
    }

    /// The same target, with its node replaced by the result of `map`.
    pub(crate) fn try_map<M, E>(
        &self,
        map: impl FnOnce(&N) -> Result<M, E>,
    ) -> Result<Target<M>, E> {
        Ok(match self {
            Self::Auto => Target::Auto,
            Self::Primary => Target::Primary,
            Self::Replica => Target::Replica,
            Self::Node(node) => Target::Node(map(node)?),
        })
    }
}

/// The input of [`route`](super::route).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Request {
    /// Whether the statement needs the primary.
    pub access: Access,
    /// Where the handle sends its statements.
    pub target: Target,
    /// What the session must see.
    pub floor: Floor,
    /// The nodes on which the statement has already failed.
    pub excluded: ExcludedNodes,
    /// The current time.
    pub now: Instant,
    /// How old the data of a replica may be. Default: 10 s.
    pub max_lag: Duration,
    /// How long a node that came back gets only a part of its usual load. Default: 10 s.
    pub slow_start: Duration,
}

impl Request {
    /// A request at this moment, with default thresholds.
    #[must_use]
    pub fn new(access: Access, target: Target, floor: Floor, now: Instant) -> Self {
        Self {
            access,
            target,
            floor,
            excluded: ExcludedNodes::default(),
            now,
            max_lag: Duration::from_secs(10),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// The nodes to which a request is not sent, because its statement has already failed on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExcludedNodes([Option<u16>; Self::MAX]);

impl ExcludedNodes {
    /// How many nodes are remembered. Any further one is not excluded.
    pub const MAX: usize = 8;

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
        self.0.iter().flatten().any(|excluded| usize::from(*excluded) == node)
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
    /// Whether the node was chosen as the one that takes writes. While there is no primary, such a
    /// node may be a replica.
    pub(crate) as_writer: bool,
}

impl Decision {
    /// Chooses the node that takes writes.
    pub(crate) const fn writer(snapshot: &Snapshot, reason: Reason) -> Self {
        Self { node: snapshot.writer, reason, as_writer: true }
    }

    /// Chooses a replica, or the node that the handle names.
    pub(super) const fn other(node: usize, reason: Reason) -> Self {
        Self { node, reason, as_writer: false }
    }
}
