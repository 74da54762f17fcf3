//! What a client does next.

use std::time::Duration;

use super::{Client, Clients};
use crate::history::Kind;

/// Longer than any client stays that is going to leave.
const FOR_EVER: f64 = 4.0;

/// One operation to be.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) kind: Kind,
    pub(super) key: u64,
    pub(super) ids: Vec<u64>,
    /// How long the app dawdles.
    pub(super) seconds: f64,
    /// When the client goes away, if it does not wait for the answer.
    pub(super) leaves: Option<Duration>,
}

/// How often each is done, in parts of 100.
const WEIGHTS: [(Kind, u32); 11] = [
    (Kind::Read, 50),
    (Kind::ReadTransaction, 4),
    (Kind::Insert, 23),
    (Kind::Pair, 5),
    (Kind::Import, 5),
    (Kind::Rollback, 3),
    (Kind::TxRollback, 3),
    (Kind::Dropped, 2),
    (Kind::Spoiled, 1),
    (Kind::Abandoned, 2),
    (Kind::Dirty, 2),
];

impl Client {
    pub(super) fn choose(&self, shared: &Clients, rng: &mut fastrand::Rng) -> Choice {
        let mut left = rng.u32(0..WEIGHTS.iter().map(|(_, weight)| weight).sum());
        let mut kind = Kind::Read;
        for (candidate, weight) in WEIGHTS {
            kind = candidate;
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        // Two in three of those who carry tokens ask for their reads not to go back.
        if kind == Kind::Read && !self.number.is_multiple_of(3) && rng.u8(..10) < 7 {
            kind = Kind::SessionRead;
        }
        let comes_back = if kind.reads() { 75 } else { 30 };
        let key = match self.mine.last() {
            Some(last) if rng.u32(..100) < comes_back => {
                if rng.bool() {
                    *last
                } else {
                    self.mine[rng.usize(..self.mine.len())]
                }
            }
            _ => shared.keys.any(rng),
        };
        let ids = match kind {
            Kind::Read | Kind::SessionRead | Kind::ReadTransaction | Kind::Dirty => 0,
            Kind::Insert => 1,
            Kind::Import => rng.usize(1..5),
            _ => 2,
        };
        let mut seconds = match rng.u8(..100) {
            // Long enough that an app which is told to stop has certainly begun it.
            0..2 if !kind.reads() => 0.3 + 0.5 * rng.f64(),
            0..8 => 0.02 + 0.13 * rng.f64(),
            _ => 0.0,
        };
        let mut leaves = (rng.u8(..100) < 3).then(|| Duration::from_micros(rng.u64(500..60_000)));
        if kind == Kind::Abandoned {
            seconds = FOR_EVER;
            leaves = Some(Duration::from_micros(rng.u64(1_000..250_000)));
        } else if leaves.is_some() && rng.bool() {
            seconds = 0.1;
        }
        Choice { kind, key, ids: shared.ids(ids), seconds, leaves }
    }
}
