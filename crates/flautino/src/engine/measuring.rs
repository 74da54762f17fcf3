//! What is measured once a second for the recorder of the [`metrics`](crate::metrics) facade: the state of the
//! nodes and of their pools. All else is told where it happens.

use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::{Label, counter, gauge};
use tokio_util::sync::CancellationToken;

use super::state::EngineState;
use super::status::{Health, NodeStatus, PoolStatus, nodes_and_primary};
use crate::metrics as names;
use crate::monitor::EventKind;

const INTERVAL: Duration = Duration::from_secs(1);

impl EngineState {
    /// Measures from now on until `close`, unless it does already.
    pub(super) fn start_measuring(self: &Arc<Self>) {
        let mut measuring = self.measuring.lock();
        if measuring.is_none() {
            names::describe();
            // So that it begins with 0, and the first one is an increase.
            counter!(names::TOKENS_UNREADABLE).increment(0);
            let stop = CancellationToken::new();
            *measuring = Some(stop.clone().drop_guard());
            let repeatedly = measure_repeatedly(Arc::downgrade(self));
            self.tasks().spawn(async move { stop.run_until_cancelled(repeatedly).await });
        }
    }
}

async fn measure_repeatedly(engine: Weak<EngineState>) {
    let mut measured = Measured::default();
    loop {
        let Some(engine) = engine.upgrade() else { return };
        measured.measure(&engine);
        drop(engine);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The labels of the nodes that were measured last. When it is dropped, nothing is known of them any more.
#[derive(Default)]
struct Measured(Vec<Vec<Label>>);

impl Measured {
    fn measure(&mut self, engine: &EngineState) {
        let (statuses, primary) = nodes_and_primary(engine);
        let nodes = engine.nodes();
        let mut measured = Vec::with_capacity(nodes.len());
        for (number, status) in statuses.iter().enumerate() {
            // It has joined or left in between.
            let Some(node) = nodes.iter().find(|node| **node.name() == *status.name) else {
                continue;
            };
            let metrics = &node.server.metrics;
            // They begin with 0 too.
            EventKind::ALL.iter().for_each(|kind| drop(metrics.events(kind.as_str())));
            tell_state(status, primary == Some(number), metrics.labels());
            tell_pool(status.pool, metrics.labels());
            measured.push(metrics.labels().to_vec());
        }
        for gone in std::mem::replace(&mut self.0, measured) {
            if !self.0.contains(&gone) {
                forget(&gone);
            }
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.0.iter().for_each(|labels| forget(labels));
    }
}

fn tell_state(status: &NodeStatus, is_primary: bool, labels: &[Label]) {
    let is_up = match status.health {
        Health::Up => 1.0,
        Health::Down => 0.0,
        Health::Unknown => f64::NAN,
    };
    // Whether a node that never answered is the primary is not known either.
    let is_primary = match status.health {
        Health::Unknown => f64::NAN,
        Health::Up | Health::Down => f64::from(u8::from(is_primary)),
    };
    let is_excluded = status.health == Health::Up && status.reason.is_some();
    let lag = status.lag_ms.map(|millis| Duration::from_millis(millis).as_secs_f64());
    set(names::NODE_UP, labels, is_up);
    set(names::NODE_PRIMARY, labels, is_primary);
    set(names::NODE_EXCLUDED, labels, f64::from(u8::from(is_excluded)));
    set(names::NODE_LAG, labels, lag.unwrap_or(f64::NAN));
    set(names::NODE_LAG_SIZE, labels, status.lag_bytes.map_or(f64::NAN, float));
    set(names::NODE_IN_FLIGHT, labels, f64::from(status.in_flight));
    for (name, count) in [
        (names::NODE_PROBES, status.probes),
        (names::TOKEN_QUESTIONS, status.token_probes),
        (names::POSITION_QUESTIONS, status.position_probes),
    ] {
        counter!(name, labels.to_vec()).absolute(count);
    }
}

fn tell_pool(pool: Option<PoolStatus>, labels: &[Label]) {
    let count = |of: fn(PoolStatus) -> u32| f64::from(pool.map_or(0, of));
    for (state, count) in [
        ("idle", count(|pool| u32::try_from(pool.idle).unwrap_or(u32::MAX))),
        ("used", count(|pool| pool.in_use)),
    ] {
        let mut labels = labels.to_vec();
        labels.push(Label::from_static_parts("db.client.connection.state", state));
        set(names::CONNECTIONS, &labels, count);
    }
    set(names::MAX_CONNECTIONS, labels, count(|pool| pool.max));
    set(names::PENDING_REQUESTS, labels, count(|pool| pool.waiting));
}

/// The node has left, or the engine is closed.
fn forget(labels: &[Label]) {
    for name in [
        names::NODE_UP,
        names::NODE_PRIMARY,
        names::NODE_EXCLUDED,
        names::NODE_LAG,
        names::NODE_LAG_SIZE,
        names::NODE_IN_FLIGHT,
    ] {
        set(name, labels, f64::NAN);
    }
    tell_pool(None, labels);
}

fn set(name: &'static str, labels: &[Label], value: f64) {
    gauge!(name, labels.to_vec()).set(value);
}

/// A count as a recorder wants it: exact up to 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "no such count is that large")]
fn float(count: u64) -> f64 {
    count as f64
}
