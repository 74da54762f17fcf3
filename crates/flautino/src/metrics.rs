//! What the engine tells the recorder of the [`metrics`](https://docs.rs/metrics) facade. Behind the feature
//! `metrics`, which is off by default.
//!
//! Install the recorder before the engine is opened or used: what was registered before that goes nowhere. A
//! recorder that forgets what was idle for a while (`idle_timeout` of the one for Prometheus) may do so with
//! gauges only, since a counter or a histogram that it has forgotten does not come back.
//!
//! The names that begin with `db.client` and their labels are those of OpenTelemetry's conventions for
//! [database clients](https://opentelemetry.io/docs/specs/semconv/db/database-metrics/). An exporter writes them
//! as its format demands: to Prometheus, `db.client.connection.wait_time` is
//! `db_client_connection_wait_time_seconds`.
//!
//! Everything about a node has three labels: `flautino.engine`, the [`name`](crate::EngineConfig::name) in the
//! configuration, which tells several engines of one app apart; `flautino.node`, the node's name; and
//! `db.client.connection.pool.name`, its `address:port/database`.
//!
//! | Name | Kind, unit | Meaning |
//! |---|---|---|
//! | [`db.client.connection.wait_time`](WAIT_TIME) | histogram, s | From asking for a connection to having it, a ping and the app's hooks included; 0 where one is warm |
//! | [`db.client.connection.use_time`](USE_TIME) | histogram, s | From having it to the moment when others can have it, its reset included |
//! | [`db.client.connection.create_time`](CREATE_TIME) | histogram, s | Making one, its session set up |
//! | [`db.client.connection.count`](CONNECTIONS) | gauge, connections | By `db.client.connection.state`: `idle` or `used` |
//! | [`db.client.connection.max`](MAX_CONNECTIONS) | gauge, connections | The most that the pool may have |
//! | [`db.client.connection.pending_requests`](PENDING_REQUESTS) | gauge, callers | Who waits for a connection |
//! | [`db.client.connection.timeouts`](TIMEOUTS) | counter, callers | Who got none within `acquire_timeout`, by the `step` in which they waited: `waiting_for_slot`, `connecting`, `hook`, `waiting_for_app_pool`. Who left earlier is not counted |
//! | [`db.client.operation.duration`](OPERATION_DURATION) | histogram, s | A statement of the app's, from sending it to the end of its result, with what the app does between the rows of a stream. `error.type` if it failed: the SQLSTATE, a kind such as `io` or `node_down`, or `cancelled` where it was given up, which is noticed when its connection is used again or given back |
//! | [`flautino.statements`](STATEMENTS) | counter, statements | Sent to the node, by [`reason`](crate::Reason): `rescued` and `retried` are those that were run again |
//! | [`flautino.events`](EVENTS) | counter, events | What happened to the node, by the `kind` of an [`EngineEvent`](crate::EngineEvent): `primary` is told whenever the node is found to take the writes, also at the start; `down` is an outage, `waited` a statement that found no primary, `rescued` one that failed here and was run again |
//! | [`flautino.node.failures`](NODE_FAILURES) | counter, failures | Connections that could not be had, and statements that failed because of the server or the way to it: a connection lost, the node down, SQLSTATE 53, 58, XX. Never for what a statement asked |
//! | [`flautino.node.up`](NODE_UP) | gauge, 0 or 1 | Whether the node answers its probes; NaN without replicas, where nothing probes |
//! | [`flautino.node.primary`](NODE_PRIMARY) | gauge, 0 or 1 | Whether it takes the writes; NaN without replicas |
//! | [`flautino.node.excluded`](NODE_EXCLUDED) | gauge, 0 or 1 | Whether it answers and still serves no reads, for the reason in the status; NaN without replicas |
//! | [`flautino.node.lag`](NODE_LAG) | gauge, s | Upper bound for the age of what reads see on it; NaN where that is not known |
//! | [`flautino.node.lag.size`](NODE_LAG_SIZE) | gauge, bytes | How much of the primary's log it has not replayed; NaN where that is not known |
//! | [`flautino.node.in_flight`](NODE_IN_FLIGHT) | gauge, statements | Statements, leases and transactions that have a connection or wait for one |
//! | [`flautino.node.probes`](NODE_PROBES) | counter, statements | Probes |
//! | [`flautino.token.questions`](TOKEN_QUESTIONS) | counter, statements | How often the node was asked for a position that a token needed |
//! | [`flautino.token.unreadable`](TOKENS_UNREADABLE) | counter, tokens | Tokens of requests that could not be read or checked: forged, damaged, or of other keys. Without labels |
//! | [`flautino.position.questions`](POSITION_QUESTIONS) | counter, statements | How often the node was asked for a position that a read needed |
//! | [`flautino.request.repeats`](REQUEST_REPEATS) | counter, requests | Requests that sent one statement more often than `log_repeated` allows, by `http.request.method` and `http.route`; counted by the layer of `flautino-axum` |
//!
//! Histograms and counters are told as things happen, gauges once a second from [`open`](crate::Engine::open) to
//! `close`. When a node leaves or the engine closes, its connections count 0, and what else was known of it is NaN,
//! which no comparison with `<`, `>` or `==` matches. What a node had told stays in the recorder: where discovery
//! brings ever new addresses, that grows by some sixty series for each.
//!
//! Connections outside the engine's pools are not seen: those of [`Engine::pool`](crate::Engine::pool), and those
//! that are made before `open`.

/// The bounds, in seconds, that OpenTelemetry's conventions recommend for the histograms.
#[cfg(feature = "metrics")]
pub const BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

#[cfg(feature = "metrics")]
mod names;
#[cfg(feature = "metrics")]
mod recorded;
#[cfg(not(feature = "metrics"))]
mod unrecorded;

#[cfg(feature = "metrics")]
pub use self::names::*;
#[cfg(feature = "metrics")]
pub(crate) use self::recorded::{NodeMetrics, unreadable_token};
#[cfg(not(feature = "metrics"))]
pub(crate) use self::unrecorded::{NodeMetrics, unreadable_token};
