//! The state of the engine at one moment, as `status.json` shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::state::EngineState;
use crate::logging::StatementStatus;
use crate::monitor::{ClusterState, EngineEvent, Monitor};
use crate::node::{Counts, Node};
use crate::router::{Lsn, Progress, Role, Topology};
use crate::sql::HiddenUse;

/// The state of an engine at one moment. It holds no password and no value of a
/// statement.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EngineStatus {
    /// Whether the pools are open.
    pub open: bool,
    /// The node that takes writes, as far as is known.
    pub primary: Option<String>,
    /// How sessions see their own writes on replicas: by positions in the log, or by a time window if
    /// the primary does not tell its position. `None` if there is only one node.
    pub read_your_writes: Option<ReadYourWrites>,
    /// What makes every query a write, so that replicas serve none: casts, operators and operator
    /// classes of the database's own, between types that come with PostgreSQL, whose functions are
    /// volatile or lead to one. PostgreSQL may use them where no text shows it, as `IN` uses `=`.
    /// Declare the function `STABLE` or `IMMUTABLE` if it writes nothing, or drop what uses it.
    pub reads_blocked_by: Vec<String>,
    /// All nodes, the main one first.
    pub nodes: Vec<NodeStatus>,
    /// How many statements were sent to a node for each [`Reason`](crate::Reason), since the start.
    pub decisions: BTreeMap<&'static str, u64>,
    /// What happened lately, the oldest first: the latest 256 events.
    pub events: Vec<EngineEvent>,
    /// The most frequent and the slowest statements, for as long as somebody
    /// [watches](crate::Engine::watch_statements) them; else those that were seen last.
    pub statements: Vec<StatementStatus>,
}

/// One node in an [`EngineStatus`].
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// The node's name, as configured; the main one is `main`.
    pub name: String,
    /// The host name, or the path of the socket.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The server's role, when it was last asked.
    pub role: Role,
    /// Whether it answered then.
    pub health: Health,
    /// Why the node is not up, or is not used for reads.
    pub reason: Option<String>,
    /// The timeline the server is on, as far as that is certain.
    pub timeline: Option<u32>,
    /// The insert position of a primary, the replay position of a replica.
    pub position: Option<Lsn>,
    /// How many bytes of the primary's log the node has not replayed; 0 for the primary.
    pub lag_bytes: Option<u64>,
    /// An upper bound, in milliseconds, for the age of what queries see on the node: so long ago, at the
    /// most, the primary showed the same. 0 for the primary. It may be 0 while `lag_bytes` is not, if no
    /// transaction ends in the missing bytes. `None` if it is not known, which does not mean zero.
    pub lag_ms: Option<u64>,
    /// How many statements, leases and transactions have a connection or wait for one.
    pub in_flight: u32,
    /// How long a probe takes at present, in microseconds.
    pub latency_us: u32,
    /// The node's pool. `None` while the engine is not open.
    pub pool: Option<PoolStatus>,
    /// How many statements were sent since the start.
    pub statements: u64,
    /// How many probes were sent since the start.
    pub probes: u64,
    /// How many times the position was asked for because a token needed it, since the start.
    pub token_probes: u64,
    /// How many times the position was asked for because a read needed it, since the start; see
    /// [`RoutingConfig::position_rate`](crate::RoutingConfig::position_rate).
    pub position_probes: u64,
}

/// How sessions see their own writes; see [`EngineStatus::read_your_writes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReadYourWrites {
    /// A replica serves a session when it has replayed what that session wrote.
    Positions,
    /// A session that wrote reads from the primary for `routing.token_window`.
    Window,
}

/// Whether a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Health {
    /// The node answered when it was last asked.
    Up,
    /// The node did not answer when it was last asked.
    Down,
    /// The node was never asked.
    Unknown,
}

/// A node's pool in an [`EngineStatus`]. The connections of [`Engine::pool`](crate::Engine::pool) are
/// not counted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// All connections: idle, in use, and being made.
    pub size: u32,
    /// Idle connections, warm ones included.
    pub idle: usize,
    /// Idle connections that were used a moment ago, and so are checked out without a ping.
    pub warm: usize,
    /// Connections that are checked out, or are being reset after that.
    pub in_use: u32,
    /// Connections that are being made.
    pub connecting: u32,
    /// Statements and leases that wait for a connection.
    pub waiting: u32,
    /// The most connections that the pool may have.
    pub max: u32,
}

impl PoolStatus {
    fn of(counts: Counts, max: u32) -> Self {
        let Counts { size, idle, warm, in_use, connecting, waiting } = counts;
        Self { size, idle, warm, in_use, connecting, waiting, max }
    }
}

