//! Publishes the state of the cluster, and carries out what a new state changes for the nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{ClusterState, EventKind, Monitor};
use crate::node::{EndReason, Node};
use crate::router::{Change, Exclusion, Role, Transition};

impl Monitor {
    /// Carries out what the outcome of a probe changed. `role` is the role that the node reported,
    /// and `error` says why the probe failed.
    pub(super) fn apply(
        &self,
        node: &Arc<Node>,
        change: Change,
        role: Option<Role>,
        error: Option<&sqlx::Error>,
    ) {
        if let Some(role) = role {
            // Set the role before the state is published, so that no statement that follows the new
            // state gets a session that was set up for the old role.
            node.set_role(role);
        }
        let name = node.name();
        if change.new_server {
            tracing::info!(
                node = %name,
                "the node's server was restarted, or another server answers at its address"
            );
            self.history.record(EventKind::Restarted, node, "another server process answers");
            node.renew();
        }
        self.publish();
        match change.transition {
            Some(Transition::WentDown) => {
                let error = error.map(ToString::to_string).unwrap_or_default();
                tracing::warn!(node = %name, %error, "the node is down");
                self.history.record(EventKind::Down, node, error.as_str());
                node.server.set_trouble(Some(error));
                node.end(EndReason::Down);
            }
            Some(Transition::WentUp) => {
                tracing::info!(node = %name, ?role, "the node is up");
                let text = match role {
                    Some(Role::Primary) => "it answers, as a primary",
                    Some(Role::Replica) => "it answers, as a replica",
                    Some(Role::Unknown) | None => "it answers",
                };
                self.history.record(EventKind::Up, node, text);
                node.server.set_trouble(None);
            }
            None => {
                // Still down, and perhaps for another reason: the server is there again, and TLS fails.
                if let Some(error) = error
                    && node.server.trouble().is_some()
                {
                    node.server.set_trouble(Some(error.to_string()));
                }
            }
        }
    }

    /// Publishes the state that follows from what is known now, and logs what it changes.
    pub(super) fn publish(&self) {
        let (old, new) = {
            // Hold the lock until the swap: otherwise an older state could replace a newer one.
            let known = self.known.lock();
            let (nodes, snapshot) = (Arc::clone(&known.nodes), known.topology.snapshot());
            let new = Arc::new(ClusterState { nodes, snapshot });
            let old = self.state.swap(Arc::clone(&new));
            self.has_replicas.store(new.nodes.len() > 1, Ordering::Release);
            (old, new)
        };
        let now = Instant::now();
        for (node, view) in new.nodes.iter().zip(&new.snapshot.nodes) {
            let before = old.view(node).and_then(|view| view.excluded.as_ref());
            if before != view.excluded.as_ref() {
                self.note_exclusion(node, view.excluded.as_ref().map(|why| new.describe(why)));
            }
            let is_known = view.fresh_as_of.is_some() && new.primary().is_some();
            if is_known && view.is_usable_replica() && view.excluded.is_none() {
                self.note_lag(node, !view.in_rotation(now, self.config.max_lag));
            }
        }
        if let Some(primary) = new.primary()
            && old.primary().is_none_or(|before| !Arc::ptr_eq(before, primary))
        {
            tracing::info!(node = %primary.name(), "the node is the primary");
            self.history.record(EventKind::Primary, primary, "it takes the writes");
            end_superseded(&old, &new, primary);
        }
        self.changed.notify_waiters();
    }

    /// Notes that the node lags too far behind for reads, or not any more.
    fn note_lag(&self, node: &Node, lags: bool) {
        if !node.gauges.note_lag(lags) {
            return;
        }
        let (kind, text) = match lags {
            true => (EventKind::Excluded, format!("it lags more than {:?}", self.config.max_lag)),
            false => (EventKind::Readmitted, "it lags no more".to_owned()),
        };
        self.history.record(kind, node, text);
    }

    /// Notes that the node is kept out of the rotation for this reason, or not any more.
    fn note_exclusion(&self, node: &Node, reason: Option<String>) {
        let name = node.name();
        match reason {
            Some(reason) => {
                tracing::warn!(node = %name, "node `{name}` is not used for reads: {reason}");
                self.history.record(EventKind::Excluded, node, reason);
            }
            None => {
                tracing::info!(node = %name, "nothing keeps the node out of the rotation any more");
                self.history.record(EventKind::Readmitted, node, "nothing keeps it out any more");
            }
        }
    }
}

/// Ends all statements on the previous primary. It may still be running, and every write that it
/// acknowledges from now on is lost.
fn end_superseded(old: &ClusterState, new: &ClusterState, primary: &Arc<Node>) {
    let before = old.writer();
    let excluded = new.view(before).and_then(|view| view.excluded.as_ref());
    // If both are names of one server, the primary has not changed.
    let is_same_server = matches!(excluded, Some(Exclusion::SameServer(_)));
    let was_primary = old.snapshot.nodes[old.snapshot.writer].role == Role::Primary;
    if was_primary && !is_same_server && !Arc::ptr_eq(before, primary) {
        before.end(EndReason::Superseded);
    }
}
