//! The monitor: asks each node how it is, and publishes what all answers together say.
//!
//! One loop a node, on a connection of its own with a deadline of its own, so that neither a full
//! pool nor a hanging node passes for something else. The same connections serve tokens: a write
//! needs the primary's position *after* its commit, and all who wait for one share a sample.

mod catalogue;
mod line;
mod probe;
mod standing;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use sqlx::Connection;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::line::Writing;
use self::line::{Line, Writes};
pub(crate) use self::standing::Standing;
use super::health::Transition;
use super::topology::{Change, Topology};
use super::{Access, Catalogue, Classifier, Exclusion, Plan, Snapshot};
use crate::config::RoutingConfig;
use crate::node::{Node, Role};

/// Two probes of a node are this far apart at least, however much happens.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// How often at most, and after which pause, `open` asks replicas again that have not replayed what
/// the primary had: it writes its log out within 200 ms by default (`wal_writer_delay`).
const FIRST_ROUNDS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often the catalogue is read again without being asked to: functions and views change
/// through other programs too.
const CATALOGUE_INTERVAL: Duration = Duration::from_secs(300);
/// How often at most it is read when statements ask for it.
const CATALOGUE_PAUSE: Duration = Duration::from_secs(5);
/// How long reading it may take.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection's goodbye may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(crate) struct Monitor {
    pub(crate) config: RoutingConfig,
    classifier: Arc<Classifier>,
    nodes: Vec<Arc<Node>>,
    lines: Vec<Line>,
    topology: Mutex<Topology>,
    snapshot: ArcSwap<Snapshot>,
    /// Told of each new snapshot, and of the end.
    news: Notify,
    /// `Some` from `start` until it is dropped by `stop`.
    running: ArcSwapOption<Run>,
    catalogue_wanted: Arc<Notify>,
    writes: Writes,
}

struct Run {
    _stop: DropGuard,
    /// Connections of the primary that reads may take which no replica could serve.
    budget: Arc<Semaphore>,
}

impl Monitor {
    /// Over the engine's nodes, in their order. Nothing runs yet.
    pub(crate) fn new(
        nodes: &[Arc<Node>],
        config: RoutingConfig,
        classifier: Arc<Classifier>,
        catalogue_wanted: Arc<Notify>,
    ) -> Arc<Self> {
        let monitor = Arc::new(Self {
            topology: Mutex::new(new_topology(nodes.len(), &config)),
            snapshot: ArcSwap::from_pointee(Snapshot::unknown(nodes.len())),
            news: Notify::new(),
            lines: nodes.iter().map(|_| Line::default()).collect(),
            nodes: nodes.to_vec(),
            classifier,
            config,
            running: ArcSwapOption::empty(),
            catalogue_wanted,
            writes: Writes::default(),
        });
        for (number, node) in nodes.iter().enumerate() {
            node.watched_by(Arc::downgrade(&monitor), number);
        }
        monitor
    }

