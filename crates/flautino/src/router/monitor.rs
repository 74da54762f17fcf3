//! The monitor: asks each node how it is, and publishes what all answers together say.
//!
//! One loop a node, on a connection of its own with a deadline of its own, so that neither a full
//! pool nor a hanging node passes for something else. The same connections serve tokens: a write
//! needs the primary's position *after* its commit, and all who wait for one share a sample.

mod catalogue;
mod line;
mod probe;
mod standing;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::line::Writes;
pub(crate) use self::line::{Line, Writing};
pub(crate) use self::standing::Standing;
use super::health::Transition;
use super::topology::{Change, Topology};
use super::{Access, Classifier, Exclusion, Plan, Snapshot};
use crate::config::RoutingConfig;
use crate::node::{Node, Role};
use crate::pool::EndReason;

/// Two probes of a node are this far apart at least, however much happens.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// How often at most, and after which pause, `open` asks nodes again that answered it before and not
/// the first probe, and replicas that have not replayed what the primary had: it writes its log out
/// within 200 ms by default (`wal_writer_delay`).
const FIRST_ROUNDS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Monitor {
    pub(crate) config: RoutingConfig,
    classifier: Arc<Classifier>,
    state: Mutex<State>,
    picture: ArcSwap<Picture>,
    /// Told of each new picture, and of the end.
    news: Notify,
    /// `Some` from `start` until it is dropped by `stop`.
    running: ArcSwapOption<Run>,
    catalogue_wanted: Arc<Notify>,
    /// When it was read last, where there is one node only, and whether that went well.
    catalogue_read: tokio::sync::Mutex<Option<(Instant, bool)>>,
    writes: Writes,
}

/// An engine's nodes, the main one first.
pub(crate) type Nodes = Arc<[Arc<Node>]>;

/// The nodes, and what is known of them. A node's number is its place in both, until they change.
struct State {
    nodes: Nodes,
    topology: Topology,
}

/// A snapshot, and the nodes that it speaks of, in the same order.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) servers: Nodes,
    snapshot: Snapshot,
}

struct Run {
    stop: CancellationToken,
    _stop: DropGuard,
    /// Connections of the primary that reads may take which no replica could serve.
    budget: Arc<Semaphore>,
}

impl Deref for Picture {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Picture {
    /// The node's number, if it is there.
    pub(crate) fn number(&self, node: &Arc<Node>) -> Option<usize> {
        place(&self.servers, node)
    }

    /// Whether that node is where writes go.
    pub(crate) fn is_writer(&self, node: &Arc<Node>) -> bool {
        Arc::ptr_eq(&self.servers[self.writer], node)
    }

    pub(crate) fn primary_node(&self) -> Option<&Arc<Node>> {
        self.primary.map(|number| &self.servers[number])
    }
}

fn place(nodes: &[Arc<Node>], node: &Arc<Node>) -> Option<usize> {
    nodes.iter().position(|other| Arc::ptr_eq(other, node))
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
        let picture =
            Picture { servers: Arc::clone(&nodes), snapshot: Snapshot::unknown(nodes.len()) };
        let monitor = Arc::new(Self {
            state: Mutex::new(State { nodes: Arc::clone(&nodes), topology }),
            picture: ArcSwap::from_pointee(picture),
            news: Notify::new(),
            classifier,
            config,
            running: ArcSwapOption::empty(),
            catalogue_wanted,
            catalogue_read: tokio::sync::Mutex::default(),
            writes: Writes::default(),
        });
        nodes.iter().for_each(|node| node.watched_by(Arc::downgrade(&monitor)));
        monitor
    }

    /// Asks every node once, reads the catalogue, and goes on asking until the answer is dropped.
    /// `connections` is how many the primary's pool may have.
    pub(crate) async fn start(self: &Arc<Self>, connections: u32) -> Started {
        let nodes = {
            let mut state = self.lock_state();
            let nodes = Arc::clone(&state.nodes);
            state.topology.restart();
            nodes
        };
        self.publish();
        let stop = CancellationToken::new();
        let share = f64::from(connections) * self.config.fallback_share;
        // The most that are not above the share, and one at least.
        let permits = (1..=connections).take_while(|count| f64::from(*count) <= share).count();
        let run = Run {
            stop: stop.clone(),
            _stop: stop.clone().drop_guard(),
            budget: Arc::new(Semaphore::new(permits.max(1))),
        };
        self.running.store(Some(Arc::new(run)));
        let started = Started { monitor: Arc::clone(self), keep: false };
        // The main node first, since its system is the cluster's.
        self.probe(&nodes[0]).await;
        self.probe_all(&nodes[1..]).await;
        self.settle(&nodes).await;
        let next = self.read_catalogue().await;
        nodes.iter().for_each(|node| self.watch(node));
        let (monitor, wanted) = (Arc::downgrade(self), Arc::clone(&self.catalogue_wanted));
        nodes[0].spawn(async move {
            stop.run_until_cancelled(catalogue::keep(monitor, wanted, next)).await;
        });
        started
    }

