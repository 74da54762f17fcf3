//! The state of an engine for tests, whose replica is the primary itself: it is published once and never probed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ClusterState, Monitor};
use crate::router::{NodeView, Role, Snapshot};

/// For so long the replica is fresh.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Monitor {
    /// Publishes a primary and a replica that are up, and says that it runs.
    pub(crate) fn stand_in(self: &Arc<Self>) {
        self.stands_in.store(true, Ordering::Release);
        let up =
            |role, incarnation| NodeView { role, up: true, incarnation, ..NodeView::unknown() };
        let fresh_as_of = Some(Instant::now() + FOR_EVER);
        let replica = NodeView { fresh_as_of, ..up(Role::Replica, 2) };
        let snapshot = Snapshot {
            nodes: [up(Role::Primary, 1), replica].into(),
            primary: Some(0),
            writer: 0,
            // So that a session that wrote reads from the primary.
            positions: false,
        };
        self.state.store(Arc::new(ClusterState { nodes: self.nodes(), snapshot }));
        // Nothing is known of the catalogue yet.
        self.classifier.doubt();
        self.run();
    }

    pub(crate) fn stands_in(&self) -> bool {
        self.stands_in.load(Ordering::Acquire)
    }

    /// Knows the catalogue as it is now, before a statement is judged: no loop reads it.
    pub(crate) async fn get_ready(self: &Arc<Self>) {
        let main = Arc::clone(&self.nodes()[0]);
        self.ensure_traces(&main).await;
        if self.classifier.is_in_doubt() {
            self.refresh_catalogue(&main).await;
        }
    }
}
