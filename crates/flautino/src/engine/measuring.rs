//! What is measured once a second for the recorder of the [`metrics`](crate::metrics) facade: the state of the
//! nodes and of their pools. All else is told where it happens.

use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::{Label, counter, gauge};
use tokio_util::sync::CancellationToken;

use super::state::{EngineState, Measuring};
use super::status::{Health, NodeStatus, PoolStatus, nodes_and_primary};
use crate::error::AcquireStep;
use crate::metrics as names;
use crate::monitor::EventKind;

const INTERVAL: Duration = Duration::from_secs(1);

impl EngineState {
    /// Measures from now on until `close`, unless it does already.
    pub(super) fn start_measuring(self: &Arc<Self>) {
        let mut measuring = self.measuring.lock();
        // It ends with its runtime, and an engine over a pool of the app's own can go on in another one.
        if measuring.as_ref().is_some_and(Measuring::goes_on) {
            return;
        }
        names::describe();
        // So that it begins with 0, and the first one is an increase.
        counter!(names::TOKENS_UNREADABLE).increment(0);
        let stop = CancellationToken::new();
        let repeatedly = measure_repeatedly(Arc::downgrade(self));
        let stopped = stop.clone();
        let task = self.tasks().spawn(async move {
            stopped.run_until_cancelled(repeatedly).await;
        });
        *measuring = Some(Measuring::new(task, stop.drop_guard()));
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
        let state = engine.monitor().state().clone();
        let (statuses, primary) = nodes_and_primary(engine, &state);
        let mut measured = Vec::with_capacity(statuses.len());
        for (number, (node, status)) in state.nodes.iter().zip(&statuses).enumerate() {
            let metrics = &node.server.metrics;
            // They begin with 0 too.
            EventKind::ALL.iter().for_each(|kind| metrics.events(kind.as_str()).increment(0));
            metrics.timeouts(AcquireStep::WaitingForSlot).increment(0);
            metrics.failures().increment(0);
            // Without replicas nothing asks a server whether it is still there.
            let known = engine.monitor().routes().then_some(primary == Some(number));
            tell_state(status, known, metrics.labels());
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

/// `is_primary` is `None` where nothing is known of roles and health.
fn tell_state(status: &NodeStatus, is_primary: Option<bool>, labels: &[Label]) {
    let is_up = match status.health {
        Health::Up => Some(true),
        Health::Down => Some(false),
        Health::Unknown => None,
    };
    let is_up = is_up.filter(|_| is_primary.is_some());
    let is_excluded = is_up.map(|is_up| is_up && status.reason.is_some());
    let lag = status.lag_ms.map(|millis| Duration::from_millis(millis).as_secs_f64());
    let flag = |is_set: Option<bool>| is_set.map(|is_set| f64::from(u8::from(is_set)));
    let values = [
        flag(is_up),
        flag(is_primary),
        flag(is_excluded),
        lag,
        status.lag_bytes.map(float),
        Some(f64::from(status.in_flight)),
    ];
    set_state(values, labels);
}

/// Up, primary, excluded, lag in time and in bytes, in flight; `None` for what is not known.
fn set_state(values: [Option<f64>; 6], labels: &[Label]) {
    let names = [
        names::NODE_UP,
        names::NODE_PRIMARY,
        names::NODE_EXCLUDED,
        names::NODE_LAG,
        names::NODE_LAG_SIZE,
        names::NODE_IN_FLIGHT,
    ];
    for (name, value) in names.into_iter().zip(values) {
        set(name, labels, value.unwrap_or(f64::NAN));
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
    set_state([None; 6], labels);
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
