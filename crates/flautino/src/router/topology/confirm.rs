//! Which reported positions can be relied on: those whose timeline is confirmed.
//!
//! Positions on two timelines cannot be compared, and the timeline of a standby is hard to learn. A
//! cascading standby changes its timeline while it stays in recovery. An ordinary role can read the
//! timeline only from the control file, which the server updates late. A position is confirmed in
//! one of three ways:
//!
//! - by the WAL receiver: `pg_stat_wal_receiver.received_tli`, which is asked *after* the replay
//!   position, since replay is never on a later timeline than the received WAL. Only roles with
//!   `pg_read_all_stats` (a part of `pg_monitor`) can see it.
//! - by the control file, which names a place that replay has passed, and its timeline. Both are
//!   certain, but old.
//! - by the other nodes: if the control file names the primary's timeline, replay is on that one or
//!   on a later one. It can be on a later one only if some node was promoted. So the position is
//!   confirmed once every other node was probed after it and none had been promoted.
//!
//! An engine that opens while there is no primary does not know the primary's timeline. It takes
//! the latest one that the control file of a replica names: no server that the engine can reach has
//! a later one.

use std::time::Instant;

use super::{NodeState, Topology};
use crate::router::position::{Position, XidHorizon};
use crate::router::sample::{Progress, Sample};
use crate::router::snapshot::{Exclusion, Role};

impl NodeState {
    /// Takes over a confirmed position, unless the one that is already known covers it.
    fn confirm(&mut self, position: Position, as_of: Option<Instant>) {
        match &mut self.confirmed {
            Some((confirmed, since)) if confirmed.later(position) == *confirmed => {
                *since = as_of.or(*since);
            }
            confirmed => *confirmed = Some((position, as_of)),
        }
    }

    /// Takes over a replica's transaction horizon, whose timeline is confirmed.
    fn confirm_ended(&mut self, system: u64, timeline: u32, progress: Progress) {
        let ended = XidHorizon::new(system, timeline, progress.xid_horizon);
        let is_newer = |before: &XidHorizon| {
            before.system != system || (before.timeline, before.xid) < (timeline, ended.xid)
        };
        if self.ended.as_ref().is_none_or(is_newer) {
            self.ended = Some(ended);
        }
    }
}

impl Topology {
    /// Confirms positions of the node by its WAL receiver and its control file; see the module.
    pub(super) fn confirm_by_sample(&mut self, number: usize, sample: Sample) {
        let node = &mut self.nodes[number];
        let (Some(system), Some(progress)) = (sample.server.system, sample.progress) else {
            return;
        };
        if let (Some((timeline, lsn)), Role::Replica) = (progress.control, sample.role) {
            node.confirm(Position::new(system, timeline, lsn), None);
        }
        if let Some(timeline) = progress.timeline {
            let position = sample.position_on(system, timeline, progress);
            node.confirm(position, Some(sample.began));
            if sample.role == Role::Replica {
                node.confirm_ended(system, timeline, progress);
            }
        }
        if sample.role == Role::Replica && progress.timeline.is_none() {
            node.unconfirmed.get_or_insert((sample.began, progress));
        } else {
            node.unconfirmed = None;
        }
    }

    /// Confirms replay positions by the other nodes; see the module.
    pub(super) fn confirm_by_others(&mut self) {
        let Some(system) = self.system else { return };
        let Some(timeline) = self.expected_timeline() else { return };
        for number in 0..self.nodes.len() {
            let Some((asked, progress)) = self.nodes[number].unconfirmed else { continue };
            let control = self.progress(number).and_then(|progress| progress.control);
            // A replica whose control file names another timeline may never follow the promotion.
            let follows = control.is_some_and(|(own, _)| own == timeline);
            let is_ours = self.server(number).is_some_and(|server| server.system == Some(system));
            let mut others = (0..self.nodes.len()).filter(|other| *other != number);
            if follows && is_ours && others.all(|other| self.was_not_promoted_by(other, asked)) {
                let node = &mut self.nodes[number];
                node.confirm(Position::new(system, timeline, progress.lsn), Some(asked));
                node.confirm_ended(system, timeline, progress);
                // A later sample, if there is one, is confirmed next.
                node.unconfirmed = node
                    .sample
                    .filter(|sample| sample.began > asked)
                    .and_then(|sample| sample.progress.map(|progress| (sample.began, progress)));
            }
        }
    }

    /// Whether the node had certainly not been promoted by this moment.
    fn was_not_promoted_by(&self, number: usize, moment: Instant) -> bool {
        let node = &self.nodes[number];
        let after = |asked: Option<Instant>| asked.is_some_and(|asked| asked > moment);
        let belongs_elsewhere = matches!(
            self.exclusion(number, true),
            Some(Exclusion::OtherSystem(_) | Exclusion::SameServer(_))
        );
        if belongs_elsewhere || after(node.refused) {
            return true;
        }
        let sample = node.sample.filter(|_| node.health.is_up());
        // A second primary may have been promoted by then. If several servers share an address, the
        // others may have been.
        let is_trusted = Some(number) == self.primary
            || sample.is_some_and(|sample| sample.role == Role::Replica);
        is_trusted && node.several_servers.is_none() && after(sample.map(|sample| sample.began))
    }

    /// The timeline on which all nodes should be: the primary's, or the latest one that is known.
    fn expected_timeline(&self) -> Option<u32> {
        if self.timeline > 0 {
            return Some(self.timeline);
        }
        let nodes = 0..self.nodes.len();
        let trusted = nodes.filter(|number| self.exclusion(*number, true).is_none());
        trusted.filter_map(|number| Some(self.progress(number)?.control?.0)).max()
    }
}
