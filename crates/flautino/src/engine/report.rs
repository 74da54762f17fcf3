//! What opening, closing and a change of the nodes did.

use std::time::Duration;

/// What [`Engine::open`](super::Engine::open) did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The engine was open already, and nothing was changed.
    pub already_open: bool,
    /// Problems that do not keep the app from serving, such as a node that is down or an extension that
    /// is missing. Each is logged too.
    pub warnings: Vec<String>,
}

/// What [`Engine::close`](super::Engine::close) did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// `false` if there was nothing to close.
    pub was_open: bool,
    /// Connections that were idle and were closed at once.
    pub idle: usize,
    /// Connections that were busy and were given back within the drain time.
    pub drained: usize,
    /// Connections whose statements were cancelled when the drain time was over.
    pub cancelled: usize,
    /// Connections that the app still holds. Each is closed when the app drops it.
    pub still_held: usize,
    /// How long closing took.
    pub elapsed: Duration,
}

/// What [`Engine::set_nodes`](super::Engine::set_nodes) did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodesReport {
    /// Nodes that are new, or have another configuration than before.
    pub added: Vec<String>,
    /// Nodes that were removed, or have another configuration than before.
    pub removed: Vec<String>,
    /// Connections to removed nodes that were given back within the drain time.
    pub drained: usize,
    /// Connections to removed nodes whose statements were ended when the drain time was over. Reads among
    /// them are run on another node.
    pub cancelled: usize,
    /// Connections to removed nodes that the app still holds. Each is closed when the app drops it.
    pub still_held: usize,
}
