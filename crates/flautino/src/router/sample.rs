//! [`Sample`]: what one server reports to a probe.

use std::time::{Duration, Instant};

use super::position::{Lsn, Position};
use super::snapshot::Role;

/// A node's answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// When the probe was sent. The answer may describe the server as it was at this moment.
    pub(crate) began: Instant,
    /// How long the server took to answer.
    pub(crate) round_trip: Duration,
    pub(crate) role: Role,
    pub(crate) server: ServerId,
    /// `None` if the server does not report it: Amazon Aurora, or a role without the right to ask.
    pub(crate) progress: Option<Progress>,
}

impl Sample {
    /// The server's WAL position. `None` if the server did not report its timeline.
    pub(crate) fn position(&self) -> Option<Position> {
        let progress = self.progress?;
        Some(self.position_on(self.server.system?, progress.timeline?, progress))
    }

    /// The position of this progress, on this timeline.
    pub(super) fn position_on(&self, system: u64, timeline: u32, progress: Progress) -> Position {
        let position = Position::new(system, timeline, progress.lsn);
        match self.role {
            Role::Primary => position.with_xid_horizon(progress.xid_horizon),
            Role::Replica | Role::Unknown => position,
        }
    }
}

/// Which server answered. If two ids differ, there are two servers, or one that was restarted in
/// between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerId {
    /// The system identifier. `None` if the server does not report it.
    pub(crate) system: Option<u64>,
    /// When the server started, in microseconds since 1970.
    pub(crate) started: i64,
    /// When the counters of its background writer were last reset, if that is cheap to ask. Anyone
    /// may reset them, so another value does not prove that it is another server.
    pub(crate) counts_since: Option<i64>,
}

impl ServerId {
    /// Whether both are one server that is reached under two names.
    ///
    /// Servers that are started together can start in the same microsecond. Nearly always, their
    /// counters tell them apart then.
    pub(super) fn is_same_server(self, other: Self) -> bool {
        let counters_differ =
            self.counts_since.zip(other.counts_since).is_some_and(|(one, other)| one != other);
        self.system.is_some() && self == other && !counters_differ
    }
}

impl PartialEq for ServerId {
    fn eq(&self, other: &Self) -> bool {
        let same_system = match (self.system, other.system) {
            (Some(one), Some(other)) => one == other,
            // Without an identifier, it may be the same system.
            _ => true,
        };
        same_system && self.started == other.started
    }
}

/// How far a server has come in its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// On a primary the insert position, on a replica the replay position.
    pub(crate) lsn: Lsn,
    /// A transaction id. On a primary, the one after the latest transaction that has ended. On a
    /// replica, the first one that may not have ended there yet.
    ///
    /// If a replica's horizon is not below the primary's, every transaction that had ended on the
    /// primary has ended on the replica.
    pub(crate) xid_horizon: u64,
    /// A primary's own timeline. On a replica the timeline of its WAL receiver, if the role may see
    /// it.
    pub(crate) timeline: Option<u32>,
    /// From a replica's control file: a timeline, and a place on it that was replayed.
    pub(crate) control: Option<(u32, Lsn)>,
    /// Whether replay is paused.
    pub(crate) paused: bool,
    /// `recovery_min_apply_delay`.
    pub(crate) apply_delay: Duration,
}
