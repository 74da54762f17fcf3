//! The monitor: asks each node how it is, and publishes what all answers together say.
//!
//! One loop a node, over the node's probe connection. The same connections serve tokens: a write needs
//! the primary's position *after* its commit, and all who wait for one share a sample.
//!
//! - here: the loops, and what an answer changes
//! - `asking`, `probe`: one question to one node, and its SQL
//! - `positions`, `writes`: positions for tokens, and the writes that they wait for
//! - `catalogue`: what the server says about functions and views
//! - `state`: what is published

mod asking;
mod catalogue;
mod positions;
mod probe;
mod state;
mod writes;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::state::place;
pub(crate) use self::state::{ClusterState, Nodes};
pub(crate) use self::writes::WriteUnderWay;
use self::writes::WritesUnderWay;
use crate::config::RoutingConfig;
use crate::error::UnknownNode;
use crate::node::{EndReason, Node, Server, Watcher};
use crate::router::{Change, Exclusion, Role, Snapshot, Topology, Transition};
use crate::sql::Classifier;

/// Two probes of a node are this far apart at least, however much happens.
const MIN_PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How often `open` asks again what the first probes have left open, and after which pause. A primary
/// writes its log out within 200 ms by default (`wal_writer_delay`), and only then a replica can have
/// all of it.
const MAX_FIRST_ROUNDS: u32 = 3;
const FIRST_ROUND_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Monitor {
    pub(crate) config: RoutingConfig,
    classifier: Arc<Classifier>,
    known: Mutex<Known>,
    state: ArcSwap<ClusterState>,
    /// Told of each new state, and of the end.
    changed: Notify,
    /// `Some` from `start` until `stop`. Dropped, it ends the loops.
    running: ArcSwapOption<Run>,
    catalogue_wanted: Arc<Notify>,
    /// When the catalogue of an engine of one node was read last, and whether that went well.
    catalogue_read: tokio::sync::Mutex<Option<(Instant, bool)>>,
    writes: Arc<WritesUnderWay>,
}

/// The nodes, and what is known of them, in the same order.
struct Known {
    nodes: Nodes,
    topology: Topology,
}

