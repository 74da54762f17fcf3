//! The monitor: asks each node how it is, and publishes what all answers together say.
//!
//! One loop a node, on a connection of its own with a deadline of its own, so that neither a full
//! pool nor a hanging node passes for something else. The same connections serve tokens: a write
//! needs the primary's position *after* its commit, and all who wait for one share a sample.

mod catalogue;
mod probe;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::health::Transition;
use super::topology::{Change, Sample, Topology};
use super::{Access, Catalogue, Classifier, Exclusion, Plan, Position, Snapshot};
use crate::config::RoutingConfig;
use crate::lease::sqlstate;
use crate::node::{Node, Role};

/// Two probes of a node are this far apart at least, however much happens.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// How long those who ask for a position may be kept waiting for more of them.
const LONGEST_GATHERING: Duration = Duration::from_millis(20);
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
    /// `Some` from `start` until it is dropped by `stop`.
    running: Mutex<Option<Run>>,
    catalogue_wanted: Arc<Notify>,
    writes: Writes,
}

struct Run {
    _stop: DropGuard,
    /// Connections of the primary that reads may take which no replica could serve.
    budget: Arc<Semaphore>,
}

/// The monitor's connection to a node, and those who wait for a sample of it.
#[derive(Default)]
struct Line {
    state: tokio::sync::Mutex<LineState>,
    wake: Notify,
    waiting: AtomicU32,
    arrived: Notify,
    probes: AtomicU64,
    token_probes: AtomicU64,
}

#[derive(Default)]
struct LineState {
    connection: Option<PgConnection>,
    latest: Option<Sample>,
}

/// Writes under way, and how long they take at present.
#[derive(Debug, Default)]
struct Writes {
    in_flight: AtomicU32,
    mean_us: AtomicU64,
}