    async fn probe_all(&self, nodes: impl IntoIterator<Item = &Arc<Node>>) {
        let probes = nodes.into_iter().map(|node| self.probe(node));
        futures_util::future::join_all(probes).await;
    }

    /// Asks nodes again whose first probe has left open what they are good for.
    async fn settle(&self, nodes: &[Arc<Node>]) {
        for _ in 0..FIRST_ROUNDS {
            let picture = self.snapshot().clone();
            let is_open = |node: &&Arc<Node>| {
                let view = picture.number(node).map(|number| &picture.nodes[number]);
                view.is_some_and(|view| match view.role {
                    Role::Unknown => node.role() != Role::Unknown,
                    _ => view.is_usable_replica() && view.fresh_as_of.is_none(),
                })
            };
            let asked: Vec<_> = nodes.iter().filter(is_open).collect();
            if asked.is_empty() {
                break;
            }
            tokio::time::sleep(FIRST_PAUSE).await;
            self.probe_all(asked).await;
        }
    }

    /// Probes the node from now on, until it leaves or the monitor stops.
    fn watch(self: &Arc<Self>, node: &Arc<Node>) {
        let Some(run) = self.running.load_full() else { return };
        let (stop, left) = (run.stop.clone(), node.left.clone());
        let probing = probe_again_and_again(Arc::downgrade(self), Arc::downgrade(node));
        node.spawn(async move {
            stop.run_until_cancelled(left.run_until_cancelled(probing)).await;
        });
    }

    /// From now on there are these nodes, the main one first. Those that are new are asked once
    /// before they are used, and then watched, if the monitor runs.
    pub(crate) async fn replace(self: &Arc<Self>, nodes: Vec<Arc<Node>>) {
        let before = {
            let mut state = self.lock_state();
            let kept: Vec<_> = nodes.iter().map(|node| place(&state.nodes, node)).collect();
            state.topology.replace(&kept, Instant::now());
            std::mem::replace(&mut state.nodes, nodes.clone().into())
        };
        let new: Vec<_> = nodes.into_iter().filter(|node| place(&before, node).is_none()).collect();
        new.iter().for_each(|node| node.watched_by(Arc::downgrade(self)));
        self.publish();
        if self.is_running() {
            if before.len() == 1 {
                // How far it was before does not count.
                self.probe(&before[0]).await;
            }
            self.probe_all(&new).await;
            self.settle(&new).await;
            new.iter().for_each(|node| self.watch(node));
        }
    }

    /// Ends the loops and closes their connections.
    pub(crate) async fn stop(&self) {
        if let Some(run) = self.running.swap(None) {
            run.budget.close();
        }
        self.news.notify_waiters();
        let nodes = self.nodes();
        futures_util::future::join_all(nodes.iter().map(|node| node.line.close())).await;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.load().is_some()
    }

    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Picture>> {
        self.picture.load()
    }

    pub(crate) fn nodes(&self) -> Nodes {
        Arc::clone(&self.picture.load().servers)
    }

    /// Ready at the next snapshot after this call, and when the monitor stops.
    pub(crate) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    pub(crate) fn access(&self, plan: &Plan, sql: &str) -> Access {
        self.classifier.access(plan, sql)
    }

    /// Something speaks against what is known of all nodes.
    pub(crate) fn suspect_all(&self) {
        self.snapshot().servers.iter().for_each(|node| node.line.suspect());
    }

    /// The schema may have changed.
    pub(crate) fn schema_changed(&self) {
        self.catalogue_wanted.notify_one();
    }

    /// A connection of the primary for a read that no replica could serve, if one is left.
    pub(crate) fn try_budget(&self) -> Option<OwnedSemaphorePermit> {
        self.budget()?.try_acquire_owned().ok()
    }

    /// As [`try_budget`](Monitor::try_budget), and waits for it.
    pub(crate) async fn wait_budget(&self, timeout: Duration) -> Option<OwnedSemaphorePermit> {
        let permit = self.budget()?.acquire_owned();
        tokio::time::timeout(timeout, permit).await.ok()?.ok()
    }

    fn budget(&self) -> Option<Arc<Semaphore>> {
        self.running.load().as_ref().map(|run| Arc::clone(&run.budget))
    }

    fn apply(
        &self,
        node: &Arc<Node>,
        change: Change,
        error: Option<&sqlx::Error>,
        role: Option<Role>,
    ) {
        if let Some(role) = role {
            // Before anybody is sent there: sessions of another role are given up.
            node.set_role(role);
        }
        if change.new_server {
            tracing::info!(node = %node.name, "another server answers under this name, or it was restarted");
            node.renew();
        }
        self.publish();
        match change.transition {
            Some(Transition::WentDown) => {
                let error = error.map(ToString::to_string).unwrap_or_default();
                tracing::warn!(node = %node.name, %error, "the node is down");
                node.set_trouble(Some(error));
                node.end(EndReason::Down);
            }
            Some(Transition::WentUp) => {
                tracing::info!(node = %node.name, ?role, "the node is up");
                node.set_trouble(None);
            }
            None => {}
        }
    }

