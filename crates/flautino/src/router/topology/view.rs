//! What the router sees of the topology: the snapshot, and why a node is excluded.

use std::time::{Duration, Instant};

use super::Topology;
use crate::router::sample::Progress;
use crate::router::snapshot::{Exclusion, NodeView, Role, Snapshot};

impl Topology {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let positions = self.primary.is_none_or(|primary| self.progress(primary).is_some());
        Snapshot {
            nodes: (0..self.nodes.len()).map(|number| self.view(number, positions)).collect(),
            primary: self.primary,
            writer: self.writer,
            positions,
        }
    }

    fn view(&self, number: usize, positions: bool) -> NodeView {
        let node = &self.nodes[number];
        let Some(sample) = node.sample else {
            return NodeView { incarnation: node.incarnation, ..NodeView::unknown() };
        };
        let fresh_as_of = match sample.progress {
            // Lag cannot be measured against a primary that reports no position, so every replica
            // counts as fresh.
            _ if !positions => Some(sample.began),
            Some(progress) => self.lag.fresh_as_of(progress),
            None => None,
        };
        NodeView {
            role: sample.role,
            up: node.health.is_up(),
            excluded: self.exclusion(number, positions),
            position: node.confirmed,
            ended: node.ended,
            fresh_as_of,
            incarnation: node.incarnation,
            readmitted: node.readmitted,
        }
    }

    /// Why the node is kept out of the rotation, whatever its lag. `positions` says whether the
    /// primary reports its position.
    pub(super) fn exclusion(&self, number: usize, positions: bool) -> Option<Exclusion> {
        let node = &self.nodes[number];
        let sample = node.sample?;
        if node.several_servers.is_some() {
            return Some(Exclusion::SeveralServers);
        }
        if let (Some(own), Some(system)) = (sample.server.system, self.system)
            && own != system
        {
            return Some(Exclusion::OtherSystem(own));
        }
        if let Some(other) = self.same_server_before(number) {
            return Some(Exclusion::SameServer(other));
        }
        if sample.role == Role::Primary {
            return self.other_primary(number, sample.progress).map(Exclusion::SecondPrimary);
        }
        let Some(progress) = sample.progress else {
            return positions.then_some(Exclusion::NoPosition);
        };
        // A replica that has followed a promotion may still have the old timeline in its control
        // file. It is excluded until that changes, because it may also have stayed on the old
        // timeline.
        let timeline = progress.timeline.or(progress.control.map(|(timeline, _)| timeline));
        if let Some(timeline) = timeline
            && self.timeline != 0
            && timeline != self.timeline
        {
            return Some(Exclusion::OtherTimeline(timeline));
        }
        (progress.paused && self.lag.is_behind(progress)).then_some(Exclusion::Paused)
    }

    /// The cluster's primary, if that is another node than this one, which takes writes too.
    fn other_primary(&self, number: usize, progress: Option<Progress>) -> Option<usize> {
        let timeline = progress.and_then(|progress| progress.timeline);
        let is_superseded = timeline.is_some_and(|timeline| timeline < self.timeline);
        let primary = self.primary.or(is_superseded.then_some(self.writer));
        primary.filter(|primary| *primary != number)
    }

    /// Bytes and time by which the replica is behind the primary, as far as they are known.
    pub(crate) fn lag(&self, number: usize, now: Instant) -> (Option<u64>, Option<Duration>) {
        // The last known position of a primary that is down does not show how far behind a replica
        // is now.
        let behind = |progress: Progress| {
            self.primary?;
            Some((progress, self.lag.bytes_behind(progress)?))
        };
        let Some((progress, bytes)) = self.progress(number).and_then(behind) else {
            return (None, None);
        };
        if self.exclusion(number, true).is_some_and(|why| why != Exclusion::Paused) {
            return (None, None);
        }
        let time = if self.lag.is_behind(progress) {
            let fresh_as_of = self.lag.fresh_as_of(progress);
            fresh_as_of.map(|moment| now.saturating_duration_since(moment))
        } else {
            Some(Duration::ZERO)
        };
        (Some(bytes), time)
    }
}