struct Run {
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Monitor {
    /// Over these nodes, the main one first. Nothing runs yet.
    pub(crate) fn new(
        nodes: Vec<Arc<Node>>,
        config: RoutingConfig,
        classifier: Arc<Classifier>,
        catalogue_wanted: Arc<Notify>,
    ) -> Arc<Self> {
        let nodes: Nodes = nodes.into();
        let topology = new_topology(nodes.len(), &config);
        let state =
            ClusterState { nodes: Arc::clone(&nodes), snapshot: Snapshot::unknown(nodes.len()) };
        let monitor = Arc::new(Self {
            known: Mutex::new(Known { nodes: Arc::clone(&nodes), topology }),
            state: ArcSwap::from_pointee(state),
            changed: Notify::new(),
            classifier,
            config,
            running: ArcSwapOption::empty(),
            catalogue_wanted,
            catalogue_read: tokio::sync::Mutex::default(),
            writes: Arc::default(),
        });
        monitor.watch_servers(&nodes);
        monitor
    }

    fn watch_servers(self: &Arc<Self>, nodes: &[Arc<Node>]) {
        for node in nodes {
            let monitor: Weak<Self> = Arc::downgrade(self);
            node.server.watched_by(monitor);
        }
    }

    /// Asks every node once, reads the catalogue, and goes on asking until [`stop`](Self::stop), or
    /// until what this returns is dropped without [`keep`](Started::keep).
    pub(crate) async fn start(self: &Arc<Self>) -> Started {
        let nodes = {
            let mut known = self.known.lock();
            known.topology.restart();
            Arc::clone(&known.nodes)
        };
        self.publish();
        let stop = CancellationToken::new();
        let run = Run { stop: stop.clone(), _stop: stop.clone().drop_guard() };
        self.running.store(Some(Arc::new(run)));
        let started = Started { monitor: Arc::clone(self), is_kept: false };
        // The main node first, since its system is the cluster's.
        self.probe(&nodes[0]).await;
        self.probe_all(&nodes[1..]).await;
        self.probe_undecided(&nodes).await;
        let next = self.read_catalogue().await;
        nodes.iter().for_each(|node| self.keep_probing(node));
        let reading = self.keep_reading_catalogue(next);
        nodes[0].spawn(async move {
            stop.run_until_cancelled(reading).await;
        });
        started
    }

    async fn probe_all(&self, nodes: impl IntoIterator<Item = &Arc<Node>>) {
        let probes = nodes.into_iter().map(|node| self.probe(node));
        futures_util::future::join_all(probes).await;
    }

    /// Asks those nodes again whose first probe has not decided whether they can be used: they answered
    /// `open` and not the probe, or are replicas that had not replayed all of the primary's log.
    async fn probe_undecided(&self, nodes: &[Arc<Node>]) {
        for _ in 0..MAX_FIRST_ROUNDS {
            let state = self.state().clone();
            let is_undecided = |node: &&Arc<Node>| {
                state.view(node).is_some_and(|view| match view.role {
                    Role::Unknown => node.server.role() != Role::Unknown,
                    _ => view.is_usable_replica() && view.fresh_as_of.is_none(),
                })
            };
            let undecided: Vec<_> = nodes.iter().filter(is_undecided).collect();
            if undecided.is_empty() {
                break;
            }
            tokio::time::sleep(FIRST_ROUND_PAUSE).await;
            self.probe_all(undecided).await;
        }
    }

    /// Probes the node from now on, until it leaves or the monitor stops.
    fn keep_probing(self: &Arc<Self>, node: &Arc<Node>) {
        let Some(run) = self.running.load_full() else { return };
        let (stop, left) = (run.stop.clone(), node.left.clone());
        let probing = probe_again_and_again(Arc::downgrade(self), Arc::downgrade(node));
        node.spawn(async move {
            stop.run_until_cancelled(left.run_until_cancelled(probing)).await;
        });
    }

    /// Replaces the nodes, the main one first. If the monitor runs, those that are new are probed
    /// before this returns, and from then on.
    pub(crate) async fn replace(self: &Arc<Self>, nodes: Vec<Arc<Node>>) {
        let before = {
            let mut known = self.known.lock();
            let kept: Vec<_> = nodes.iter().map(|node| place(&known.nodes, node)).collect();
            known.topology.replace(&kept, Instant::now());
            std::mem::replace(&mut known.nodes, nodes.clone().into())
        };
        let new: Vec<_> = nodes.into_iter().filter(|node| place(&before, node).is_none()).collect();
        self.watch_servers(&new);
        self.publish();
        if self.is_running() {
            if before.len() == 1 {
                // Replicas are compared with what the primary has from now on.
                self.probe(&before[0]).await;
            }
            self.probe_all(&new).await;
            self.probe_undecided(&new).await;
            new.iter().for_each(|node| self.keep_probing(node));
        }
    }

    /// Ends the loops and closes their connections.
    pub(crate) async fn stop(&self) {
        self.running.store(None);
        self.changed.notify_waiters();
        let nodes = self.nodes();
        let closing = nodes.iter().map(|node| node.probe_connection.close());
        futures_util::future::join_all(closing).await;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.load().is_some()
    }

    /// Whether statements are routed: there is more than one node, and the monitor runs.
    pub(crate) fn routes(&self) -> bool {
        self.has_replicas() && self.is_running()
    }

    /// Whether there is more than one node.
    pub(crate) fn has_replicas(&self) -> bool {
        self.state.load().nodes.len() > 1
    }

    pub(crate) fn state(&self) -> arc_swap::Guard<Arc<ClusterState>> {
        self.state.load()
    }

    pub(crate) fn nodes(&self) -> Nodes {
        Arc::clone(&self.state.load().nodes)
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &str) -> Result<Arc<Node>, UnknownNode> {
        let named = self.nodes().iter().find(|node| **node.name() == *name).cloned();
        named.ok_or_else(|| self.unknown(name))
    }

    /// That there is no node of this name, and which there are.
    pub(crate) fn unknown(&self, name: &str) -> UnknownNode {
        let known = self.nodes().iter().map(|node| node.name().to_string()).collect();
        UnknownNode { name: name.to_owned(), known }
    }

    /// Ready when a state is published after this call, and when the monitor stops.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// A write begins; it is over when what this returns is dropped.
    pub(crate) fn write_begins(&self) -> WriteUnderWay {
        self.writes.begin()
    }

    /// Has the catalogue read again soon, because the schema may have changed.
    pub(crate) fn request_catalogue(&self) {
        self.catalogue_wanted.notify_one();
    }

    /// Has all nodes probed at once, because something speaks against what is known of them.
    pub(crate) fn suspect_all(&self) {
        self.state().nodes.iter().for_each(|node| node.probe_connection.suspect());
    }

    /// What the topology says of a node, by its number there; `None` if it has left.
    pub(crate) fn known<T>(
        &self,
        node: &Arc<Node>,
        look: impl FnOnce(&mut Topology, usize) -> T,
    ) -> Option<T> {
        let mut known = self.known.lock();
        let number = place(&known.nodes, node)?;
        Some(look(&mut known.topology, number))
    }

    /// Carries out what a probe's outcome changed: `role` is what the node answered, `error` why it did
    /// not.
    fn apply(
        &self,
        node: &Arc<Node>,
        change: Change,
        role: Option<Role>,
        error: Option<&sqlx::Error>,
    ) {
        if let Some(role) = role {
            // Before the state is published, so that nobody gets a session of the role before.
            node.set_role(role);
        }
        let name = node.name();
        if change.new_server {
            tracing::info!(node = %name, "another server answers under this name, or it was restarted");
            node.renew();
        }
        self.publish();
        match change.transition {
            Some(Transition::WentDown) => {
                let error = error.map(ToString::to_string).unwrap_or_default();
                tracing::warn!(node = %name, %error, "the node is down");
                node.server.set_trouble(Some(error));
                node.end(EndReason::Down);
            }
            Some(Transition::WentUp) => {
                tracing::info!(node = %name, ?role, "the node is up");
                node.server.set_trouble(None);
            }
            None => {}
        }
    }

    fn publish(&self) {
        let (old, new) = {
            // Locked until the swap, so that an older state cannot replace a newer one.
            let known = self.known.lock();
            let (nodes, snapshot) = (Arc::clone(&known.nodes), known.topology.snapshot());
            let new = Arc::new(ClusterState { nodes, snapshot });
            (self.state.swap(Arc::clone(&new)), new)
        };
        for (node, view) in new.nodes.iter().zip(&new.snapshot.nodes) {
            let before = old.view(node).and_then(|view| view.excluded.as_ref());
            if before != view.excluded.as_ref() {
                log_exclusion(node, view.excluded.as_ref().map(|why| new.describe(why)));
            }
        }
        if let Some(primary) = new.primary()
            && old.primary().is_none_or(|before| !Arc::ptr_eq(before, primary))
        {
            tracing::info!(node = %primary.name(), "the node is the primary");
            end_superseded(&old, &new, primary);
        }
        self.changed.notify_waiters();
    }
}

/// Ends what runs on the primary before this one. It may be down already and still answer, and what it
/// acknowledges from now on is lost.
fn end_superseded(old: &ClusterState, new: &ClusterState, primary: &Arc<Node>) {
    let before = old.writer();
    let excluded = new.view(before).and_then(|view| view.excluded.as_ref());
    // Two names of one server: the primary has only been found under the other one.
    let is_same_server = matches!(excluded, Some(Exclusion::SameServer(_)));
    let was_primary = old.snapshot.nodes[old.snapshot.writer].role == Role::Primary;
    if was_primary && !is_same_server && !Arc::ptr_eq(before, primary) {
        before.end(EndReason::Superseded);
    }
}

fn log_exclusion(node: &Node, reason: Option<String>) {
    let node = node.name();
    match reason {
        Some(reason) => tracing::warn!(%node, "node `{node}` is not used for reads: {reason}"),
        None => tracing::info!(%node, "nothing keeps the node out of the rotation any more"),
    }
}

impl Watcher for Monitor {
    fn is_running(&self) -> bool {
        Monitor::is_running(self)
    }

