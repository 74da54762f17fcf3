//! The monitor's own connection to each node: probes, and positions for tokens.
//!
//! All who wait for a position share a sample that began after the last of their writes, and the
//! one who asks waits a little for writes that are about to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, oneshot};

use super::{Monitor, probe};
use crate::node::{Node, Role};
use crate::router::Position;
use crate::router::topology::{Sample, Topology};
use crate::server_error::sqlstate;

/// How long those who ask for a position may be kept waiting for more of them.
const LONGEST_GATHERING: Duration = Duration::from_millis(20);

/// How long a connection's goodbye may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The monitor's connection to a node, and those who wait for a sample of it.
#[derive(Default)]
pub(crate) struct Line {
    state: tokio::sync::Mutex<LineState>,
    pub(super) wake: Arc<Notify>,
    waiting: AtomicU32,
    arrived: Notify,
    pub(super) probes: AtomicU64,
    pub(super) token_probes: AtomicU64,
}

#[derive(Default)]
struct LineState {
    connection: Option<PgConnection>,
    latest: Option<Sample>,
    /// When the latest question began that got no answer.
    unanswered: Option<Instant>,
}

impl Line {
    /// Something speaks against the node: it is asked at once.
    pub(crate) fn suspect(&self) {
        self.wake.notify_one();
    }

    /// Closes the connection, unless a question is under way.
    pub(super) fn hang_up(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.connection = None;
        }
    }

    /// Closes the connection in order.
    pub(crate) async fn close(&self) {
        let goodbye = async {
            let mut state = self.state.lock().await;
            (state.latest, state.unanswered) = (None, None);
            if let Some(connection) = state.connection.take() {
                connection.close().await.unwrap_or_default();
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, goodbye).await;
    }
}

/// Writes under way, and how long they take at present.
#[derive(Debug, Default)]
pub(super) struct Writes {
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
    /// A write is sent; it is over when the answer is dropped.
    pub(crate) fn write_begins(self: &Arc<Self>) -> Writing {
        self.writes.in_flight.fetch_add(1, Ordering::Relaxed);
        Writing { monitor: Arc::clone(self), began: Instant::now() }
    }

    /// Where the primary is, at a moment after `event`; `None` where it does not say so in time.
    /// All who wait share one question that begins after the last of their events.
    pub(crate) async fn primary_position_after(
        self: &Arc<Self>,
        event: Instant,
    ) -> Option<Position> {
        let primary = self.snapshot().primary_node()?.clone();
        let sample = self.sample_after(&primary, event).await?;
        (sample.role == Role::Primary).then(|| position_of(&sample)).flatten()
    }

    /// As [`primary_position_after`](Monitor::primary_position_after), of that node.
    pub(crate) async fn position_after(
        self: &Arc<Self>,
        node: &Arc<Node>,
        event: Instant,
    ) -> Option<Position> {
        position_of(&self.sample_after(node, event).await?)
    }

    /// Whether the node answers now that it is a primary.
    pub(crate) async fn is_primary_now(self: &Arc<Self>, node: &Arc<Node>) -> bool {
        let sample = self.sample_after(node, Instant::now()).await;
        sample.is_some_and(|sample| sample.role == Role::Primary)
    }

    /// Whether the node answers now that it is a primary, in the same life as then.
    pub(crate) async fn is_still_primary(
        self: &Arc<Self>,
        node: &Arc<Node>,
        incarnation: u64,
    ) -> bool {
        let answers = self.is_primary_now(node).await;
        let picture = self.snapshot();
        answers
            && picture.is_writer(node)
            && picture.nodes[picture.writer].incarnation == incarnation
    }

