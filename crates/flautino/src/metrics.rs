//! What the engine tells the recorder of the [`metrics`](https://docs.rs/metrics) facade. Behind the feature
//! `metrics`, which is off by default.
//!
//! Any recorder will do: one for Prometheus, `StatsD`, OpenTelemetry. Install it before the engine opens, since
//! what was registered before it goes nowhere.
//!
//! The names that begin with `db.client` and their labels are those of OpenTelemetry's conventions for
//! [database clients](https://opentelemetry.io/docs/specs/semconv/db/database-metrics/). An exporter writes them
//! as its format demands: to Prometheus, `db.client.connection.wait_time` is
//! `db_client_connection_wait_time_seconds`.
//!
//! Everything about a node has the labels `node`, its name, and `db.client.connection.pool.name`, its
//! `address:port/database`, which tells the main nodes of two engines apart.
//!
//! | Name | Kind, unit | Meaning |
//! |---|---|---|
//! | [`db.client.connection.wait_time`](WAIT_TIME) | histogram, s | From asking for a connection to having it; 0 where one was idle |
//! | [`db.client.connection.use_time`](USE_TIME) | histogram, s | From having it to the moment when others can have it, its reset included |
//! | [`db.client.connection.create_time`](CREATE_TIME) | histogram, s | Making one, its session set up |
//! | [`db.client.connection.count`](CONNECTIONS) | gauge, connections | By `db.client.connection.state`: `idle` or `used` |
//! | [`db.client.connection.max`](MAX_CONNECTIONS) | gauge, connections | The most that the pool may have |
//! | [`db.client.connection.pending_requests`](PENDING_REQUESTS) | gauge, callers | Who waits for a connection |
//! | [`db.client.connection.timeouts`](TIMEOUTS) | counter, callers | Who got none within `acquire_timeout` |
//! | [`db.client.operation.duration`](OPERATION_DURATION) | histogram, s | A statement of the app's, from sending it to the end of its result; `error.type` if it failed: the SQLSTATE, a kind such as `io`, or `cancelled` where it was given up |
//! | [`flautino.statements`](STATEMENTS) | counter, statements | Sent to the node, by [`reason`](crate::Reason): `rescued` and `retried` are those that were run again |
//! | [`flautino.events`](EVENTS) | counter, events | What happened to the node, by the `kind` of an [`EngineEvent`](crate::EngineEvent): `primary` is a change of roles, `down` an outage, `waited` a statement that found no primary |
//! | [`flautino.node.up`](NODE_UP) | gauge, 0 or 1 | Whether the node answers |
//! | [`flautino.node.primary`](NODE_PRIMARY) | gauge, 0 or 1 | Whether it takes the writes |
//! | [`flautino.node.excluded`](NODE_EXCLUDED) | gauge, 0 or 1 | Whether it answers and still serves no reads, for the reason in the status |
//! | [`flautino.node.lag`](NODE_LAG) | gauge, s | Upper bound for the age of what reads see on it; NaN where that is not known |
//! | [`flautino.node.lag.size`](NODE_LAG_SIZE) | gauge, bytes | How much of the primary's log it has not replayed; NaN where that is not known |
//! | [`flautino.node.in_flight`](NODE_IN_FLIGHT) | gauge, statements | Statements, leases and transactions that have a connection or wait for one |
//! | [`flautino.node.probes`](NODE_PROBES) | counter, statements | Probes |
//! | [`flautino.token.questions`](TOKEN_QUESTIONS) | counter, statements | How often the node was asked for a position that a token needed |
//! | [`flautino.token.unreadable`](TOKENS_UNREADABLE) | counter, tokens | Tokens of requests that could not be read or checked: forged, damaged, or of other keys |
//! | [`flautino.position.questions`](POSITION_QUESTIONS) | counter, statements | How often the node was asked for a position that a read needed |
//! | [`flautino.request.repeats`](REQUEST_REPEATS) | counter, requests | Requests that sent one statement more often than `log_repeated` allows, by `http.request.method` and `http.route`; counted by the layer of `flautino-axum` |
//!
//! Histograms and counters are told as things happen. Gauges, and the counters of questions and probes, are told
//! once a second while the engine is open. When a node leaves or the engine closes, its connections count 0, and
//! what else was known of it is NaN, which no comparison matches.
//!
//! A statement costs two records in histograms for its connection, one for itself, and one count.

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
