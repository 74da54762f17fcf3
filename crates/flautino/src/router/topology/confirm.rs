//! Which positions count: those whose timeline is confirmed.
//!
//! Positions of two timelines cannot be compared, and a standby's timeline is hard to know: a
//! cascading standby changes its timeline while it stays in recovery, and an ordinary role sees only
//! what the control file says, which is written late. A position is confirmed in one of three ways:
//!
//! - by the receiver: `pg_stat_wal_receiver.received_tli`, asked *after* the replay position, since
//!   replay is never on a later timeline than what was received. Only roles with
//!   `pg_read_all_stats` (a part of `pg_monitor`) see it.
//! - by the control file: it names a place that replay has passed, and its timeline. True, but old.
//! - by the other nodes: where the control file names the primary's timeline, replay is on that one or
//!   on a later one. It can only be on a later one if some node was promoted; so it is confirmed
//!   once every other node was asked after it, and none was promoted.
//!
//! An engine that is opened while there is no primary does not know the primary's timeline. It takes
//! the latest one that a replica's control file names. If a later timeline existed, no server that
//! the engine can reach has it.

use std::time::Instant;

use super::{NodeState, Topology};
use crate::router::position::Position;
use crate::router::sample::Sample;
use crate::router::snapshot::{Exclusion, Role};

impl NodeState {
    /// Takes over a confirmed position, unless an earlier one covers it.
    fn confirm(&mut self, position: Position, as_of: Option<Instant>) {
        match &mut self.confirmed {
            Some((confirmed, since)) if confirmed.later(position) == *confirmed => {
                *since = as_of.or(*since);
            }
            confirmed => *confirmed = Some((position, as_of)),
        }
    }
}

impl Topology {
    /// Confirms what the receiver or the control file confirms; see the module.
    pub(super) fn confirm_by_own_word(&mut self, number: usize, sample: Sample) {
        let node = &mut self.nodes[number];
        let (Some(system), Some(progress)) = (sample.server.system, sample.progress) else {
            return;
        };
        if let (Some((timeline, lsn)), Role::Replica) = (progress.control, sample.role) {
            node.confirm(Position::new(system, timeline, lsn), None);
        }
        if let Some(timeline) = progress.timeline {
            node.confirm(Position::new(system, timeline, progress.lsn), Some(sample.began));
        }
        if sample.role == Role::Replica && progress.timeline.is_none() {
            node.unconfirmed.get_or_insert((sample.began, progress.lsn));
        } else {
            node.unconfirmed = None;
        }
    }

    /// Confirms replay positions that all other nodes confirm; see the module.
    pub(super) fn confirm_by_others(&mut self) {
        let Some(system) = self.system else { return };
        let Some(timeline) = self.timeline_of_all() else { return };
        for number in 0..self.nodes.len() {
            let Some((asked, lsn)) = self.nodes[number].unconfirmed else { continue };
            let control = self.progress(number).and_then(|progress| progress.control);
            // A replica that has not followed a promotion may have stayed behind for good.
            let follows = control.is_some_and(|(own, _)| own == timeline);
            let is_ours = self.server(number).is_some_and(|server| server.system == Some(system));
            let mut others = (0..self.nodes.len()).filter(|other| *other != number);
            if follows && is_ours && others.all(|other| self.was_not_promoted_by(other, asked)) {
                let node = &mut self.nodes[number];
                node.confirm(Position::new(system, timeline, lsn), Some(asked));
                // A later sample is the next one to be confirmed.
                node.unconfirmed =
                    node.sample.filter(|sample| sample.began > asked).and_then(|sample| {
                        sample.progress.map(|progress| (sample.began, progress.lsn))
                    });
            }
        }
    }

    /// Whether the node certainly had not been promoted when another one was asked at this moment.
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
        // A second primary, or one of several servers under one name, proves nothing.
        let is_trusted = Some(number) == self.primary
            || sample.is_some_and(|sample| sample.role == Role::Replica);
        is_trusted && node.several_servers.is_none() && after(sample.map(|sample| sample.began))
    }

    /// The timeline that all nodes should be on.
    fn timeline_of_all(&self) -> Option<u32> {
        if self.timeline > 0 {
            return Some(self.timeline);
        }
        let nodes = 0..self.nodes.len();
        let trusted = nodes.filter(|number| self.exclusion(*number, true).is_none());
        trusted.filter_map(|number| Some(self.progress(number)?.control?.0)).max()
    }
}
