//! [`ClusterState`]: the nodes and what is known of them at one moment, and its description for
//! logs, errors and the status.

use std::sync::Arc;

use crate::node::Node;
use crate::router::{Exclusion, NodeView, Role, Snapshot};

/// An engine's nodes, the main one first.
pub(crate) type Nodes = Arc<[Arc<Node>]>;

/// A snapshot and its nodes, in the same order. A node's number is its place in both; in another
/// state the node may have another number.
#[derive(Debug)]
pub(crate) struct ClusterState {
    pub(crate) nodes: Nodes,
    pub(crate) snapshot: Snapshot,
}

impl ClusterState {
    /// The node's number. `None` if the node is not in this state.
    pub(crate) fn number(&self, node: &Arc<Node>) -> Option<usize> {
        place(&self.nodes, node)
    }

    /// What is known of the node. `None` if the node is not in this state.
    pub(crate) fn view(&self, node: &Arc<Node>) -> Option<&NodeView> {
        self.number(node).map(|number| &self.snapshot.nodes[number])
    }

    /// The node that takes writes, if one is known to be up.
    pub(crate) fn primary(&self) -> Option<&Arc<Node>> {
        self.snapshot.primary.map(|number| &self.nodes[number])
    }

    /// The node to which writes go: the primary; else the node that was the primary last; else the
    /// main node.
    pub(crate) fn writer(&self) -> &Arc<Node> {
        &self.nodes[self.snapshot.writer]
    }

    pub(crate) fn is_writer(&self, node: &Arc<Node>) -> bool {
        Arc::ptr_eq(self.writer(), node)
    }

    /// Why a node is excluded and what to do about it, for logs and the status.
    pub(crate) fn describe(&self, exclusion: &Exclusion) -> String {
        let name = |number: usize| self.nodes[number].name();
        match exclusion {
            Exclusion::OtherSystem(system) => format!(
                "it belongs to another cluster (system identifier {system}); check its address"
            ),
            Exclusion::OtherTimeline(timeline) => format!(
                "it is on timeline {timeline}, the primary on another; rebuild it, or have it follow \
                 the primary"
            ),
            Exclusion::SameServer(other) => format!(
                "it is the same server as node `{}`; give each server one name",
                name(*other)
            ),
            Exclusion::SeveralServers => {
                "its address leads to several servers, so that the state of one does not hold for \
                 the next; give each server a node of its own"
                    .to_owned()
            }
            Exclusion::SecondPrimary(primary) => format!(
                "it takes writes, but node `{}` is the primary; check whether it is a stray copy",
                name(*primary)
            ),
            Exclusion::Paused => "its replay is paused, and it is behind".to_owned(),
            Exclusion::NoPosition => "it does not report how far it has replayed".to_owned(),
        }
    }

    /// Each node and its state, for an error about a missing primary.
    pub(crate) fn describe_nodes(&self) -> String {
        let describe = |(node, view): (&Arc<Node>, &NodeView)| {
            let name = node.name();
            match (node.server.trouble(), &view.excluded) {
                (Some(trouble), _) => format!("`{name}` is down ({trouble})"),
                (None, Some(exclusion)) => format!("`{name}`: {}", self.describe(exclusion)),
                (None, None) if view.role == Role::Replica => format!("`{name}` is a replica"),
                (None, None) => format!("`{name}` does not answer"),
            }
        };
        self.nodes.iter().zip(&self.snapshot.nodes).map(describe).collect::<Vec<_>>().join(", ")
    }
}

/// The node's place among these nodes.
pub(super) fn place(nodes: &[Arc<Node>], node: &Arc<Node>) -> Option<usize> {
    nodes.iter().position(|other| Arc::ptr_eq(other, node))
}
