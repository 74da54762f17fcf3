//! What the router sees of the topology: a snapshot, and why a node is not used.

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
            // Nothing can be compared with a primary that tells no positions.
            _ if !positions => Some(sample.began),
            Some(progress) => self.lag.fresh_as_of(progress),
            None => None,
        };
        NodeView {
            role: sample.role,
            up: node.health.is_up(),
            excluded: self.exclusion(number, positions),
            position: node.confirmed,
            fresh_as_of,
            incarnation: node.incarnation,
            readmitted: node.readmitted,
        }
    }

    /// Why the node is not in the rotation, whatever its lag. `positions` says whether the primary
    /// tells positions.
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
            return self.primary_before(number, sample.progress).map(Exclusion::SecondPrimary);
        }
        let Some(progress) = sample.progress else {
            return positions.then_some(Exclusion::NoPosition);
        };
        // The control file may not name a promotion yet that the replica has followed. It is left out
        // all the same: as far as is known, it may also have stayed behind.
        let timeline = progress.timeline.or(progress.control.map(|(timeline, _)| timeline));
        if let Some(timeline) = timeline
            && self.timeline != 0
            && timeline != self.timeline
        {
            return Some(Exclusion::OtherTimeline(timeline));
        }
        (progress.paused && self.lag.is_behind(progress)).then_some(Exclusion::Paused)
    }

    /// The node that is the cluster's primary while this one takes writes too.
    fn primary_before(&self, number: usize, progress: Option<Progress>) -> Option<usize> {
        let timeline = progress.and_then(|progress| progress.timeline);
        let is_superseded = timeline.is_some_and(|timeline| timeline < self.timeline);
        let primary = self.primary.or(is_superseded.then_some(self.writer));
        primary.filter(|primary| *primary != number)
    }

    /// Bytes and time by which a replica is behind the primary, as far as that is known.
    pub(crate) fn lag(&self, number: usize, now: Instant) -> (Option<u64>, Option<Duration>) {
        // What a primary had that does not answer any more says nothing about now.
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