    fn publish(&self) {
        // The state stays locked, so that an older picture cannot replace a newer one.
        let state = self.lock_state();
        let servers = Arc::clone(&state.nodes);
        let new = Arc::new(Picture { servers, snapshot: state.topology.snapshot() });
        let old = self.picture.swap(Arc::clone(&new));
        drop(state);
        for (node, view) in new.servers.iter().zip(&new.nodes) {
            let before = old.number(node).and_then(|number| old.nodes[number].excluded.as_ref());
            if before != view.excluded.as_ref() {
                tell_exclusion(node, view.excluded.as_ref().map(|why| new.describe(why)));
            }
        }
        if let Some(primary) = new.primary_node()
            && old.primary_node().is_none_or(|before| !Arc::ptr_eq(before, primary))
        {
            tracing::info!(node = %primary.name, "the node is the primary");
            // The one before may be down already, and still be answering.
            let before = &old.servers[old.writer];
            let number = new.number(before);
            let excluded = number.and_then(|number| new.nodes[number].excluded.as_ref());
            // One server under two names is not its own successor.
            let is_twin = matches!(excluded, Some(Exclusion::SameServer(_)));
            let was_primary = old.nodes[old.writer].role == Role::Primary;
            if was_primary && !is_twin && !Arc::ptr_eq(before, primary) {
                before.end(EndReason::Superseded);
            }
        }
        self.news.notify_waiters();
    }

    /// A new connection of the node's pool was answered by the server that started then. Looks
    /// whether that is the one that the monitor speaks with.
    pub(crate) async fn met(&self, node: &Arc<Node>, started: i64) {
        let picture = self.snapshot().clone();
        let Some(number) = picture.number(node) else { return };
        if picture.nodes[number].excluded == Some(Exclusion::SeveralServers) || !self.is_running() {
            return;
        }
        let known = self.with(node, |topology, number| topology.server(number)).flatten();
        if known.is_none_or(|known| known.started == started) {
            return;
        }
        // It was restarted, or there are two. A restart costs the probe its connection, so its first
        // answer may be none.
        for _ in 0..2 {
            match self.probe(node).await {
                Some(sample) if sample.server.started == started => return,
                Some(_) => {
                    self.with(node, Topology::leads_to_several);
                    return self.publish();
                }
                None => {}
            }
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, and the node's number in it; `None` for one that has left.
    fn with<T>(&self, node: &Arc<Node>, work: impl FnOnce(&mut Topology, usize) -> T) -> Option<T> {
        let mut state = self.lock_state();
        let number = place(&state.nodes, node)?;
        Some(work(&mut state.topology, number))
    }
}

fn tell_exclusion(node: &Node, reason: Option<String>) {
    let node = &node.name;
    match reason {
        Some(reason) => tracing::warn!(%node, "node `{node}` is not used for reads: {reason}"),
        None => tracing::info!(%node, "nothing keeps the node out of the rotation any more"),
    }
}

/// A monitor that was started, and stops unless it is kept.
pub(crate) struct Started {
    monitor: Arc<Monitor>,
    keep: bool,
}

impl Started {
    /// It runs until [`Monitor::stop`].
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.keep {
            self.monitor.running.store(None);
            self.monitor.news.notify_waiters();
            // A question under way puts nothing back by itself, since nothing runs any more.
            self.monitor.nodes().iter().for_each(|node| node.line.hang_up());
        }
    }
}

fn new_topology(nodes: usize, config: &RoutingConfig) -> Topology {
    Topology::new(nodes, config.failures_to_down, config.answers_to_up, config.max_lag)
}

/// The loop of one node. It keeps nothing alive while it waits.
async fn probe_again_and_again(monitor: Weak<Monitor>, node: Weak<Node>) {
    let both = || Some((monitor.upgrade()?, node.upgrade()?));
    let mut suspect = false;
    loop {
        let Some((strong, server)) = both() else { return };
        let (interval, wake) = (strong.config.probe_interval, Arc::clone(&server.line.wake));
        drop((strong, server));
        // A little sooner, by chance, so that many instances do not ask in step. One that failed is
        // asked again at once, so that it is soon known.
        let pause = if suspect { 0.0 } else { 0.8 + fastrand::f64() * 0.1 };
        let _ = tokio::time::timeout(interval.mul_f64(pause), wake.notified()).await;
        let began = Instant::now();
        let Some((strong, server)) = both() else { return };
        strong.probe(&server).await;
        suspect = strong
            .with(&server, |topology, number| topology.is_suspect(number))
            .unwrap_or_default();
        drop((strong, server));
        tokio::time::sleep(SHORTEST_PAUSE.saturating_sub(began.elapsed())).await;
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("picture", &*self.snapshot()).finish_non_exhaustive()
    }
}