    /// Has the next question to the node go over a new connection.
    pub(crate) async fn renew_line(&self, node: &Arc<Node>) {
        let (done, is_done) = oneshot::channel();
        let asked = Arc::clone(node);
        // One who waits for the lock and is not polled would hold up everybody.
        node.spawn(async move {
            asked.line.state.lock().await.connection = None;
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(self.config.probe_timeout * 2, is_done).await;
    }

    /// In a task of its own, so that one who waits for it and is not polled holds nobody up.
    async fn sample_after(self: &Arc<Self>, node: &Arc<Node>, event: Instant) -> Option<Sample> {
        let (answer, answered) = oneshot::channel();
        let (monitor, asked) = (Arc::clone(self), Arc::clone(node));
        node.spawn(async move {
            let _waiting = Waiting::begin(&asked.line);
            let mut state = asked.line.state.lock().await;
            if !answer.is_closed() {
                // Nobody waits any more where this fails.
                let _ = answer.send(monitor.ask_after(&asked, event, &mut state).await);
            }
        });
        let longest = self.config.probe_timeout * 2;
        tokio::time::timeout(longest, answered).await.ok()?.ok()?
    }

    async fn ask_after(
        &self,
        node: &Arc<Node>,
        event: Instant,
        state: &mut LineState,
    ) -> Option<Sample> {
        if let Some(latest) = state.latest.filter(|latest| latest.began > event) {
            return Some(latest);
        }
        if state.unanswered.is_some_and(|began| began > event) {
            return None;
        }
        if self.snapshot().primary_node().is_some_and(|primary| Arc::ptr_eq(primary, node)) {
            self.gather(&node.line).await;
        }
        node.line.token_probes.fetch_add(1, Ordering::Relaxed);
        match self.ask_position(node, state).await {
            Asked::Answered(sample) => Some(sample),
            Asked::Unanswered => None,
            Asked::Untold => self.ask(node, state).await,
        }
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
    pub(super) async fn probe(&self, node: &Arc<Node>) -> Option<Sample> {
        let mut state = node.line.state.lock().await;
        node.line.probes.fetch_add(1, Ordering::Relaxed);
        self.ask(node, &mut state).await
    }

    /// Asks a primary for its position only.
    async fn ask_position(&self, node: &Arc<Node>, state: &mut LineState) -> Asked {
        let latest = state.latest.filter(|latest| latest.role == Role::Primary);
        let Some(latest) = latest else { return Asked::Untold };
        let Some(mut connection) = state.connection.take() else { return Asked::Untold };
        let began = Instant::now();
        let asking = probe::position(node, &mut connection, latest);
        match tokio::time::timeout(self.config.probe_timeout, asking).await {
            Ok(Ok(Some(sample))) => {
                self.keep(node, state, connection, sample);
                Asked::Answered(sample)
            }
            // The whole question finds out why.
            Ok(Ok(None) | Err(_)) => Asked::Untold,
            Err(_) => {
                self.failed(node, state, began, &self.no_answer());
                node.line.suspect();
                Asked::Unanswered
            }
        }
    }

    /// Asks the node, and publishes what that changes.
    async fn ask(&self, node: &Arc<Node>, state: &mut LineState) -> Option<Sample> {
        let began = Instant::now();
        let several = self.with(node, |topology, number| topology.is_several(number));
        if several.unwrap_or_default() {
            // Which one answers the next time?
            state.connection = None;
        }
        let asking = async {
            // Out of its place, so that a question that is dropped half-way closes the connection.
            let mut connection = match state.connection.take() {
                Some(connection) => connection,
                None => node.connect_beside("flautino monitor").await?,
            };
            let sample = probe::sample(node, &mut connection).await?;
            Ok((connection, sample))
        };
        let answer = match tokio::time::timeout(self.config.probe_timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(self.no_answer()),
        };
        match answer {
            Ok((connection, sample)) => {
                node.gauges.probed(sample.round_trip);
                self.keep(node, state, connection, sample);
                Some(sample)
            }
            Err(error) => {
                self.failed(node, state, began, &error);
                None
            }
        }
    }

    fn no_answer(&self) -> sqlx::Error {
        let text = format!("did not answer within {:?}", self.config.probe_timeout);
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
    }

    /// Publishes what a question changes that began then and failed so.
    fn failed(&self, node: &Arc<Node>, state: &mut LineState, began: Instant, error: &sqlx::Error) {
        state.unanswered = Some(began);
        // The server is there, and has no place for one more.
        if sqlstate(error).as_deref() == Some("53300") {
            self.with(node, Topology::is_full);
            return;
        }
        // It is busy, or this machine is: a full server is not a dead one.
        if node.gauges.answered_since(Instant::now() - self.config.probe_timeout / 2) {
            self.with(node, Topology::doubt);
            return;
        }
        state.latest = None;
        let refused = is_refusal(error);
        let failed = |topology: &mut Topology, number| topology.failed(number, began, refused);
        if let Some(change) = self.with(node, failed) {
            self.apply(node, change, Some(error), None);
        }
    }

    /// Takes over an answer, and keeps the connection it came by.
    fn keep(
        &self,
        node: &Arc<Node>,
        state: &mut LineState,
        connection: PgConnection,
        sample: Sample,
    ) {
        let stays = self.is_running() && !node.left.is_cancelled();
        state.connection = stays.then_some(connection);
        state.latest = Some(sample);
        if let Some(change) = self.with(node, |topology, number| topology.answered(number, sample))
        {
            self.apply(node, change, None, Some(sample.role));
        }
    }
}

/// What became of a question for a position.
enum Asked {
    Answered(Sample),
    Unanswered,
    /// The server answers, and does not tell it so; or it was not asked.
    Untold,
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

/// A position whose timeline the server itself told.
fn position_of(sample: &Sample) -> Option<Position> {
    let progress = sample.progress?;
    Some(Position::new(sample.server.system?, progress.timeline?, progress.lsn))
}

/// Whether nothing serves there: no one listens, or the server says that it starts or stops.
fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => sqlstate(error).is_some_and(|code| code == "57P03"),
    }
}
