//! What the monitor tells people: why a node is not used, and its part of the status.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Monitor, Picture};
use crate::node::{Node, Role};
use crate::router::topology::Topology;
use crate::router::{Exclusion, Lsn, NodeView};

/// See [`Monitor::standing`].
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) up: bool,
    pub(crate) reason: Option<String>,
    pub(crate) timeline: Option<u32>,
    pub(crate) position: Option<Lsn>,
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) lag: Option<Duration>,
    pub(crate) probes: u64,
    pub(crate) token_probes: u64,
}

impl Picture {
    /// The reason and the fix, for logs and status.
    pub(super) fn describe(&self, excluded: &Exclusion) -> String {
        let name = |number: usize| &self.servers[number].name;
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

    /// Each node and what it is, where no one is the primary.
    pub(crate) fn roll_call(&self) -> String {
        let of = |(server, node): (&Arc<Node>, &NodeView)| {
            let name = &server.name;
            match (server.trouble(), &node.excluded) {
                (Some(trouble), _) => format!("`{name}` is down ({trouble})"),
                (None, Some(excluded)) => format!("`{name}`: {}", self.describe(excluded)),
                (None, None) if node.role == Role::Replica => format!("`{name}` is a replica"),
                (None, None) => format!("`{name}` does not answer"),
            }
        };
        self.servers.iter().zip(&self.nodes).map(of).collect::<Vec<_>>().join(", ")
    }
}

impl Monitor {
    /// The node's part of the status: position, timeline, lag, why it is not in use.
    pub(crate) fn standing(&self, node: &Arc<Node>) -> Standing {
        let now = Instant::now();
        let known = |topology: &mut Topology, number| {
            let up = topology.is_up(number);
            let (bytes, lag) = if up { topology.lag(number, now) } else { (None, None) };
            (topology.progress(number).filter(|_| up), bytes, lag)
        };
        let snapshot = self.snapshot();
        let (Some((progress, lag_bytes, lag)), Some(number)) =
            (self.with(node, known), snapshot.number(node))
        else {
            return Standing::default();
        };
        let view = &snapshot.nodes[number];
        let lags = snapshot.primary.is_some()
            && view.is_usable_replica()
            && !view.in_rotation(now, self.config.max_lag);
        let reason = match (&view.excluded, lag, progress) {
            (Some(excluded), _, _) => Some(snapshot.describe(excluded)),
            (None, Some(lag), Some(progress)) if lags => {
                let delay = match progress.apply_delay {
                    Duration::ZERO => String::new(),
                    delay => format!(" (its recovery_min_apply_delay is {delay:?})"),
                };
                Some(format!("it lags {lag:.1?} behind{delay}"))
            }
            (None, ..) if view.is_usable_replica() && snapshot.primary.is_none() => {
                Some("no primary answers, so how far it lags is not known".to_owned())
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
            probes: node.line.probes.load(Ordering::Relaxed),
            token_probes: node.line.token_probes.load(Ordering::Relaxed),
        }
    }
}