impl EngineStatus {
    pub(super) fn of(engine: &EngineState) -> Self {
        let monitor = engine.monitor();
        let state = monitor.state().clone();
        let (nodes, primary) = nodes_and_primary(engine, &state);
        let read_your_writes = monitor.routes().then(|| match state.snapshot.positions {
            true => ReadYourWrites::Positions,
            false => ReadYourWrites::Window,
        });
        let hidden = engine.context.classifier.hidden_uses();
        let decisions = engine.context.monitor.decisions.all().filter(|(_, count)| *count > 0);
        Self {
            open: engine.phase.is_open(),
            primary: primary.map(|number| nodes[number].name.clone()),
            read_your_writes,
            reads_blocked_by: hidden.into_iter().map(|HiddenUse(what)| what.into()).collect(),
            nodes,
            decisions: decisions.map(|(reason, count)| (reason.as_str(), count)).collect(),
            events: monitor.history.events(),
            statements: engine.shared.logger.statements.status(),
        }
    }
}

/// The state's nodes, and the number of the one that takes writes.
pub(super) fn nodes_and_primary(
    engine: &EngineState,
    state: &ClusterState,
) -> (Vec<NodeStatus>, Option<usize>) {
    let monitor = engine.monitor();
    let nodes: Vec<_> =
        state.nodes.iter().map(|node| NodeStatus::of(node, monitor, state)).collect();
    let primary = match monitor.routes() {
        true => state.snapshot.primary,
        false => nodes.iter().position(|node| node.role == Role::Primary),
    };
    (nodes, primary)
}

impl NodeStatus {
    fn of(node: &Arc<Node>, monitor: &Monitor, state: &ClusterState) -> Self {
        let (host, port) = node.server.host_and_port();
        let role = node.server.role();
        let trouble = node.server.trouble();
        let probed = monitor.routes().then(|| Probed::of(node, monitor, state));
        let health = match (&trouble, role, &probed) {
            (Some(_), ..) => Health::Down,
            (None, Role::Unknown, _) | (None, _, Some(Probed { up: false, .. })) => Health::Unknown,
            (None, ..) => Health::Up,
        };
        let probed = probed.unwrap_or_default();
        let pool = node.pool().ok().flatten().map(|pool| PoolStatus::of(pool.counts(), pool.max()));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            name: node.name().to_string(),
            host,
            port,
            role,
            health,
            reason: trouble.or(probed.reason),
            timeline: probed.timeline,
            position: probed.position,
            lag_bytes: probed.lag_bytes,
            lag_ms: probed.lag.map(millis),
            in_flight: node.gauges.in_flight(),
            latency_us: node.gauges.latency_us(),
            pool,
            statements: node.gauges.statements(),
            probes: count(&node.probe_connection.probes),
            token_probes: count(&node.probe_connection.token_probes),
            position_probes: count(&node.probe_connection.position_probes),
        }
    }
}

/// What is known of a node from its probes.
#[derive(Debug, Default)]
struct Probed {
    up: bool,
    reason: Option<String>,
    timeline: Option<u32>,
    position: Option<Lsn>,
    lag_bytes: Option<u64>,
    lag: Option<Duration>,
}

impl Probed {
    fn of(node: &Arc<Node>, monitor: &Monitor, state: &ClusterState) -> Self {
        let now = Instant::now();
        let progress_and_lag = |topology: &mut Topology, number| {
            let up = topology.is_up(number);
            let (bytes, lag) = if up { topology.lag(number, now) } else { (None, None) };
            (topology.progress(number).filter(|_| up), bytes, lag)
        };
        let (Some((progress, lag_bytes, lag)), Some(view)) =
            (monitor.known(node, progress_and_lag), state.view(node))
        else {
            return Self::default();
        };
        let confirmed = view.position.map(|(position, _)| position.timeline);
        let timeline = progress.and_then(|progress| progress.timeline).or(confirmed);
        Self {
            up: view.up,
            reason: why_not_used(node, monitor, state, progress.zip(lag)),
            timeline: timeline.filter(|_| view.up),
            position: progress.map(|progress| progress.lsn),
            lag_bytes,
            lag,
        }
    }
}

/// Why reads are not routed to a node. `None` if they are, or if it is not known as a replica.
fn why_not_used(
    node: &Arc<Node>,
    monitor: &Monitor,
    state: &ClusterState,
    progress: Option<(Progress, Duration)>,
) -> Option<String> {
    let view = state.view(node)?;
    if let Some(exclusion) = &view.excluded {
        return Some(state.describe(exclusion));
    }
    if !view.is_usable_replica() {
        return None;
    }
    if state.primary().is_none() {
        return Some("no primary answers, so how far it lags is not known".to_owned());
    }
    let (progress, lag) = progress?;
    if view.in_rotation(Instant::now(), monitor.config.max_lag) {
        return None;
    }
    let delay = match progress.apply_delay {
        Duration::ZERO => String::new(),
        delay => format!(" (its recovery_min_apply_delay is {delay:?})"),
    };
    Some(format!("it lags {lag:.1?} behind{delay}"))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
