//! What a read must see, and which node has it.

use serde::{Deserialize, Serialize};

use super::position::Position;
use super::reason::Reason;
use super::snapshot::NodeView;

/// How fresh the reads of a handle must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Consistency {
    /// Any replica in the rotation will do, the session's own writes or not.
    Eventual,
    /// A read sees what its session wrote. The default.
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
    /// All that was there at this position.
    At(Position),
    /// What that node showed to an earlier read, by its number; how far it was is not known yet.
    /// Beside that, all that was there at the position.
    SeenOn(usize, Option<Position>),
    /// What only the primary is sure to have, for this reason.
    Primary(Reason),
}

impl Floor {
    /// Whether the node, of this number, has what the session must see. In doubt it has not.
    #[must_use]
    pub fn admits(&self, number: usize, node: &NodeView) -> bool {
        let reached = |floor| node.position.is_some_and(|(position, _)| position.reaches(floor));
        match *self {
            Self::None => true,
            Self::At(floor) => reached(floor),
            Self::SeenOn(seen, floor) => seen == number && floor.is_none_or(reached),
            Self::Primary(_) => false,
        }
    }
}
