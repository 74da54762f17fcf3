//! What one server says of itself when it is probed.

use std::time::{Duration, Instant};

use super::position::{Lsn, Position};
use super::snapshot::Role;

/// A node's answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// When the question was sent: the answer may be as old as that.
    pub(crate) began: Instant,
    /// How long the answer took.
    pub(crate) round_trip: Duration,
    pub(crate) role: Role,
    pub(crate) server: ServerId,
    /// `None` where the server does not say: Amazon Aurora, a role without the right to ask.
    pub(crate) progress: Option<Progress>,
}

impl Sample {
    /// Where it is, if the server itself told its timeline.
    pub(crate) fn position(&self) -> Option<Position> {
        let progress = self.progress?;
        Some(Position::new(self.server.system?, progress.timeline?, progress.lsn))
    }
}

/// Which server answered. Two that are not equal are two servers, or one before and after a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerId {
    /// The system identifier. `None` where the server does not say.
    pub(crate) system: Option<u64>,
    /// When it started, in microseconds since 1970.
    pub(crate) started: i64,
    /// Since when its background writer counts, where that is cheap to ask. Anybody may reset the
    /// counters, so another value does not mean another server.
    pub(crate) counts_since: Option<i64>,
}

impl ServerId {
    /// Whether both are one server under two names.
    ///
    /// Servers that are started together can start in the same microsecond. Their counters tell them
    /// apart then, nearly always.
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
            // A server that does not say can be any.
            _ => true,
        };
        same_system && self.started == other.started
    }
}

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// On a primary the insert position, on a replica what it has replayed.
    pub(crate) lsn: Lsn,
    /// A transaction number. On a primary, the one after the latest transaction that has ended; on a
    /// replica, the one before which all have ended for it.
    pub(crate) xid_horizon: u64,
    /// A primary's own timeline; on a replica that of its receiver, where the role may see it.
    pub(crate) timeline: Option<u32>,
    /// What a replica's control file says: a timeline, and a place on it that was replayed.
    pub(crate) control: Option<(u32, Lsn)>,
    /// Whether replay is paused.
    pub(crate) paused: bool,
    /// `recovery_min_apply_delay`.
    pub(crate) apply_delay: Duration,
}