/// A write under way.
pub(crate) struct Writing {
    monitor: Arc<Monitor>,
    began: Instant,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let writes = &self.monitor.writes;
        writes.in_flight.fetch_sub(1, Ordering::Relaxed);
        let elapsed = crate::logging::micros(self.began.elapsed());
        let mean = writes.mean_us.load(Ordering::Relaxed);
        // Writers that collide here lose one of two observations.
        writes.mean_us.store(mean - mean / 8 + elapsed / 8, Ordering::Relaxed);
    }
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
            lines: nodes.iter().map(|_| Line::default()).collect(),
            nodes: nodes.to_vec(),
            classifier,
            config,
            running: Mutex::default(),
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
        *self.lock_running() = Some(run);
        let started = Started { monitor: Arc::clone(self), keep: false };
        // The main node first, since its system is the cluster's.
        self.probe(0).await;
        let probes = (1..self.nodes.len()).map(|number| self.probe(number));
        futures_util::future::join_all(probes).await;
        self.read_catalogue().await;
        for number in 0..self.nodes.len() {
            let (monitor, stop) = (Arc::downgrade(self), stop.clone());
            self.nodes[number].spawn(async move {
                stop.run_until_cancelled(watch(monitor, number)).await;
            });
        }
        let monitor = Arc::downgrade(self);
        self.nodes[0].spawn(async move {
            stop.run_until_cancelled(keep_catalogue(monitor)).await;
        });
        started
    }

    /// Ends the loops and closes their connections.
    pub(crate) async fn stop(&self) {
        self.lock_running().take();
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
        self.lock_running().is_some()
    }

    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub(crate) fn access(&self, plan: &Plan, sql: &str) -> Access {
        self.classifier.access(plan, sql)
    }

    /// Something speaks against the node: it is asked at once.
    pub(crate) fn suspect(&self, number: usize) {
        self.lines[number].wake.notify_one();
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
        self.lock_running().as_ref().map(|run| Arc::clone(&run.budget))
    }

    /// A write is sent; it is over when the answer is dropped.
    pub(crate) fn write_begins(self: &Arc<Self>) -> Writing {
        self.writes.in_flight.fetch_add(1, Ordering::Relaxed);
        Writing { monitor: Arc::clone(self), began: Instant::now() }
    }

    /// Where the primary is, at a moment after `event`; `None` where it does not say so in time.
    /// All who wait share one question that begins after the last of their events.
    pub(crate) async fn primary_position_after(&self, event: Instant) -> Option<Position> {
        let number = self.snapshot().primary?;
        let sample = self.sample_after(number, event).await?;
        (sample.role == Role::Primary).then(|| position_of(&sample)).flatten()
    }

    /// As [`primary_position_after`](Monitor::primary_position_after), of the node of this number.
    pub(crate) async fn position_after(&self, number: usize, event: Instant) -> Option<Position> {
        position_of(&self.sample_after(number, event).await?)
    }

    async fn sample_after(&self, number: usize, event: Instant) -> Option<Sample> {
        let line = &self.lines[number];
        let asking = async {
            let _waiting = Waiting::begin(line);
            let mut state = line.state.lock().await;
            if let Some(latest) = state.latest.filter(|latest| latest.began > event) {
                return Some(latest);
            }
            self.gather(line).await;
            line.token_probes.fetch_add(1, Ordering::Relaxed);
            self.ask(number, &mut state).await
        };
        let longest = self.config.probe_timeout * 2;
        tokio::time::timeout(longest, asking).await.ok().flatten()
    }

    /// Waits for writes that are about to end, so that one sample serves them too: for as long as a
    /// write takes at present, at the most.
    async fn gather(&self, line: &Line) {
        let mean = Duration::from_micros(self.writes.mean_us.load(Ordering::Relaxed));
        let until = tokio::time::Instant::now() + mean.min(LONGEST_GATHERING);
        while line.waiting.load(Ordering::Relaxed) < self.writes.in_flight.load(Ordering::Relaxed) {
            if tokio::time::timeout_at(until, line.arrived.notified()).await.is_err() {
                return;
            }
        }
    }

    /// One probe by the monitor's own will.
    async fn probe(&self, number: usize) -> Option<Sample> {
        let line = &self.lines[number];
        let mut state = line.state.lock().await;
        line.probes.fetch_add(1, Ordering::Relaxed);
        self.ask(number, &mut state).await
    }

    /// Asks the node, and publishes what that changes.
    async fn ask(&self, number: usize, state: &mut LineState) -> Option<Sample> {
        let node = &self.nodes[number];
        let began = Instant::now();
        let asking = async {
            // Out of its place, so that a question that is dropped half-way closes the connection.
            let mut connection = match state.connection.take() {
                Some(connection) => connection,
                None => node.connect_for_monitor().await?,
            };
            let sample = probe::sample(node, &mut connection).await?;
            Ok((connection, sample))
        };
        let answer = match tokio::time::timeout(self.config.probe_timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                let text = format!("did not answer within {:?}", self.config.probe_timeout);
                Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
            }
        };
        match answer {
            Ok((connection, sample)) => {
                state.connection = Some(connection);
                state.latest = Some(sample);
                node.gauges.probed(sample.round_trip);
                let change = self.lock_topology().answered(number, sample);
                self.apply(number, change, None, Some(sample.role));
                Some(sample)
            }
            // The server is there, and has no place for one more.
            Err(error) if sqlstate(&error).as_deref() == Some("53300") => None,
            Err(error) => {
                state.latest = None;
                let change = self.lock_topology().failed(number, began, is_refusal(&error));
                self.apply(number, change, Some(&error), None);
                None
            }
        }
    }

    fn apply(
        &self,
        number: usize,
        change: Change,
        error: Option<&sqlx::Error>,
        role: Option<Role>,
    ) {
        let node = &self.nodes[number];
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
        if let Some(role) = role {
            node.set_role(role);
        }
        if change.new_server {
            tracing::info!(node = %node.name, "another server answers under this name, or it was restarted");
            node.renew();
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
        }
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

    /// The reason and the fix, for logs and status.
    pub(crate) fn describe(&self, excluded: &Exclusion) -> String {
        let name = |number: usize| &self.nodes[number].name;
        match excluded {
            Exclusion::OtherSystem(system) => {
                format!(
                    "it belongs to another cluster (system identifier {system}); look where its address leads"
                )
            }
            Exclusion::OtherTimeline(timeline) => {
                format!(
                    "it is on timeline {timeline}, the primary on another; rebuild it, or have it follow the primary"
                )
            }
            Exclusion::SameServer(twin) => {
                format!(
                    "it is the same server as node `{}`; give each server one name",
                    name(*twin)
                )
            }
            Exclusion::SeveralServers => {
                "its address leads to several servers, so that what one says of itself does not \
                 hold for the next; give each server a node of its own"
                    .to_owned()
            }
            Exclusion::SecondPrimary(primary) => {
                format!(
                    "it takes writes, and node `{}` is the primary; is it a stray copy?",
                    name(*primary)
                )
            }
            Exclusion::Paused => "its replay is paused, and it is behind".to_owned(),
            Exclusion::NoPosition => "it does not say how far it has replayed".to_owned(),
        }
    }

    /// A new connection of the node's pool was answered by the server that started then. Looks
    /// whether that is the one that the monitor speaks with.
    pub(crate) async fn met(&self, number: usize, started: i64) {
        let known = self.lock_topology().server(number);
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

    async fn read_catalogue(&self) {
        let snapshot = self.snapshot();
        let up = |number: &usize| {
            snapshot.nodes[*number].up && snapshot.nodes[*number].excluded.is_none()
        };
        let Some(number) = snapshot.primary.or_else(|| (0..self.nodes.len()).find(up)) else {
            return;
        };
        drop(snapshot);
        let node = &self.nodes[number];
        let reading = async {
            // On a connection of its own, since it may take longer than a probe.
            let mut connection = node.connect_for_monitor().await?;
            let catalogue = catalogue::read(node, &mut connection).await?;
            let _ = connection.close().await;
            Ok::<Catalogue, sqlx::Error>(catalogue)
        };
        match tokio::time::timeout(CATALOGUE_TIMEOUT, reading).await {
            Ok(Ok(catalogue)) => {
                if self.classifier.learn(catalogue) {
                    tracing::debug!(node = %node.name, "the catalogue of functions was read");
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(node = %node.name, %error, "the catalogue of functions could not be read; calls of functions it does not list go to the primary");
            }
            Err(_) => {
                tracing::warn!(node = %node.name, "reading the catalogue of functions took longer than {CATALOGUE_TIMEOUT:?}; calls of functions it does not list go to the primary");
            }
        }
    }

    /// The node's part of the status: position, timeline, lag, why it is not in use.
    pub(crate) fn standing(&self, number: usize) -> Standing {
        let now = Instant::now();
        let topology = self.lock_topology();
        let progress = topology.progress(number).filter(|_| topology.is_up(number));
        let (lag_bytes, lag) =
            if topology.is_up(number) { topology.lag(number, now) } else { (None, None) };
        drop(topology);
        let snapshot = self.snapshot();
        let view = &snapshot.nodes[number];
        let lags = snapshot.primary.is_some()
            && view.is_usable_replica()
            && !view.in_rotation(now, self.config.max_lag);
        let reason = match (&view.excluded, lag, progress) {
            (Some(excluded), _, _) => Some(self.describe(excluded)),
            (None, Some(lag), Some(progress)) if lags => {
                let delay = match progress.apply_delay {
                    Duration::ZERO => String::new(),
                    delay => format!(" (its recovery_min_apply_delay is {delay:?})"),
                };
                Some(format!("it lags {lag:.1?} behind{delay}"))
            }
            _ => None,
        };
        let timeline = view.position.map(|(position, _)| position.timeline);
        Standing {
            up: view.up,
            reason,
            timeline: progress
                .and_then(|progress| progress.timeline)
                .or(timeline)
                .filter(|_| view.up),
            position: progress.map(|progress| progress.lsn),
            lag_bytes,
            lag,
            probes: self.lines[number].probes.load(Ordering::Relaxed),
            token_probes: self.lines[number].token_probes.load(Ordering::Relaxed),
        }
    }

    fn lock_topology(&self) -> std::sync::MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_running(&self) -> std::sync::MutexGuard<'_, Option<Run>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Monitor::standing`].
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) up: bool,
    pub(crate) reason: Option<String>,
    pub(crate) timeline: Option<u32>,
    pub(crate) position: Option<super::Lsn>,
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) lag: Option<Duration>,
    pub(crate) probes: u64,
    pub(crate) token_probes: u64,
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
            self.monitor.lock_running().take();
        }
    }
}

