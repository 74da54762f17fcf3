//! Server selection: which node an attempt goes to, and whether the node still fits once there is a
//! connection to it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::Dispatch;
use super::budget::Waited;
use super::retry::Retry;
use crate::config::{Fallback, RoutingMode};
use crate::error::{Error, UnknownNode};
use crate::lease::{Lease, Tracking};
use crate::monitor::{ClusterState, EventKind, Monitor};
use crate::node::{Demand, Node};
use crate::router::{
    Access, Consistency, Decision, Exclusion, Floor, Load, NodeView, Reason, Request, Target,
    route, route_stale,
};

/// The node that was selected for an attempt, with the state and the request that led to it.
pub(super) struct Selection {
    state: Arc<ClusterState>,
    request: Request,
    pub(super) decision: Decision,
    /// The permit for a read that the primary serves because no replica can.
    pub(super) fallback_permit: Option<OwnedSemaphorePermit>,
}

impl Selection {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.state.nodes[self.decision.node]
    }

    pub(super) fn view(&self) -> &NodeView {
        &self.state.snapshot.nodes[self.decision.node]
    }

    /// Whether the statement needs a primary while there is none.
    pub(super) fn needs_primary(&self) -> bool {
        self.decision.as_writer && !self.state.snapshot.takes_writes()
    }

    /// Leases a connection to the node, if nothing has to be waited for and nothing has changed.
    pub(super) fn checkout_warm(&self, monitor: &Monitor, demand: &Demand) -> Option<Lease> {
        if self.needs_primary() || self.decision.reason.is_fallback() {
            return None;
        }
        let lease = Lease::warm(self.node(), demand)?;
        Arc::ptr_eq(&monitor.state(), &self.state).then_some(lease)
    }

    /// Leases a connection to the node. Returns `None` if the node no longer fits: it changed its
    /// role, was replaced, went down or left.
    pub(super) async fn checkout(
        &self,
        monitor: &Monitor,
        demand: &Demand,
    ) -> Result<Option<Lease>, sqlx::Error> {
        let node = self.node();
        let is_named = matches!(self.request.target, Target::Node(_));
        // Who names a node waits for that one, also while it is down.
        let is_up = || is_named || monitor.state().view(node).is_some_and(|view| view.up);
        let lease = Lease::checkout(node, demand, is_up).await;
        let now = monitor.state();
        let number = now.number(node);
        let may_reselect = match &lease {
            Ok(_) => true,
            Err(error) => {
                let is_down = matches!(Error::of(error), Some(Error::NodeDown { sent: false, .. }));
                number.is_none() || is_down
            }
        };
        let still_fits = number.is_some_and(|number| is_named || self.still_fits(&now, number));
        if may_reselect && !still_fits { Ok(None) } else { lease.map(Some) }
    }

    /// Whether the node can still serve what it was selected for. `number` is the node's number in
    /// the new state.
    fn still_fits(&self, now: &ClusterState, number: usize) -> bool {
        let snapshot = &now.snapshot;
        if self.decision.as_writer {
            return snapshot.writer == number && snapshot.takes_writes();
        }
        let view = &snapshot.nodes[number];
        // The floor speaks of nodes by their numbers in the snapshot that it was made from.
        view.is_usable_replica()
            && view.incarnation == self.view().incarnation
            && self.request.floor.admits(self.decision.node, view)
    }

    /// What the lease has to report to the session about statements on this node.
    pub(super) fn tracking(&self, level: Consistency, retry: &mut Retry) -> Tracking {
        let Self { decision, state, .. } = self;
        let excluded = self.view().excluded.as_ref();
        // A position of another cluster cannot be compared with those of this one, so reads there
        // are not remembered.
        let is_foreign =
            matches!(excluded, Some(Exclusion::OtherSystem(_) | Exclusion::SeveralServers));
        let is_named = decision.reason == Reason::NamedNode;
        let is_writer = decision.as_writer || (is_named && decision.node == state.snapshot.writer);
        let remembers_reads = !is_foreign && level == Consistency::Session;
        let tracking = Tracking::new(self.view().incarnation, is_writer, remembers_reads);
        tracking.for_write(retry.write_under_way.take(), retry.was_refused)
    }
}

impl Dispatch {
    /// The number of a node that the handle names. If that node left the engine, it is the number
    /// of the node that took over its name.
    fn number_of(&self, node: &Arc<Node>, state: &ClusterState) -> Result<usize, UnknownNode> {
        let successor = || state.nodes.iter().position(|other| other.name() == node.name());
        let number = state.number(node).or_else(successor);
        number.ok_or_else(|| self.monitor().unknown(node.name()))
    }

    /// Selects the node for an attempt, from this state of the cluster.
    pub(super) fn select(
        &self,
        access: Access,
        retry: &Retry,
        state: Arc<ClusterState>,
    ) -> Result<Selection, UnknownNode> {
        let target = self.target.try_map(|node| self.number_of(node, &state))?;
        let config = &self.monitor().config;
        let now = Instant::now();
        let floor = match (access, target) {
            (Access::Read, Target::Auto) | (_, Target::Replica) => {
                self.session.floor(self.effective_consistency(), &state.snapshot, now)
            }
            _ => Floor::None,
        };
        let request = Request {
            access,
            target,
            floor,
            excluded: retry.excluded_in(&state.snapshot),
            now,
            max_lag: config.max_lag,
            slow_start: config.slow_start,
        };
        let decision = decide(config.mode, &request, retry, &state);
        Ok(Selection { state, request, decision, fallback_permit: None })
    }

