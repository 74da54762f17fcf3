//! What a session knows of its writes and reads, and how its floor follows from that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::router::{Lsn, Position, Snapshot};

/// How many bytes a token may be ahead of the position that the primary reported last, whatever the time
/// since.
const MAX_AHEAD: u64 = 64 << 20;
/// How many bytes more for each millisecond since then. A token that is further ahead is forged, since no
/// server writes WAL that fast.
const MAX_AHEAD_PER_MILLISECOND: u64 = 1 << 20;

/// What is known of the session. [`Session`](super::Session) locks it as a whole.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The position that later reads must have reached, and when it was demanded.
    pub(super) floor: Option<(Position, Instant)>,
    /// Whether the client brought a token that cannot be read, or two tokens of different systems.
    pub(super) unreadable: bool,
    /// Reads go to the primary until then, because a token asks for it or a position could not be
    /// learnt.
    pub(super) primary_until: Option<Instant>,
    /// Until then the server may still carry out a write whose end was not seen. No position that
    /// is asked for now covers such a write.
    pub(super) unseen_until: Option<Instant>,
    /// How many writes are under way.
    pub(super) writing: u32,
    /// Whether a connection was handed out for good, so that writes on it are not seen.
    pub(super) untracked: bool,
    /// When the latest write ended. `None` once the floor covers the session's writes.
    pub(super) uncovered_write: Option<Instant>,
    /// Reads that later ones must not fall behind, and that the floor does not cover yet. At most
    /// one for each incarnation of a node.
    pub(super) uncovered_reads: Vec<UncoveredRead>,
    /// Whether the session wrote or saw something that no token of the client covers.
    pub(super) owes_token: bool,
    /// The node that ran the latest statement.
    pub(super) served_by: Option<Arc<str>>,
}

/// A read that the floor does not cover yet, because the position of its node at the time is not
/// known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UncoveredRead {
    /// The incarnation of the node that served the read.
    pub(super) incarnation: u64,
    pub(super) ended: Instant,
}

impl UncoveredRead {
    /// The number of the node that served the read. `None` if it is another incarnation by now.
    pub(super) fn number(&self, snapshot: &Snapshot) -> Option<usize> {
        snapshot.nodes.iter().position(|node| node.incarnation == self.incarnation)
    }
}

impl State {
    /// Makes reads go to the primary at least until then.
    pub(super) fn read_from_primary_until(&mut self, until: Instant) {
        self.primary_until = Some(self.primary_until.map_or(until, |other| other.max(until)));
    }

    /// Whether the server may still carry out a write whose end was not seen.
    pub(super) fn has_unseen_write(&self, now: Instant) -> bool {
        self.unseen_until.is_some_and(|until| now < until)
    }

    /// Raises the floor to positions in the snapshot that cover the session's writes and reads. If
    /// the primary reports no positions, a write is forgotten after `window`.
    pub(super) fn learn_positions(&mut self, snapshot: &Snapshot, now: Instant, window: Duration) {
        if let (Some(wrote), false) = (self.uncovered_write, snapshot.positions) {
            self.uncovered_write =
                Some(wrote).filter(|wrote| now.saturating_duration_since(*wrote) < window);
        }
        if let Some(wrote) = self.uncovered_write
            && let Some((position, as_of)) = snapshot.primary_position()
            && as_of > wrote
        {
            self.replace_by_primary(position, as_of, window);
            self.uncovered_write = None;
        }
        let mut reads = std::mem::take(&mut self.uncovered_reads);
        reads.retain(|read| {
            let Some(number) = read.number(snapshot) else { return true };
            match snapshot.nodes[number].position {
                Some((position, Some(as_of))) if as_of > read.ended => {
                    self.raise_to(position);
                    false
                }
                _ => true,
            }
        });
        self.uncovered_reads = reads;
    }

    /// Raises the floor so that it covers this position too.
    pub(super) fn raise_to(&mut self, position: Position) {
        self.floor = Some(match self.floor {
            Some((floor, since)) if floor.later(position) == floor => (floor, since),
            _ => (position, Instant::now()),
        });
    }

    /// Whether the floor is of a later timeline than this position of the primary. Then there was a
    /// promotion that the monitor has not noticed yet, or one that was undone, or the floor is
    /// forged.
    pub(super) fn is_on_later_timeline_than(&self, position: Position) -> bool {
        self.floor.is_some_and(|(floor, _)| {
            floor.system == position.system && floor.timeline > position.timeline
        })
    }

    /// Makes the primary's position, for which it was asked at `as_of`, the floor.
    ///
    /// The position covers whatever a client can have seen by then. So a floor that is further
    /// ahead is forged and is replaced, unless it was demanded after `as_of`.
    pub(super) fn replace_by_primary(
        &mut self,
        position: Position,
        as_of: Instant,
        window: Duration,
    ) {
        let now = Instant::now();
        if self.is_on_later_timeline_than(position) {
            // Gives the monitor time to notice the promotion.
            self.read_from_primary_until(now + window);
        }
        let stays = self.floor.is_some_and(|(floor, since)| {
            floor.reaches(position) && floor != position && since >= as_of
        });
        if !stays {
            self.floor = Some((position, now));
        }
    }
}

/// Whether the floor is of another system or timeline than the primary, or impossibly far ahead of
/// it.
pub(super) fn is_foreign(floor: Position, snapshot: &Snapshot, now: Instant) -> bool {
    snapshot.primary_position().is_some_and(|(primary, as_of)| {
        let age = now.saturating_duration_since(as_of).as_millis();
        let written =
            u64::try_from(age).unwrap_or(u64::MAX).saturating_mul(MAX_AHEAD_PER_MILLISECOND);
        !primary.reaches(Position { lsn: Lsn(0), ..floor })
            || floor.lsn.0.saturating_sub(primary.lsn.0) > MAX_AHEAD.saturating_add(written)
    })
}
