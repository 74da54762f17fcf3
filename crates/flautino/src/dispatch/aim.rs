//! What a handle was told about nodes.

use std::fmt;
use std::sync::Arc;

use crate::engine::EngineInner;
use crate::error::UnknownNode;
use crate::node::Node;
use crate::router::{Picture, Target};

/// Where a handle's statements go.
#[derive(Clone)]
pub(crate) enum Aim {
    /// Where the router says.
    Auto,
    Primary,
    Replica,
    Node(Arc<Node>),
}

impl Aim {
    /// The same, with the number that its node has in the picture.
    pub(super) fn target_in(
        &self,
        picture: &Picture,
        engine: &EngineInner,
    ) -> Result<Target, UnknownNode> {
        let node = match self {
            Self::Auto => return Ok(Target::Auto),
            Self::Primary => return Ok(Target::Primary),
            Self::Replica => return Ok(Target::Replica),
            Self::Node(node) => node,
        };
        // One that left may have a successor of its name.
        let number = picture
            .number(node)
            .or_else(|| picture.servers.iter().position(|successor| successor.name == node.name));
        number.map(Target::Node).ok_or_else(|| engine.unknown(&node.name))
    }
}

impl fmt::Debug for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("Auto"),
            Self::Primary => f.write_str("Primary"),
            Self::Replica => f.write_str("Replica"),
            Self::Node(node) => f.debug_tuple("Node").field(&node.name).finish(),
        }
    }
}
