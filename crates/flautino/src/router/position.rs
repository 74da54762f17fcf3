//! WAL positions: how much of the write-ahead log a server has, on which timeline of which cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place in a write-ahead log, in bytes from its start; printed as PostgreSQL does: `0/38E8A00`.
///
/// ```
/// use flautino::router::Lsn;
///
/// let lsn: Lsn = "0/38E8A00".parse()?;
/// assert_eq!(lsn, Lsn(0x38e_8a00));
/// assert_eq!(lsn.to_string(), "0/38E8A00");
/// # Ok::<(), flautino::router::ParseLsnError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

/// The error for a text that is not an [`Lsn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a WAL position; expected two hexadecimal numbers such as 0/38E8A00")]
pub struct ParseLsnError(());

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let half = |text: &str| {
            let hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = hex.then(|| u32::from_str_radix(text, 16).ok()).flatten();
            number.map(u64::from).ok_or(ParseLsnError(()))
        };
        let (high, low) = text.split_once('/').ok_or(ParseLsnError(()))?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = ParseLsnError;

    fn try_from(text: String) -> Result<Self, ParseLsnError> {
        text.parse()
    }
}

/// A WAL position: the cluster, the timeline, and the place on it.
///
/// Places on different timelines cannot be compared: after a promotion the same place holds other
/// data. So positions have no order of their own; see [`reaches`](Position::reaches) and
/// [`later`](Position::later).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Position {
    /// The cluster's `system_identifier`: the same on a primary and on all its replicas.
    pub system: u64,
    /// Counted from 1. A promotion begins a new timeline.
    pub timeline: u32,
    /// The place on that timeline.
    pub lsn: Lsn,
    /// Of a position that the primary reported: the transaction id behind the latest transaction that had
    /// ended by then. See [`XidHorizon`].
    pub xid_horizon: Option<u64>,
}

/// Below which transaction id all transactions have ended on a replica.
///
/// A replica that lacks nothing but WAL that no query can see has all the same what a session wrote. The
/// primary's position is often behind such WAL: a read that removes old versions of rows writes some, and
/// only the next commit flushes it, or the WAL writer (every 200 ms).
///
/// This holds after a crash of the primary too, which may lose WAL that was not flushed, and uses its
/// places and its transaction ids again. A replica replays only what was flushed, so a transaction that
/// has ended on it was not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct XidHorizon {
    /// The cluster's `system_identifier`.
    pub system: u64,
    /// The timeline that the replica follows.
    pub timeline: u32,
    /// The first transaction id that may not have ended.
    pub xid: u64,
}

impl XidHorizon {
    /// A horizon of these parts.
    #[must_use]
    pub const fn new(system: u64, timeline: u32, xid: u64) -> Self {
        Self { system, timeline, xid }
    }

    /// Whether every transaction that had ended on the primary at `floor` has ended on the replica.
    /// `false` if the two cannot be compared.
    #[must_use]
    pub fn reaches(self, floor: Position) -> bool {
        (self.system, self.timeline) == (floor.system, floor.timeline)
            && floor.xid_horizon.is_some_and(|needed| self.xid >= needed)
    }
}

impl Position {
    /// A position of these parts.
    #[must_use]
    pub const fn new(system: u64, timeline: u32, lsn: Lsn) -> Self {
        Self { system, timeline, lsn, xid_horizon: None }
    }

    /// The same position, with the primary's transaction id; see [`xid_horizon`](Self::xid_horizon).
    #[must_use]
    pub const fn with_xid_horizon(self, xid: u64) -> Self {
        Self { xid_horizon: Some(xid), ..self }
    }

    /// Whether a server at this position certainly has everything that a server at `floor` had.
    /// `false` if the two cannot be compared.
    #[must_use]
    pub fn reaches(self, floor: Self) -> bool {
        (self.system, self.timeline) == (floor.system, floor.timeline) && self.lsn >= floor.lsn
    }

    /// Returns the one of two positions of a session that covers both.
    ///
    /// On one timeline it is the further one. Of two timelines it is the one on the newer timeline:
    /// it was taken after the promotion, on a server that has all that survived of the older
    /// timeline. Of two systems it is `other`, the one that was met last.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        let covers =
            self.system == other.system && (self.timeline, self.lsn) >= (other.timeline, other.lsn);
        if covers { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(system: u64, timeline: u32, lsn: u64) -> Position {
        Position::new(system, timeline, Lsn(lsn))
    }

    #[test]
    fn positions_are_printed_and_parsed_as_postgresql_does() {
        for (text, lsn) in [
            ("0/0", 0),
            ("0/38E8A00", 0x38e_8a00),
            ("16/B374D848", 0x16_b374_d848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(lsn)));
            assert_eq!(Lsn(lsn).to_string(), text);
        }
        for text in
            ["", "/", "0", "0/", "/0", "0/0/0", "+0/1", "0/-1", "0/123456789", " 0/1", "g/0"]
        {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_positions_of_one_timeline_of_one_system_are_compared() {
        assert!(at(1, 1, 5).reaches(at(1, 1, 5)));
        assert!(at(1, 1, 6).reaches(at(1, 1, 5)));
        assert!(!at(1, 1, 4).reaches(at(1, 1, 5)));
        assert!(!at(1, 2, 9).reaches(at(1, 1, 5)));
        assert!(!at(1, 1, 9).reaches(at(1, 2, 5)));
        assert!(!at(2, 1, 9).reaches(at(1, 1, 5)));
    }

    #[test]
    fn transactions_have_ended_only_on_the_timeline_and_the_system_on_which_they_were_counted() {
        let floor = at(1, 1, 5).with_xid_horizon(8);
        assert!(XidHorizon::new(1, 1, 8).reaches(floor));
        assert!(XidHorizon::new(1, 1, 9).reaches(floor));
        assert!(!XidHorizon::new(1, 1, 7).reaches(floor));
        assert!(!XidHorizon::new(1, 2, 9).reaches(floor));
        assert!(!XidHorizon::new(2, 1, 9).reaches(floor));
        assert!(!XidHorizon::new(1, 1, 9).reaches(at(1, 1, 5)));
    }

    #[test]
    fn the_newer_timeline_covers_the_older_one() {
        assert_eq!(at(1, 1, 5).later(at(1, 1, 7)), at(1, 1, 7));
        assert_eq!(at(1, 1, 7).later(at(1, 1, 5)), at(1, 1, 7));
        assert_eq!(at(1, 2, 1).later(at(1, 1, 7)), at(1, 2, 1));
        assert_eq!(at(1, 1, 7).later(at(1, 2, 1)), at(1, 2, 1));
        assert_eq!(at(1, 3, 7).later(at(2, 1, 1)), at(2, 1, 1));
    }
}