    fn connected<'a>(&'a self, server: &'a Arc<Server>, started: i64) -> BoxFuture<'a, ()> {
        Box::pin(self.check_server(server, started))
    }
}

/// A monitor that was started, and stops when this is dropped without [`keep`](Self::keep).
pub(crate) struct Started {
    monitor: Arc<Monitor>,
    is_kept: bool,
}

impl Started {
    /// Has it run until [`Monitor::stop`].
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.is_kept {
            self.monitor.running.store(None);
            self.monitor.changed.notify_waiters();
            // A question under way does not put its connection back, since nothing runs any more.
            self.monitor.nodes().iter().for_each(|node| node.probe_connection.hang_up());
        }
    }
}

fn new_topology(nodes: usize, config: &RoutingConfig) -> Topology {
    Topology::new(nodes, config.failures_to_down, config.answers_to_up, config.max_lag)
}

/// The loop of one node. While it waits it keeps neither the monitor nor the node alive.
async fn probe_again_and_again(monitor: Weak<Monitor>, node: Weak<Node>) {
    let both = || Some((monitor.upgrade()?, node.upgrade()?));
    let mut is_suspect = false;
    loop {
        let Some((monitor, node)) = both() else { return };
        let (interval, wake) =
            (monitor.config.probe_interval, Arc::clone(&node.probe_connection.wake));
        drop((monitor, node));
        // A little sooner, by chance, so that many instances do not ask in step. One that failed is
        // asked again at once, so that it is soon known.
        let share = if is_suspect { 0.0 } else { 0.8 + fastrand::f64() * 0.1 };
        let _ = tokio::time::timeout(interval.mul_f64(share), wake.notified()).await;
        let began = Instant::now();
        let Some((monitor, node)) = both() else { return };
        monitor.probe(&node).await;
        is_suspect =
            monitor.known(&node, |topology, number| topology.is_suspect(number)) == Some(true);
        drop((monitor, node));
        tokio::time::sleep(MIN_PROBE_PAUSE.saturating_sub(began.elapsed())).await;
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("state", &*self.state()).finish_non_exhaustive()
    }
}
