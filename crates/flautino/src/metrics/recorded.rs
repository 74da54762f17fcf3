//! The metrics of one node, with what is told on each statement registered once.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Label, counter, histogram};

use super::names;
use crate::error::AcquireStep;
use crate::router::Reason;

pub(crate) struct NodeMetrics {
    labels: Vec<Label>,
    /// Labels of `db.client.operation.duration`.
    operation_labels: Vec<Label>,
    /// Made at the first use, by when the app has installed its recorder.
    handles: OnceLock<Handles>,
}

struct Handles {
    wait_time: Histogram,
    use_time: Histogram,
    create_time: Histogram,
    duration: Histogram,
    probes: Counter,
    token_questions: Counter,
    position_questions: Counter,
    /// A reason that is never met makes no series.
    statements: [OnceLock<Counter>; Reason::ALL.len()],
}

impl NodeMetrics {
    pub(crate) fn new(
        engine: &str,
        node: &str,
        (host, port): (&str, u16),
        database: Option<&str>,
    ) -> Self {
        // Without a name the server takes the role's, which is none of the recorder's business.
        let pool = format!("{host}:{port}/{}", database.unwrap_or_default());
        let labels = vec![
            Label::new("db.client.connection.pool.name", pool),
            Label::new("flautino.engine", engine.to_owned()),
            Label::new("flautino.node", node.to_owned()),
        ];
        let mut operation_labels = labels.clone();
        operation_labels.extend([
            Label::from_static_parts("db.system.name", "postgresql"),
            Label::new("server.address", host.to_owned()),
            Label::new("server.port", port.to_string()),
        ]);
        let namespace = database.map(|name| Label::new("db.namespace", name.to_owned()));
        operation_labels.extend(namespace);
        Self { labels, operation_labels, handles: OnceLock::new() }
    }

    /// What all metrics of the node carry.
    pub(crate) fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// When a statement is sent.
    pub(crate) fn starts() -> Option<Instant> {
        Some(Instant::now())
    }

    /// Somebody got a connection, after so long.
    pub(crate) fn waited(&self, elapsed: Duration) {
        self.handles().wait_time.record(elapsed);
    }

    /// Somebody got no connection in time.
    pub(crate) fn timed_out(&self, step: AcquireStep) {
        self.timeouts(step).increment(1);
    }

    /// How many got no connection in time, in this step.
    pub(crate) fn timeouts(&self, step: AcquireStep) -> Counter {
        counter!(names::TIMEOUTS, self.labels_and("step", step.kind()))
    }

    /// A connection can be had by others again.
    pub(crate) fn used(&self, elapsed: impl FnOnce() -> Duration) {
        self.handles().use_time.record(elapsed());
    }

    /// A connection was made.
    pub(crate) fn created(&self, elapsed: impl FnOnce() -> Duration) {
        self.handles().create_time.record(elapsed());
    }

    /// A connection could not be had, or a statement failed, because of the server.
    pub(crate) fn failed(&self) {
        self.failures().increment(1);
    }

    /// How often that was so.
    pub(crate) fn failures(&self) -> Counter {
        counter!(names::NODE_FAILURES, self.labels.clone())
    }

    /// A statement is sent.
    pub(crate) fn sent(&self, reason: Reason) {
        let counter = self.handles().statements[reason as usize].get_or_init(|| {
            counter!(names::STATEMENTS, self.labels_and("reason", reason.as_str()))
        });
        counter.increment(1);
    }

    /// A statement's result was read to its end, or it failed, for a reason of this type.
    pub(crate) fn took(&self, elapsed: Duration, error: Option<&str>) {
        match error {
            None => self.handles().duration.record(elapsed),
            Some(error) => {
                let mut labels = self.operation_labels.clone();
                labels.push(Label::new("error.type", error.to_owned()));
                histogram!(names::OPERATION_DURATION, labels).record(elapsed);
            }
        }
    }

    /// The node is probed.
    pub(crate) fn probed(&self) {
        self.handles().probes.increment(1);
    }

    /// The node is asked for its position, because a token needs it.
    pub(crate) fn asked_for_token(&self) {
        self.handles().token_questions.increment(1);
    }

    /// The node is asked for its position, because a read needs it.
    pub(crate) fn asked_for_read(&self) {
        self.handles().position_questions.increment(1);
    }

    /// Something happened to the node.
    pub(crate) fn happened(&self, kind: &'static str) {
        self.events(kind).increment(1);
    }

    /// How often something of this kind happened to the node.
    pub(crate) fn events(&self, kind: &'static str) -> Counter {
        counter!(names::EVENTS, self.labels_and("kind", kind))
    }

    /// The node's labels and one more.
    pub(crate) fn labels_and(&self, key: &'static str, value: &'static str) -> Vec<Label> {
        let mut labels = self.labels.clone();
        labels.push(Label::from_static_parts(key, value));
        labels
    }

    fn handles(&self) -> &Handles {
        self.handles.get_or_init(|| {
            let histogram = |name| histogram!(name, self.labels.clone());
            let counter = |name| counter!(name, self.labels.clone());
            Handles {
                wait_time: histogram(names::WAIT_TIME),
                use_time: histogram(names::USE_TIME),
                create_time: histogram(names::CREATE_TIME),
                duration: histogram!(names::OPERATION_DURATION, self.operation_labels.clone()),
                probes: counter(names::NODE_PROBES),
                token_questions: counter(names::TOKEN_QUESTIONS),
                position_questions: counter(names::POSITION_QUESTIONS),
                statements: [const { OnceLock::new() }; Reason::ALL.len()],
            }
        })
    }
}

impl std::fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeMetrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

/// A request brought a token that could not be read.
pub(crate) fn unreadable_token() {
    counter!(names::TOKENS_UNREADABLE).increment(1);
}