/// One who waits for a sample.
struct Waiting<'a>(&'a Line);

impl<'a> Waiting<'a> {
    fn begin(line: &'a Line) -> Self {
        line.waiting.fetch_add(1, Ordering::Relaxed);
        line.arrived.notify_one();
        Self(line)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn new_topology(nodes: usize, config: &RoutingConfig) -> Topology {
    Topology::new(nodes, config.failures_to_down, config.answers_to_up, config.max_lag)
}

/// A position whose timeline the server itself told.
fn position_of(sample: &Sample) -> Option<Position> {
    let progress = sample.progress?;
    Some(Position::new(sample.server.system?, progress.timeline?, progress.lsn))
}

/// The loop of one node.
async fn watch(monitor: Weak<Monitor>, number: usize) {
    let mut pause = None;
    loop {
        let Some(strong) = monitor.upgrade() else { return };
        let interval = strong.config.probe_interval;
        // A tenth more or less, so that many instances do not ask in step.
        let pause_now = pause.unwrap_or_else(|| interval.mul_f64(0.9 + fastrand::f64() * 0.2));
        let _ = tokio::time::timeout(pause_now, strong.lines[number].wake.notified()).await;
        let began = Instant::now();
        strong.probe(number).await;
        let suspect = strong.lock_topology().is_suspect(number);
        drop(strong);
        tokio::time::sleep(SHORTEST_PAUSE.saturating_sub(began.elapsed())).await;
        // One that failed is asked again at once, so that it is soon known.
        pause = suspect.then_some(Duration::ZERO);
    }
}

/// Reads the catalogue whenever it is asked for, but not too often; and now and then.
async fn keep_catalogue(monitor: Weak<Monitor>) {
    loop {
        tokio::time::sleep(CATALOGUE_PAUSE).await;
        let Some(strong) = monitor.upgrade() else { return };
        let _ = tokio::time::timeout(CATALOGUE_INTERVAL, strong.catalogue_wanted.notified()).await;
        strong.read_catalogue().await;
    }
}

/// Whether nothing serves there: no one listens, or the server says that it starts or stops.
fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => sqlstate(error).is_some_and(|code| code == "57P03"),
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("snapshot", &self.snapshot.load()).finish_non_exhaustive()
    }
}