    /// Asks every node once, reads the catalogue, and goes on asking until the answer is dropped.
    /// `connections` is how many the primary's pool may have.
    pub(crate) async fn start(self: &Arc<Self>, connections: u32) -> Started {
        *self.lock_topology() = new_topology(self.nodes.len(), &self.config);
        self.publish();
        let stop = CancellationToken::new();
        let share = f64::from(connections) * self.config.fallback_share;
        // The most that are not above the share, and one at least.
        let permits = (1..=connections).take_while(|count| f64::from(*count) <= share).count();
        let run = Run {
            _stop: stop.clone().drop_guard(),
            budget: Arc::new(Semaphore::new(permits.max(1))),
        };
        self.running.store(Some(Arc::new(run)));
        let started = Started { monitor: Arc::clone(self), keep: false };
        // The main node first, since its system is the cluster's.
        self.probe(0).await;
        let probes = (1..self.nodes.len()).map(|number| self.probe(number));
        futures_util::future::join_all(probes).await;
        for _ in 0..FIRST_ROUNDS {
            // Log that was written and not yet sent keeps a replica's age unknown.
            let snapshot = self.snapshot().clone();
            let of_unknown_age = |number: &usize| {
                let node = &snapshot.nodes[*number];
                node.is_usable_replica() && node.fresh_as_of.is_none()
            };
            let asked: Vec<_> = (1..self.nodes.len()).filter(of_unknown_age).collect();
            if asked.is_empty() {
                break;
            }
            tokio::time::sleep(FIRST_PAUSE).await;
            futures_util::future::join_all(asked.into_iter().map(|number| self.probe(number)))
                .await;
        }
        self.read_catalogue().await;
        for number in 0..self.nodes.len() {
            let (monitor, stop) = (Arc::downgrade(self), stop.clone());
            self.nodes[number].spawn(async move {
                stop.run_until_cancelled(watch(monitor, number)).await;
            });
        }
        let (monitor, wanted) = (Arc::downgrade(self), Arc::clone(&self.catalogue_wanted));
        self.nodes[0].spawn(async move {
            stop.run_until_cancelled(keep_catalogue(monitor, wanted)).await;
        });
        started
    }

    /// Ends the loops and closes their connections.
    pub(crate) async fn stop(&self) {
        if let Some(run) = self.running.swap(None) {
            run.budget.close();
        }
        self.news.notify_waiters();
        let closing = self.lines.iter().map(async |line| {
            let goodbye = async {
                let mut state = line.state.lock().await;
                state.latest = None;
                if let Some(connection) = state.connection.take() {
                    connection.close().await.unwrap_or_default();
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, goodbye).await;
        });
        futures_util::future::join_all(closing).await;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.load().is_some()
    }

    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Ready at the next snapshot after this call, and when the monitor stops.
    pub(crate) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    pub(crate) fn access(&self, plan: &Plan, sql: &str) -> Access {
        self.classifier.access(plan, sql)
    }

    /// Something speaks against the node: it is asked at once.
    pub(crate) fn suspect(&self, number: usize) {
        self.lines[number].wake.notify_one();
    }

    /// Something speaks against what is known of all nodes.
    pub(crate) fn suspect_all(&self) {
        self.lines.iter().for_each(|line| line.wake.notify_one());
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
        number: usize,
        change: Change,
        error: Option<&sqlx::Error>,
        role: Option<Role>,
    ) {
        let node = &self.nodes[number];
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
                node.abort_waiting();
            }
            Some(Transition::WentUp) => {
                tracing::info!(node = %node.name, ?role, "the node is up");
                node.set_trouble(None);
            }
            None => {}
        }
    }

    fn publish(&self) {
        // The topology stays locked, so that an older picture cannot replace a newer one.
        let topology = self.lock_topology();
        let new = topology.snapshot();
        let old = self.snapshot.swap(Arc::new(new.clone()));
        drop(topology);
        for (number, (old, new)) in old.nodes.iter().zip(&new.nodes).enumerate() {
            if old.excluded != new.excluded {
                self.tell_exclusion(number, new.excluded.as_ref());
            }
        }
        if let (Some(primary), true) = (new.primary, old.primary != new.primary) {
            tracing::info!(node = %self.nodes[primary].name, "the node is the primary");
            if old.writer != primary && old.primary.is_some() {
                // Whatever it acknowledges from now on is lost.
                self.nodes[old.writer].abort_waiting();
            }
        }
        self.news.notify_waiters();
    }

    fn tell_exclusion(&self, number: usize, excluded: Option<&Exclusion>) {
        let node = &self.nodes[number].name;
        match excluded {
            Some(excluded) => {
                let reason = self.describe(excluded);
                tracing::warn!(%node, "node `{node}` is not used for reads: {reason}");
            }
            None => tracing::info!(%node, "nothing keeps the node out of the rotation any more"),
        }
    }

    /// A new connection of the node's pool was answered by the server that started then. Looks
    /// whether that is the one that the monitor speaks with.
    pub(crate) async fn met(&self, number: usize, started: i64) {
        let known = self.lock_topology().server(number);
        if self.snapshot().nodes[number].excluded == Some(Exclusion::SeveralServers) {
            return;
        }
        if !self.is_running() || known.is_none_or(|known| known.started == started) {
            return;
        }
        // It was restarted, or there are two. A restart costs the probe its connection, so its first
        // answer may be none.
        for _ in 0..2 {
            match self.probe(number).await {
                Some(sample) if sample.server.started == started => return,
                Some(_) => {
                    self.lock_topology().leads_to_several(number);
                    return self.publish();
                }
                None => {}
            }
        }
    }

    /// Whether it could be read.
    async fn read_catalogue(&self) -> bool {
        let snapshot = self.snapshot();
        let up = |number: &usize| {
            snapshot.nodes[*number].up && snapshot.nodes[*number].excluded.is_none()
        };
        let Some(number) = snapshot.primary.or_else(|| (0..self.nodes.len()).find(up)) else {
            return true;
        };
        drop(snapshot);
        let node = &self.nodes[number];
        let reading = async {
            // On a connection of its own, since it may take longer than a probe.
            let mut connection = node.connect_for_monitor().await?;
            let catalogue = catalogue::read(node, &mut connection, CATALOGUE_TIMEOUT).await?;
            let _ = connection.close().await;
            Ok::<Catalogue, sqlx::Error>(catalogue)
        };
        // The server gives up by itself; this is for one that does not answer.
        let error = match tokio::time::timeout(CATALOGUE_TIMEOUT * 2, reading).await {
            Ok(Ok(catalogue)) => {
                if self.classifier.learn(catalogue) {
                    tracing::debug!(node = %node.name, "the catalogue of functions was read");
                }
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            node = %node.name, %error,
            "the catalogue of functions could not be read; calls of functions it does not list go \
             to the primary"
        );
        false
    }

    fn lock_topology(&self) -> std::sync::MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
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
            for line in &self.monitor.lines {
                // A question under way puts nothing back by itself, since nothing runs any more.
                if let Ok(mut state) = line.state.try_lock() {
                    state.connection = None;
                }
            }
        }
    }
}

