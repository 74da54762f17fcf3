//! [`Monitor`]: probes each node, and publishes the state of the cluster that follows from the
//! answers.
//!
//! There is one loop for each node, over the node's probe connection. The same connections serve
//! tokens: after a write, a token needs the primary's position *after* the commit, and all requests
//! that wait for one share an answer.
//!
//! - here: the start, the end and the loops
//! - `asking`, `probe`: one probe of one node, and its SQL
//! - `positions`, `writes`: positions for tokens, and the writes that they wait for
//! - `replayed`, `questions`: positions of replicas that reads need; when to ask for them
//! - `reading`, `readings`: when the server's catalogue is read for the classifier, and whether it must be
//! - `catalogue`, `closure`: what it says of functions, views and types, and what leads to a write
//! - `traces`, `trace_reading`: reads what functions and triggers leave in a session, for engines of one node too
//! - `decisions`: how many statements were routed for each reason
//! - `history`: what happened lately, for people
//! - `stand_in`: the state of an engine for tests, which nothing probes
//! - `state`, `publish`: the state that is published, and what it changes for the nodes

mod asking;
mod catalogue;
mod closure;
mod decisions;
mod history;
mod positions;
mod probe;
mod publish;
mod questions;
mod reading;
mod readings;
mod replayed;
mod stand_in;
mod state;
mod trace_reading;
mod traces;
mod writes;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::decisions::Decisions;
use self::history::History;
pub use self::history::{EngineEvent, EventKind};
use self::questions::Questions;
use self::readings::Readings;
use self::state::place;
pub(crate) use self::state::{ClusterState, Nodes};
use self::trace_reading::Reading;
pub(crate) use self::writes::WriteUnderWay;
use self::writes::WritesUnderWay;
use crate::config::RoutingConfig;
use crate::error::UnknownNode;
use crate::node::{Node, Server, Watcher};
use crate::router::{Role, Snapshot, Topology};
use crate::sql::{Classifier, HiddenUse};

/// The least time between two probes of a node, however often a probe is requested.
const MIN_PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How often `open` probes nodes again whose first probe did not show whether they can be used.
const MAX_FIRST_ROUNDS: u32 = 3;
/// The pause before each of these rounds. A primary flushes its WAL within 200 ms by default
/// (`wal_writer_delay`), and only after that can a replica have all of it.
const FIRST_ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Probes the nodes of an engine and publishes the state of the cluster.
pub(crate) struct Monitor {
    pub(crate) config: RoutingConfig,
    classifier: Arc<Classifier>,
    known: Mutex<Known>,
    /// The latest state that was published.
    state: ArcSwap<ClusterState>,
    /// Notified of each new state, and when the monitor stops.
    changed: Notify,
    /// `Some` from `start` until `stop`. The loops end when it is dropped.
    running: ArcSwapOption<Run>,
    /// Notified when the catalogue should be read again.
    catalogue_wanted: Arc<Notify>,
    /// Locked while the catalogue is read.
    readings: tokio::sync::Mutex<Readings>,
    /// Something ran that may have changed the schema, and that is not looked at yet.
    is_suspected: AtomicBool,
    /// Until when what cannot be followed is trusted to leave the schema alone.
    trusted_until: Mutex<Option<Instant>>,
    /// What was last reported to make every query a write.
    reported_hidden: Mutex<Vec<HiddenUse>>,
    writes: Arc<WritesUnderWay>,
    questions: Questions,
    traces: Reading,
    pub(crate) decisions: Decisions,
    pub(crate) history: History,
    /// Whether the state that was published last has more than one node, so that no statement has to
    /// look it up there.
    has_replicas: AtomicBool,
    /// The engine is for tests: nothing is probed, and the state stays as it is.
    stands_in: AtomicBool,
}

/// The nodes and what is known of them, in the same order.
struct Known {
    nodes: Nodes,
    topology: Topology,
}

