//! Asks nodes for the positions that tokens need. What reads need of replicas: see `replayed`.
//!
//! All requests that wait for a position share one query, which begins after the last of their
//! writes. It is held back a little, so that writes which are about to end can share it too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Monitor;
use crate::node::{Node, Question};
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
        sample.position().filter(|_| sample.role == Role::Primary)
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

    /// A sample of the node that began after `event`, an event of the past. All callers who wait at the
    /// same time share one.
    async fn sample_after(self: &Arc<Self>, node: &Arc<Node>, event: Instant) -> Option<Sample> {
        if self.stands_in() {
            return None;
        }
        let (mut answer, question) = node.probe_connection.join(event, self.writes.count());
        if let Some(question) = question {
            self.spawn_asking(node, question);
        }
        let answered = answer.wait_for(Option::is_some);
        let limit = self.config.probe_timeout * 2;
        *tokio::time::timeout(limit, answered).await.ok()?.ok()?
    }

    /// Asks in a task of its own, so that it does not matter whether those who wait are polled. It ends
    /// with the monitor.
    fn spawn_asking(self: &Arc<Self>, node: &Arc<Node>, question: Arc<Question>) {
        let stop = self.running.load().as_ref().map(|run| run.stop.clone()).unwrap_or_default();
        let (monitor, asked) = (Arc::clone(self), Arc::clone(node));
        node.spawn(async move {
            stop.run_until_cancelled(monitor.answer(&asked, &question)).await;
        });
    }

    /// Asks for all who wait by the time that the question begins. Drops the question if nobody does any
    /// more, or if the node does not answer.
    async fn answer(self: &Arc<Self>, node: &Arc<Node>, question: &Question) {
        let connection = &node.probe_connection;
        let mut state = connection.lock().await;
        let is_primary = self.state().primary().is_some_and(|primary| Arc::ptr_eq(primary, node));
        if is_primary && !state.asked_after(connection.event()) {
            // Writes that are about to end may share the question too. It is held back no longer than a
            // write takes at present.
            let deadline = tokio::time::Instant::now() + self.writes.mean().min(MAX_GATHERING);
            connection.gather(question, || self.writes.count(), deadline).await;
        }
        let event = connection.begin();
        let sample = if state.asked_after(event) {
            // Another caller's question, which these would have shared.
            state.latest.filter(|latest| Some(latest.began) > event)
        } else if question.receiver_count() > 0 {
            connection.token_probes.fetch_add(1, Ordering::Relaxed);
            node.server.metrics.asked_for_token();
            self.ask_position_or_all(node, &mut state).await
        } else {
            None
        };
        drop(state);
        if let Some(sample) = sample {
            question.send_replace(Some(sample));
            if let (Role::Primary, true, Some(position)) =
                (sample.role, is_primary, sample.position())
            {
                self.follow(position);
            }
        }
    }
}
