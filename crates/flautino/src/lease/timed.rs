//! How long a statement takes, where somebody wants to know.

use std::time::Instant;

use sqlx::SqlStr;

use crate::node::Node;
use crate::router::Reason;

/// A statement that was sent.
pub(super) struct Timed {
    pub(super) started: Instant,
    pub(super) sql: SqlStr,
    /// Why it runs on its node.
    pub(super) reason: Option<Reason>,
}

impl Timed {
    /// Its result is read to its end, or it failed or was given up, for a reason of this type.
    pub(super) fn ended(self, node: &Node, now: Instant, error: Option<&str>) {
        let elapsed = now.saturating_duration_since(self.started);
        node.server.metrics.took(elapsed, error);
        node.server.sender.logger.ended(node.name(), self.sql.as_str(), self.reason, elapsed);
    }
}