/// The time from `start` until `stop`.
struct Run {
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Monitor {
    /// A monitor of these nodes, the main one first. It does not run yet.
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
            traces: Reading::of(&classifier),
            classifier,
            questions: Questions::at_rate(config.position_rate),
            config,
            running: ArcSwapOption::empty(),
            catalogue_wanted,
            readings: tokio::sync::Mutex::default(),
            is_suspected: AtomicBool::new(false),
            trusted_until: Mutex::default(),
            reported_hidden: Mutex::default(),
            writes: Arc::default(),
            decisions: Decisions::default(),
            history: History::default(),
            has_replicas: AtomicBool::new(nodes.len() > 1),
            stands_in: AtomicBool::new(false),
        });
        monitor.watch_servers(&nodes);
        monitor
    }

    /// Has the servers report each new connection to this monitor.
    fn watch_servers(self: &Arc<Self>, nodes: &[Arc<Node>]) {
        for node in nodes {
            let monitor: Weak<Self> = Arc::downgrade(self);
            node.server.watched_by(monitor);
        }
    }

    /// Probes every node once, reads the catalogue, and goes on probing until [`stop`](Self::stop).
    /// Also stops if the returned guard is dropped without [`keep`](Started::keep).
    pub(crate) async fn start(self: &Arc<Self>) -> Started {
        let nodes = {
            let mut known = self.known.lock();
            known.topology.restart();
            Arc::clone(&known.nodes)
        };
        if self.stands_in() {
            self.stand_in();
            return Started { monitor: Arc::clone(self), is_kept: false };
        }
        self.publish();
        let stop = self.run();
        let started = Started { monitor: Arc::clone(self), is_kept: false };
        // The main node first, since the first node to answer decides which system is the
        // cluster's.
        self.probe(&nodes[0]).await;
        self.probe_all(&nodes[1..]).await;
        self.probe_undecided(&nodes).await;
        let next = self.begin_reading().await;
        nodes.iter().for_each(|node| self.keep_probing(node));
        let reading = self.keep_reading_catalogue(next);
        nodes[0].spawn(async move {
            stop.run_until_cancelled(reading).await;
        });
        started
    }

    /// Says that it runs. What is returned is cancelled when it stops.
    fn run(&self) -> CancellationToken {
        let stop = CancellationToken::new();
        let run = Run { stop: stop.clone(), _stop: stop.clone().drop_guard() };
        self.running.store(Some(Arc::new(run)));
        stop
    }

    async fn probe_all(&self, nodes: impl IntoIterator<Item = &Arc<Node>>) {
        let probes = nodes.into_iter().map(|node| self.probe(node));
        futures_util::future::join_all(probes).await;
    }

    /// Probes those nodes again whose first probe did not show whether they can be used: nodes that
    /// answered `open` but not the probe, and replicas that had not replayed all of the primary's
    /// WAL.
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

    /// Starts the loop that probes the node until it leaves the engine or the monitor stops.
    fn keep_probing(self: &Arc<Self>, node: &Arc<Node>) {
        let Some(run) = self.running.load_full() else { return };
        let (stop, left) = (run.stop.clone(), node.left.clone());
        let probing = probe_repeatedly(Arc::downgrade(self), Arc::downgrade(node));
        node.spawn(async move {
            stop.run_until_cancelled(left.run_until_cancelled(probing)).await;
        });
    }

    /// Replaces the nodes, the main one first. If the monitor is running, new nodes are probed once
    /// before this returns, and repeatedly from then on.
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
                // The topology has just forgotten the primary's progress, and new replicas are
                // compared with it.
                self.probe(&before[0]).await;
            }
            self.probe_all(&new).await;
            self.probe_undecided(&new).await;
            new.iter().for_each(|node| self.keep_probing(node));
        }
    }

    /// Ends the loops, and wakes everyone who waits for a change.
    pub(crate) fn stop(&self) {
        self.running.store(None);
        self.traces.stop();
        self.changed.notify_waiters();
    }

    /// Closes the probe connections in order, after [`stop`](Self::stop).
    pub(crate) async fn close_connections(&self) {
        let nodes = self.nodes();
        let closing = nodes.iter().map(|node| node.probe_connection.close());
        futures_util::future::join_all(closing).await;
        self.close_catalogue().await;
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
        self.has_replicas.load(Ordering::Acquire)
    }

    /// The latest state of the cluster.
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

    /// The error for a name that no node has; it lists the nodes.
    pub(crate) fn unknown(&self, name: &str) -> UnknownNode {
        let known = self.nodes().iter().map(|node| node.name().to_string()).collect();
        UnknownNode { name: name.to_owned(), known }
    }

    /// Returns a future that completes when a state is published after this call, or when the
    /// monitor stops.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Counts a write as under way until the returned guard is dropped.
    pub(crate) fn write_begins(&self) -> WriteUnderWay {
        self.writes.begin()
    }

    /// Requests that all nodes be probed at once, because what is known of them may be outdated.
    pub(crate) fn suspect_all(&self) {
        self.state().nodes.iter().for_each(|node| node.probe_connection.suspect());
    }

    /// Reads or changes what is known of the node: calls `access` with the topology and the node's
    /// number in it. Returns `None` if the node has left the engine.
    pub(crate) fn known<T>(
        &self,
        node: &Arc<Node>,
        access: impl FnOnce(&mut Topology, usize) -> T,
    ) -> Option<T> {
        let mut known = self.known.lock();
        let number = place(&known.nodes, node)?;
        Some(access(&mut known.topology, number))
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

/// Guards the start of a monitor: stops it when dropped without [`keep`](Self::keep).
pub(crate) struct Started {
    monitor: Arc<Monitor>,
    is_kept: bool,
}

impl Started {
    /// Lets the monitor run until [`Monitor::stop`].
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.is_kept {
            self.monitor.stop();
            // Close the idle probe connections. A probe that is under way closes its own, since the
            // monitor is not running any more.
            self.monitor.nodes().iter().for_each(|node| node.probe_connection.hang_up());
        }
    }
}

fn new_topology(nodes: usize, config: &RoutingConfig) -> Topology {
    Topology::new(nodes, config.failures_to_down, config.answers_to_up, config.max_lag)
}

/// The loop that probes one node. While it waits, it keeps neither the monitor nor the node alive.
async fn probe_repeatedly(monitor: Weak<Monitor>, node: Weak<Node>) {
    let both = || Some((monitor.upgrade()?, node.upgrade()?));
    let mut is_suspect = false;
    loop {
        let Some((monitor, node)) = both() else { return };
        let (interval, wake) =
            (monitor.config.probe_interval, Arc::clone(&node.probe_connection.wake));
        drop((monitor, node));
        // Wait for a random part of the interval, so that many instances of an app do not probe in
        // step. Probe a suspect node again at once, to find out soon whether it is down.
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
