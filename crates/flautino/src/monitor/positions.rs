//! Positions for tokens.
//!
//! All who wait for a position share a sample that began after the last of their writes, and the
//! one who asks waits a little for writes that are about to end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Monitor;
use super::asking::PositionAnswer;
use crate::node::{Node, ProbeState};
use crate::router::{Position, Role, Sample};

/// How long those who ask for a position may be kept waiting for more of them.
const MAX_GATHERING: Duration = Duration::from_millis(20);

impl Monitor {
    /// Where the primary is, at a moment after `event`; `None` where it does not say so in time.
    /// All who wait share one question that begins after the last of their events.
    pub(crate) async fn primary_position_after(
        self: &Arc<Self>,
        event: Instant,
    ) -> Option<Position> {
        let primary = self.state().primary()?.clone();
        let sample = self.sample_after(&primary, event).await?;
        (sample.role == Role::Primary).then(|| sample.position()).flatten()
    }

    /// As [`primary_position_after`](Monitor::primary_position_after), of that node.
    pub(crate) async fn position_after(
        self: &Arc<Self>,
        node: &Arc<Node>,
        event: Instant,
    ) -> Option<Position> {
        self.sample_after(node, event).await?.position()
    }

    /// Whether the node says, when it is asked now, that it is a primary.
    pub(crate) async fn is_primary_now(self: &Arc<Self>, node: &Arc<Node>) -> bool {
        let sample = self.sample_after(node, Instant::now()).await;
        sample.is_some_and(|sample| sample.role == Role::Primary)
    }

    /// Whether the node is still the primary that it was in that incarnation.
    pub(crate) async fn is_still_primary(
        self: &Arc<Self>,
        node: &Arc<Node>,
        incarnation: u64,
    ) -> bool {
        let answers = self.is_primary_now(node).await;
        let state = self.state();
        let is_same = state.view(node).is_some_and(|view| view.incarnation == incarnation);
        answers && state.is_writer(node) && is_same
    }

    /// Has the next question to the node go over a new connection.
    pub(crate) async fn renew_probe_connection(&self, node: &Arc<Node>) {
        let (done, is_done) = oneshot::channel();
        let asked = Arc::clone(node);
        // In a task, since whoever waits for the lock and is not polled would hold up everybody.
        node.spawn(async move {
            asked.probe_connection.lock().await.connection = None;
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(self.config.probe_timeout * 2, is_done).await;
    }

    /// A sample of the node that began after `event`.
    async fn sample_after(self: &Arc<Self>, node: &Arc<Node>, event: Instant) -> Option<Sample> {
        let (answer, answered) = oneshot::channel();
        let (monitor, asked) = (Arc::clone(self), Arc::clone(node));
        // In a task, since whoever waits for the lock and is not polled would hold up everybody.
        node.spawn(async move {
            let _waiting = asked.probe_connection.wait();
            let mut state = asked.probe_connection.lock().await;
            if !answer.is_closed() {
                // Fails where nobody waits any more.
                let _ = answer.send(monitor.ask_after(&asked, event, &mut state).await);
            }
        });
        tokio::time::timeout(self.config.probe_timeout * 2, answered).await.ok()?.ok()?
    }

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
            return None;
        }
        if self.state().primary().is_some_and(|primary| Arc::ptr_eq(primary, node)) {
            self.gather(node).await;
        }
        node.probe_connection.token_probes.fetch_add(1, Ordering::Relaxed);
        match self.ask_position(node, state).await {
            PositionAnswer::Told(sample) => Some(sample),
            PositionAnswer::NoAnswer => None,
            PositionAnswer::Untold => self.ask(node, state).await,
        }
    }

    /// Waits for writes that are about to end, so that one sample serves them too: no longer than a
    /// write takes at present.
    async fn gather(&self, node: &Node) {
        let deadline = tokio::time::Instant::now() + self.writes.mean().min(MAX_GATHERING);
        node.probe_connection.gather(|| self.writes.count(), deadline).await;
    }
}
