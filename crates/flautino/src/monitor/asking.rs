//! One question to one node, and what its outcome means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sqlx::PgConnection;

use super::{Monitor, probe};
use crate::error::timed_out;
use crate::node::{Node, ProbeState, Server};
use crate::router::{Exclusion, Role, Sample, Topology};
use crate::sqlstate::{CANNOT_CONNECT_NOW, TOO_MANY_CONNECTIONS, has_code};

/// What became of a question for a position.
pub(super) enum PositionAnswer {
    Told(Sample),
    NoAnswer,
    /// The server answers and does not tell, or it was not asked.
    Untold,
}

impl Monitor {
    /// Probes the node when nobody has asked for it.
    pub(super) async fn probe(&self, node: &Arc<Node>) -> Option<Sample> {
        let mut state = node.probe_connection.lock().await;
        node.probe_connection.probes.fetch_add(1, Ordering::Relaxed);
        self.ask(node, &mut state).await
    }

    /// Asks the node how it is, and publishes what that changes.
    pub(super) async fn ask(&self, node: &Arc<Node>, state: &mut ProbeState) -> Option<Sample> {
        let began = Instant::now();
        if self.known(node, |topology, number| topology.has_several_servers(number)) == Some(true) {
            // Each probe goes over a new connection, to see whether the name still leads to several.
            state.connection = None;
        }
        let asking = async {
            // Taken out of the state, so that the connection closes if this is dropped half-way.
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

    /// Asks a primary for its position only, which costs it less.
    pub(super) async fn ask_position(
        &self,
        node: &Arc<Node>,
        state: &mut ProbeState,
    ) -> PositionAnswer {
        let latest = state.latest.filter(|latest| latest.role == Role::Primary);
        let Some(latest) = latest else { return PositionAnswer::Untold };
        let Some(mut connection) = state.connection.take() else { return PositionAnswer::Untold };
        let began = Instant::now();
        let asking = probe::position(&node.server.sender, &mut connection, latest);
        match tokio::time::timeout(self.config.probe_timeout, asking).await {
            Ok(Ok(Some(sample))) => {
                self.answered(node, state, connection, sample);
                PositionAnswer::Told(sample)
            }
            // A whole probe finds out why.
            Ok(Ok(None) | Err(_)) => PositionAnswer::Untold,
            Err(_) => {
                self.failed(node, state, began, &self.no_answer());
                node.probe_connection.suspect();
                PositionAnswer::NoAnswer
            }
        }
    }

    fn no_answer(&self) -> sqlx::Error {
        timed_out(format!("did not answer within {:?}", self.config.probe_timeout))
    }

    /// Publishes what an answer changes, and keeps the connection that it came by.
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

    /// Publishes what it changes that a question which began at this moment was not answered.
    fn failed(
        &self,
        node: &Arc<Node>,
        state: &mut ProbeState,
        began: Instant,
        error: &sqlx::Error,
    ) {
        state.unanswered = Some(began);
        // A full server is not a dead one.
        if has_code(error, TOO_MANY_CONNECTIONS) {
            self.known(node, Topology::observe_full);
            return;
        }
        // Nor is a busy one, or any server as seen from a busy machine.
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

    /// A new connection of a pool was answered by a server that started at this moment. Looks whether
    /// that is the server which the monitor knows under the name.
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
        // It was restarted, or there are two. A restart ends the probe connection too, so the first
        // probe after it may fail.
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

/// Whether nothing serves there: no one listens, or the server says that it starts or stops.
fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => has_code(error, CANNOT_CONNECT_NOW),
    }
}