    /// Waits until the monitor publishes a change, while the statement needs a primary and there is
    /// none. All such waits of a statement together take at most `failover_timeout`.
    pub(super) async fn wait_for_primary(
        &self,
        access: Access,
        retry: &mut Retry,
    ) -> Result<(), sqlx::Error> {
        let monitor = self.monitor();
        // Subscribe before the state is read; a change in between would be missed otherwise.
        let changed = monitor.changed();
        if !self.select(access, retry, monitor.state().clone())?.needs_primary() {
            return Ok(());
        }
        let writer = self.writer();
        if !retry.has_waited() {
            let text = "a statement waits, since no node takes writes";
            monitor.history.record(EventKind::Waited, &writer, text);
        }
        let left = monitor.config.failover_timeout.saturating_sub(retry.waited());
        // If the monitor stopped before we subscribed, its last notification is gone, so ask
        // `is_running` first.
        let has_changed = monitor.is_running() && tokio::time::timeout(left, changed).await.is_ok();
        if !monitor.is_running() {
            return Err(Error::Closed { node: writer.name().to_string() }.into());
        }
        if has_changed {
            return Ok(());
        }
        let nodes = monitor.state().describe_nodes();
        Err(Error::NoPrimary { waited: retry.waited(), nodes }.into())
    }

    /// For a read that must see more than any replica is known to have: has one of them asked how far
    /// it is by now, where that is worth it, and waits for the answer if `token_wait` allows.
    ///
    /// Returns whether more may be known now, so that a node has to be selected anew.
    async fn replay_may_have_reached(&self, retry: &mut Retry, selection: &Selection) -> bool {
        let Selection { state, request, .. } = selection;
        let monitor = self.monitor();
        let until = retry.may_wait_until(monitor.config.token_wait);
        // Subscribe before asking; the answer could be missed otherwise.
        let changed = monitor.changed();
        let look_again = monitor.ask_for_read(state, request, until);
        let Some(look_again) = look_again.filter(|_| Instant::now() < until) else { return false };
        // What was published before we subscribed, and the end of a monitor that has stopped, wake nobody.
        if monitor.is_running() && Arc::ptr_eq(&monitor.state(), state) {
            let _ = tokio::time::timeout_at(look_again.into(), changed).await;
        }
        true
    }

    /// The primary is to serve a read in place of the replicas: takes a permit of the fallback
    /// budget. If there is none left, follows `fallback` of the configuration: goes to a lagging
    /// replica, waits, or fails. Before that, a read that is only ahead of the replicas may wait for
    /// them.
    ///
    /// Returns `false` if a replica can serve the read by now, so that a node has to be selected
    /// anew.
    pub(super) async fn admit_fallback(
        &self,
        access: Access,
        retry: &mut Retry,
        selection: &mut Selection,
    ) -> Result<bool, sqlx::Error> {
        if selection.decision.reason == Reason::FloorAhead
            && self.replay_may_have_reached(retry, selection).await
        {
            return Ok(false);
        }
        let Selection { state, request, decision, .. } = selection;
        let (monitor, budget) = (self.monitor(), &self.context().budget);
        // A token of a later timeline than the primary's: ask the nodes now who is the primary.
        if decision.reason == Reason::ForeignToken
            && self.session.knows_of_a_promotion(&state.snapshot)
        {
            monitor.suspect_all();
        }
        selection.fallback_permit = budget.try_acquire();
        if selection.fallback_permit.is_some() {
            return Ok(true);
        }
        let policy = monitor.config.fallback;
        if policy == Fallback::Stale {
            let load = |number| load(state, number);
            if let Some(stale) = route_stale(request, &state.snapshot, load, fastrand::u64(..)) {
                *decision = stale;
                return Ok(true);
            }
        }
        let node = &state.nodes[decision.node];
        let started = Instant::now();
        if policy != Fallback::Refuse {
            let is_needed = || {
                let now = self.select(access, retry, monitor.state().clone());
                now.is_ok_and(|selection| selection.decision.reason.is_fallback())
            };
            let timeout = self.demand.acquire_timeout().unwrap_or(node.acquire_timeout());
            match budget.acquire(timeout, monitor, is_needed).await {
                Waited::Permit(permit) => {
                    selection.fallback_permit = Some(permit);
                    return Ok(true);
                }
                Waited::NotNeeded => return Ok(false),
                Waited::InVain => {}
            }
        }
        let node = node.name().to_string();
        if monitor.is_running() {
            Err(Error::Overloaded { node, waited: started.elapsed() }.into())
        } else {
            Err(Error::Closed { node }.into())
        }
    }
}

/// The router's decision, unless the configuration or the attempts so far leave it no choice.
fn decide(mode: RoutingMode, request: &Request, retry: &Retry, state: &ClusterState) -> Decision {
    let snapshot = &state.snapshot;
    let is_read = request.access == Access::Read;
    if is_read && request.target == Target::Auto && mode == RoutingMode::Primary {
        return Decision::writer(snapshot, Reason::PrimaryMode);
    }
    let decision = route(request, snapshot, |number| load(state, number), fastrand::u64(..));
    // The last retry of a read goes to the primary, since replay cannot cancel it there. The reason
    // makes it count against the fallback budget; reported is `Retried`.
    let is_last_retry = is_read && retry.cause == Some(Reason::Retried) && retry.retries_left == 0;
    let has_primary = snapshot.primary.is_some_and(|primary| !request.excluded.contains(primary));
    if is_last_retry && has_primary && !decision.as_writer {
        return Decision::writer(snapshot, Reason::NoReplica);
    }
    decision
}

/// What the node carries at the moment.
fn load(state: &ClusterState, number: usize) -> Load {
    let gauges = &state.nodes[number].gauges;
    Load::new(gauges.in_flight(), gauges.latency_us())
}
