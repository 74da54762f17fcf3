//! What a read must see, and whether a node has it.

use serde::{Deserialize, Serialize};

use super::position::Position;
use super::reason::Reason;
use super::snapshot::NodeView;

/// How fresh the reads of a handle must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Consistency {
    /// Any replica in the rotation may serve a read, even if it lacks the session's own writes.
    Eventual,
    /// A read sees all that its session wrote. The default.
    #[default]
    ReadYourWrites,
    /// As `ReadYourWrites`, and no read is older than an earlier one of its session.
    Session,
    /// Every read goes to the primary.
    Strong,
}

/// What a session's next read must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Floor {
    /// Nothing in particular.
    None,
    /// Everything up to this position.
    At(Position),
    /// Everything that the node of this number showed to an earlier read, whose position is not
    /// known yet; and everything up to the position, if there is one.
    SeenOn(usize, Option<Position>),
    /// Something that only the primary is sure to have, for this reason.
    Primary(Reason),
}

impl Floor {
    /// Whether the node, whose number this is, has what the session must see. `false` in doubt.
    #[must_use]
    pub fn admits(&self, number: usize, node: &NodeView) -> bool {
        let reached = |floor| node.has(floor);
        match *self {
            Self::None => true,
            Self::At(floor) => reached(floor),
            Self::SeenOn(seen, floor) => seen == number && floor.is_none_or(reached),
            Self::Primary(_) => false,
        }
    }

    /// The position that the node of this number must have reached, if that is all that it takes to
    /// have what the session must see.
    pub(crate) fn position_for(&self, number: usize) -> Option<Position> {
        match *self {
            Self::At(floor) => Some(floor),
            Self::SeenOn(seen, floor) if seen == number => floor,
            Self::None | Self::SeenOn(..) | Self::Primary(_) => None,
        }
    }
}
