//! What the router is asked, and what it says.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::consistency::Floor;
use super::reason::Reason;
use super::snapshot::Snapshot;

/// What a statement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// It changes nothing, neither data nor session: a replica will do.
    Read,
    /// It changes something, or may: only the primary will do.
    Write,
}

/// Where a handle sends its statements. `N` is how a node is named: for the router, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<N = usize> {
    /// Where the router says.
    Auto,
    /// The primary, whatever the statement.
    Primary,
    /// A replica, whatever the statement; the primary where none is admitted.
    Replica,
    /// This node, whatever the statement.
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

    /// The same target with what `name` returns for its node.
    pub(crate) fn try_map<M, E>(
        &self,
        name: impl FnOnce(&N) -> Result<M, E>,
    ) -> Result<Target<M>, E> {
        Ok(match self {
            Self::Auto => Target::Auto,
            Self::Primary => Target::Primary,
            Self::Replica => Target::Replica,
            Self::Node(node) => Target::Node(name(node)?),
        })
    }
}

/// What [`route`](super::route) is asked.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Request {
    /// What the statement needs.
    pub access: Access,
    /// Where the handle sends it.
    pub target: Target,
    /// What the session must see.
    pub floor: Floor,
    /// Nodes on which the statement has failed already.
    pub excluded: ExcludedNodes,
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

/// Nodes that a request is not to be sent to: those on which its statement has failed already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExcludedNodes([Option<u16>; Self::MAX]);

impl ExcludedNodes {
    /// More than this are not remembered.
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
    /// Whether it was chosen as the one for writes. While there is no primary, a replica may stand
    /// there.
    pub(crate) as_writer: bool,
}

impl Decision {
    /// The node that takes writes.
    pub(crate) const fn writer(snapshot: &Snapshot, reason: Reason) -> Self {
        Self { node: snapshot.writer, reason, as_writer: true }
    }

    /// A replica, or the node that was named.
    pub(super) const fn other(node: usize, reason: Reason) -> Self {
        Self { node, reason, as_writer: false }
    }
}
