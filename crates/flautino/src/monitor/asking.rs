//! One probe of one node, and what its outcome means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sqlx::PgConnection;

use super::{Monitor, probe};
use crate::error::timed_out;
use crate::node::{Node, ProbeState, Server};
use crate::router::{Exclusion, Sample, Topology};
use crate::sqlstate::{CANNOT_CONNECT_NOW, TOO_MANY_CONNECTIONS, has_code};

/// The outcome of asking a node for its position only.
enum PositionAnswer {
    Position(Sample),
    /// The server did not answer in time.
    TimedOut,
    /// The node was not asked, or its answer has no position; a whole probe finds out why.
    Unavailable,
}

impl Monitor {
    /// Probes the node, for the monitor itself.
    pub(super) async fn probe(&self, node: &Arc<Node>) -> Option<Sample> {
        let mut state = node.probe_connection.lock().await;
        node.probe_connection.probes.fetch_add(1, Ordering::Relaxed);
        node.server.metrics.probed();
        self.ask(node, &mut state).await
    }

    /// Sends a probe and publishes what its outcome changes. Returns `None` if the node does not
    /// answer.
    pub(super) async fn ask(&self, node: &Arc<Node>, state: &mut ProbeState) -> Option<Sample> {
        let began = Instant::now();
        if self.known(node, |topology, number| topology.has_several_servers(number)) == Some(true) {
            // Probe over a new connection each time, to see whether the address still leads to
            // several servers.
            state.connection = None;
        }
        let asking = async {
            // Take the connection out of the state, so that it closes if this is dropped half-way.
            let mut connection = match state.connection.take() {
                Some(connection) => connection,
                None => node.server.connect_beside("flautino monitor").await?,
            };
            let sample = probe::sample(&node.server.sender, &mut connection).await?;
            Ok((connection, sample))
        };
        let late = |_| Err(self.no_answer());
        match tokio::time::timeout(self.config.probe_timeout, asking).await.unwrap_or_else(late) {
            Ok((connection, sample)) => {
                node.gauges.probed(sample.round_trip);
                self.answered(node, state, connection, sample);
                Some(sample)
            }
            Err(error) => {
                self.failed(node, state, began, &error);
                None
            }
        }
    }

    /// Asks the node for its position, and sends a whole probe if that is not enough. Returns `None`
    /// if the node does not answer.
    pub(super) async fn ask_position_or_all(
        &self,
        node: &Arc<Node>,
        state: &mut ProbeState,
    ) -> Option<Sample> {
        match self.ask_position(node, state).await {
            PositionAnswer::Position(sample) => Some(sample),
            PositionAnswer::TimedOut => None,
            PositionAnswer::Unavailable => self.ask(node, state).await,
        }
    }

    /// Asks the node for its position only, which costs the server less than a whole probe.
    async fn ask_position(&self, node: &Arc<Node>, state: &mut ProbeState) -> PositionAnswer {
        let Some(latest) = state.latest else { return PositionAnswer::Unavailable };
        let Some(mut connection) = state.connection.take() else {
            return PositionAnswer::Unavailable;
        };
        let began = Instant::now();
        let asking = probe::position(&node.server.sender, &mut connection, latest);
        match tokio::time::timeout(self.config.probe_timeout, asking).await {
            Ok(Ok(Some(sample))) => {
                self.answered(node, state, connection, sample);
                PositionAnswer::Position(sample)
            }
            Ok(Ok(None) | Err(_)) => PositionAnswer::Unavailable,
            Err(_) => {
                self.failed(node, state, began, &self.no_answer());
                node.probe_connection.suspect();
                PositionAnswer::TimedOut
            }
        }
    }

    fn no_answer(&self) -> sqlx::Error {
        timed_out(format!("did not answer within {:?}", self.config.probe_timeout))
    }

    /// Publishes what the answer to a probe changes, and keeps the probe's connection.
    fn answered(
        &self,
        node: &Arc<Node>,
        state: &mut ProbeState,
        connection: PgConnection,
        sample: Sample,
    ) {
        let is_kept = self.is_running() && !node.left.is_cancelled();
        state.connection = is_kept.then_some(connection);
        state.latest = Some(sample);
        if let Some(change) = self.known(node, |topology, number| topology.answered(number, sample))
        {
            self.apply(node, change, Some(sample.role), None);
        }
    }

    /// Publishes what the failure of a probe changes. `began` is when the probe began.
    fn failed(
        &self,
        node: &Arc<Node>,
        state: &mut ProbeState,
        began: Instant,
        error: &sqlx::Error,
    ) {
        state.unanswered = Some(began);
        // A server that has no connection left is running.
        if has_code(error, TOO_MANY_CONNECTIONS) {
            self.known(node, Topology::observe_full);
            return;
        }
        // So is one that has just answered a statement. Either the server or this machine is too
        // busy for the probe.
        if node.gauges.answered_since(Instant::now() - self.config.probe_timeout / 2) {
            self.known(node, Topology::doubt);
            return;
        }
        state.latest = None;
        let refused = is_refusal(error);
        let failed = |topology: &mut Topology, number| topology.failed(number, began, refused);
        if let Some(change) = self.known(node, failed) {
            self.apply(node, change, None, Some(error));
        }
    }

    /// Checks whether a new connection of a pool reached the server that the monitor probes.
    /// `started` is when the server at the other end of that connection started.
    pub(super) async fn check_server(&self, server: &Arc<Server>, started: i64) {
        let state = self.state().clone();
        let Some(node) = state.nodes.iter().find(|node| Arc::ptr_eq(&node.server, server)) else {
            return;
        };
        let excluded = state.view(node).and_then(|view| view.excluded.as_ref());
        if excluded == Some(&Exclusion::SeveralServers) || !self.is_running() {
            return;
        }
        let known = self.known(node, |topology, number| topology.server(number)).flatten();
        if known.is_none_or(|known| known.started == started) {
            return;
        }
        // Either the server was restarted, or the address leads to two servers. A restart also
        // breaks the probe connection, so the first probe after it may fail.
        for _ in 0..2 {
            match self.probe(node).await {
                Some(sample) if sample.server.started == started => return,
                Some(_) => {
                    self.known(node, Topology::observe_several_servers);
                    return self.publish();
                }
                None => {}
            }
        }
    }
}

/// Whether nothing serves at the address: nothing listens there, or the server reports that it is
/// starting or stopping.
fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => has_code(error, CANNOT_CONNECT_NOW),
    }
}
