//! Asks nodes for the positions that tokens need. What reads need of replicas: see `replayed`.
//!
//! All requests that wait for a position share one query, which begins after the last of their
//! writes. It is held back a little, so that writes which are about to end can share it too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Monitor;
use crate::node::{Node, ProbeState};
use crate::router::{Position, Role, Sample};

/// How long a query for a position is held back at most, so that more requests can share it.
const MAX_GATHERING: Duration = Duration::from_millis(20);

impl Monitor {
    /// The primary's position at a moment after `event`. `None` if it does not report one in time.
    ///
    /// All callers that wait at the same time share one query, which begins after the last of their
    /// events.
    pub(crate) async fn primary_position_after(
        self: &Arc<Self>,
        event: Instant,
    ) -> Option<Position> {
        let primary = self.state().primary()?.clone();
        let sample = self.sample_after(&primary, event).await?;
        let position = sample.position().filter(|_| sample.role == Role::Primary)?;
        self.follow(position);
        Some(position)
    }

    /// As [`primary_position_after`](Monitor::primary_position_after), for this node.
    pub(crate) async fn position_after(
        self: &Arc<Self>,
        node: &Arc<Node>,
        event: Instant,
    ) -> Option<Position> {
        self.sample_after(node, event).await?.position()
    }

    /// Probes the node now and returns whether it reports to be a primary.
    pub(crate) async fn is_primary_now(self: &Arc<Self>, node: &Arc<Node>) -> bool {
        let sample = self.sample_after(node, Instant::now()).await;
        sample.is_some_and(|sample| sample.role == Role::Primary)
    }

    /// Whether the node still is the primary, in this incarnation. Probes it.
    pub(crate) async fn is_still_primary(
        self: &Arc<Self>,
        node: &Arc<Node>,
        incarnation: u64,
    ) -> bool {
        let is_primary = self.is_primary_now(node).await;
        let state = self.state();
        let is_same = state.view(node).is_some_and(|view| view.incarnation == incarnation);
        is_primary && state.is_writer(node) && is_same
    }

    /// Closes the node's probe connection, so that the next probe makes a new one.
    pub(crate) async fn renew_probe_connection(&self, node: &Arc<Node>) {
        let (done, is_done) = oneshot::channel();
        let probed = Arc::clone(node);
        // Lock in a task: a caller that holds its place in the lock's queue and is not polled would
        // block everyone behind it.
        node.spawn(async move {
            probed.probe_connection.lock().await.connection = None;
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(self.config.probe_timeout * 2, is_done).await;
    }

    /// A sample of the node that began after `event`.
    async fn sample_after(self: &Arc<Self>, node: &Arc<Node>, event: Instant) -> Option<Sample> {
        let (answer, answered) = oneshot::channel();
        let (monitor, probed) = (Arc::clone(self), Arc::clone(node));
        // Lock in a task, for the same reason as in `renew_probe_connection`.
        node.spawn(async move {
            let _waiting = probed.probe_connection.wait();
            let mut state = probed.probe_connection.lock().await;
            if !answer.is_closed() {
                // Sending fails if the caller has gone meanwhile.
                let _ = answer.send(monitor.ask_after(&probed, event, &mut state).await);
            }
        });
        tokio::time::timeout(self.config.probe_timeout * 2, answered).await.ok()?.ok()?
    }

    /// The latest sample if it began after `event`, else a new one.
    async fn ask_after(
        &self,
        node: &Arc<Node>,
        event: Instant,
        state: &mut ProbeState,
    ) -> Option<Sample> {
        if let Some(latest) = state.latest.filter(|latest| latest.began > event) {
            return Some(latest);
        }
        if state.unanswered.is_some_and(|began| began > event) {
            // The node did not answer another caller's query, which this one would have shared.
            return None;
        }
        if self.state().primary().is_some_and(|primary| Arc::ptr_eq(primary, node)) {
            self.gather(node).await;
        }
        node.probe_connection.token_probes.fetch_add(1, Ordering::Relaxed);
        self.ask_position_or_all(node, state).await
    }

    /// Waits for writes that are about to end, so that one query serves them too. Waits no longer
    /// than a write takes at present.
    async fn gather(&self, node: &Node) {
        let deadline = tokio::time::Instant::now() + self.writes.mean().min(MAX_GATHERING);
        node.probe_connection.gather(|| self.writes.count(), deadline).await;
    }
}
