//! Asks replicas how far they have replayed, because of reads.
//!
//! What is known of replicas is as old as the probes, and most replay within milliseconds. So a read
//! that must see more than any replica is known to have has one asked. The answer is published, and
//! all reads profit. So that this costs little, however many reads there are:
//!
//! - Replicas are asked in turn, at most `position_rate` times a second. All who need a position at
//!   the time share the question that is under way.
//! - A replica is asked when it has probably replayed what the read must see, by the time that it
//!   took lately: see [`Topology::replays_by`](crate::router::Topology::replays_by).
//! - If a read needed a position lately, a replica is also asked soon after a token was made, so that
//!   the next request of that client finds the position known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ClusterState, Monitor};
use crate::node::Node;
use crate::router::{Access, Floor, Position, Request, Target};

/// How long the replay of a token's position may take for it to be followed. If it takes longer, the
/// probes and the reads themselves find out soon enough.
const MAX_FOLLOWED_REPLAY: Duration = Duration::from_millis(100);

impl Monitor {
    /// For a read whose floor is ahead of what is known of the replicas, and that may wait until then:
    /// has one of them asked, if that is worth it now.
    ///
    /// Returns when to look again, unless a new state is published before. Returns `None` if no replica
    /// can be known to have what the read must see by `until`.
    pub(crate) fn ask_for_read(
        self: &Arc<Self>,
        state: &ClusterState,
        request: &Request,
        until: Instant,
    ) -> Option<Instant> {
        self.questions.are_needed(Instant::now());
        self.ask_a_replica(state, request, until)
    }

    /// See [`ask_for_read`](Self::ask_for_read).
    fn ask_a_replica(
        self: &Arc<Self>,
        state: &ClusterState,
        request: &Request,
        until: Instant,
    ) -> Option<Instant> {
        let now = Instant::now();
        let until = until.max(now);
        let (next, asked) = self.questions.next(now)?;
        if until < next && until == now {
            return None;
        }
        let mut is_under_way = false;
        let mut best: Option<(Instant, usize, usize)> = None;
        for (number, (node, view)) in state.nodes.iter().zip(&state.snapshot.nodes).enumerate() {
            let Some(position) = request.floor.position_for(number) else { continue };
            if !view.in_rotation(now, request.max_lag) || request.excluded.contains(number) {
                continue;
            }
            if node.probe_connection.is_asked.load(Ordering::Relaxed) {
                is_under_way = true;
                continue;
            }
            let replays_by =
                self.known(node, |topology, number| topology.replays_by(number, position.lsn));
            let Some(replays_by) = replays_by.flatten() else { continue };
            // Of those that are due, the one that follows the one that was asked last.
            let count = state.nodes.len();
            let turn = (number + count - 1 - asked % count) % count;
            let this = (replays_by.max(next), turn, number);
            best = Some(best.map_or(this, |best| best.min(this)));
        }
        let Some((at, _, number)) = best.filter(|(at, ..)| *at <= until) else {
            return is_under_way.then_some(until);
        };
        if at > now {
            return Some(at);
        }
        // Someone else may have begun a question since.
        let next = self.questions.begin(number, now);
        if next.is_some() {
            self.spawn_question(&state.nodes[number], now);
        }
        Some(next.map_or(until, |next| next.min(until)))
    }

    /// Asks the replica in a task of its own, unless it answers another question meanwhile.
    fn spawn_question(self: &Arc<Self>, node: &Arc<Node>, now: Instant) {
        let Some(run) = self.running.load_full() else { return };
        let stop = run.stop.clone();
        let (monitor, asked) = (Arc::clone(self), Asked::new(node));
        node.spawn(async move {
            let node = &asked.0;
            let asking = async {
                let mut state = node.probe_connection.lock().await;
                let is_over = |began: Instant| began > now;
                if !state.latest.is_some_and(|latest| is_over(latest.began))
                    && !state.unanswered.is_some_and(is_over)
                {
                    node.probe_connection.position_probes.fetch_add(1, Ordering::Relaxed);
                    node.server.metrics.asked_for_read();
                    monitor.ask_position_or_all(node, &mut state).await;
                }
            };
            stop.run_until_cancelled(asking).await;
        });
    }

    /// A token was made for this position of the primary. If a read needed a position lately, has
    /// replicas asked until one has replayed this one, so that the reads which bring the token find it
    /// known.
    pub(super) fn follow(self: &Arc<Self>, token: Position) {
        let Some(run) = self.running.load_full() else { return };
        if self.questions.follow(token, Instant::now()) {
            let stop = run.stop.clone();
            let following = Following { monitor: Arc::clone(self), has_ended: false };
            self.nodes()[0].spawn(async move {
                stop.run_until_cancelled(following.run()).await;
            });
        }
    }

    /// As [`ask_for_read`](Self::ask_for_read), for reads that will bring this token. Returns `None` also
    /// if a replica could serve them already.
    fn ask_for_token(self: &Arc<Self>, state: &ClusterState, token: Position) -> Option<Instant> {
        let (now, max_lag) = (Instant::now(), self.config.max_lag);
        let floor = Floor::At(token);
        let mut nodes = state.snapshot.nodes.iter().enumerate();
        if nodes.any(|(number, view)| view.in_rotation(now, max_lag) && floor.admits(number, view))
        {
            return None;
        }
        let request = Request { max_lag, ..Request::new(Access::Read, Target::Auto, floor, now) };
        self.ask_a_replica(state, &request, now + MAX_FOLLOWED_REPLAY)
    }
}

/// A replica that is asked because of a read, until this is dropped.
struct Asked(Arc<Node>);

impl Asked {
    fn new(node: &Arc<Node>) -> Self {
        node.probe_connection.is_asked.store(true, Ordering::Relaxed);
        Self(Arc::clone(node))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.probe_connection.is_asked.store(false, Ordering::Relaxed);
    }
}

/// The task that waits for a replica to reach the position of the latest token. There is one at most.
struct Following {
    monitor: Arc<Monitor>,
    has_ended: bool,
}

impl Following {
    /// Has replicas asked until one is known to have the position, or until that would take too long.
    /// Goes on with those of later tokens.
    async fn run(mut self) {
        let monitor = Arc::clone(&self.monitor);
        while let Some(token) = monitor.questions.followed() {
            // Subscribe before the state is read; a change in between would be missed otherwise.
            let changed = monitor.changed();
            let state = monitor.state().clone();
            if let Some(look_again) = monitor.ask_for_token(&state, token) {
                let _ = tokio::time::timeout_at(look_again.into(), changed).await;
            } else if monitor.questions.stop_following(token).is_none() {
                // Another task may have begun to follow a token already.
                self.has_ended = true;
                return;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if !self.has_ended {
            self.monitor.questions.stop_following_all();
        }
    }
}