fn new_topology(nodes: usize, config: &RoutingConfig) -> Topology {
    Topology::new(nodes, config.failures_to_down, config.answers_to_up, config.max_lag)
}

/// The loop of one node. It keeps nothing alive while it waits.
async fn watch(monitor: Weak<Monitor>, number: usize) {
    let mut suspect = false;
    loop {
        let Some(strong) = monitor.upgrade() else { return };
        let (interval, wake) =
            (strong.config.probe_interval, Arc::clone(&strong.lines[number].wake));
        drop(strong);
        // A tenth more or less, so that many instances do not ask in step. One that failed is asked
        // again at once, so that it is soon known.
        let pause = if suspect { 0.0 } else { 0.9 + fastrand::f64() * 0.2 };
        let _ = tokio::time::timeout(interval.mul_f64(pause), wake.notified()).await;
        let began = Instant::now();
        let Some(strong) = monitor.upgrade() else { return };
        strong.probe(number).await;
        suspect = strong.lock_topology().is_suspect(number);
        drop(strong);
        tokio::time::sleep(SHORTEST_PAUSE.saturating_sub(began.elapsed())).await;
    }
}

/// Reads the catalogue whenever it is asked for, but not too often; and now and then.
async fn keep_catalogue(monitor: Weak<Monitor>, wanted: Arc<Notify>) {
    let mut pause = CATALOGUE_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let _ = tokio::time::timeout(CATALOGUE_INTERVAL, wanted.notified()).await;
        let Some(strong) = monitor.upgrade() else { return };
        // One that is too large, or that this role may not read, is not asked for in a row.
        pause = if strong.read_catalogue().await { CATALOGUE_PAUSE } else { CATALOGUE_INTERVAL };
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("snapshot", &self.snapshot.load()).finish_non_exhaustive()
    }
}
