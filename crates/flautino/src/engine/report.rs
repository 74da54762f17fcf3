//! What opening, closing and a change of the nodes did.

use std::time::Duration;

/// What [`Engine::open`](super::Engine::open) did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The engine was open before, and nothing was changed.
    pub already_open: bool,
    /// What does not keep the app from serving: a node that is down, an extension that is
    /// missing. Each is logged too.
    pub warnings: Vec<String>,
}

/// What [`Engine::close`](super::Engine::close) did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// `false` where there was nothing to close.
    pub was_open: bool,
    /// Connections that were idle and closed at once.
    pub idle: usize,
    /// Connections that were busy and ended by themselves within the drain time.
    pub drained: usize,
    /// Connections whose statements were cancelled when the drain time was over.
    pub cancelled: usize,
    /// Connections that the app still holds; each closes when it is dropped.
    pub still_held: usize,
    /// How long it took.
    pub elapsed: Duration,
}

/// What [`Engine::set_nodes`](super::Engine::set_nodes) did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodesReport {
    /// Nodes that are new, or have another configuration than before.
    pub added: Vec<String>,
    /// Nodes that left, or have another configuration than before.
    pub removed: Vec<String>,
    /// Connections of those that ended by themselves within the drain time.
    pub drained: usize,
    /// Connections whose statements were ended when the drain time was over. Reads among them were
    /// run elsewhere.
    pub cancelled: usize,
    /// Connections that the app still holds; each closes when it is dropped.
    pub still_held: usize,
}
