//! What a client does next.

use std::time::Duration;

use super::keys::Keys;
use crate::history::Kind;

/// Longer than any client waits that is going to leave.
const UNTIL_CLIENT_LEFT: f64 = 4.0;

/// An operation that is to be done.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) kind: Kind,
    pub(super) key: u64,
    pub(super) ids: Vec<u64>,
    /// How long the app sleeps in the middle of it.
    pub(super) seconds: f64,
    /// When the client goes away, if it does not wait for the response.
    pub(super) leaves: Option<Duration>,
}

/// How often each is chosen, in percent.
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

impl Choice {
    /// Chooses for a client, by its number and the keys that it has written to, the latest last.
    pub(super) fn random(client: u32, own: &[u64], keys: &Keys, rng: &mut fastrand::Rng) -> Self {
        let kind = kind(client, rng);
        let key = key(kind, own, keys, rng);
        let ids = match kind {
            Kind::Read | Kind::SessionRead | Kind::ReadTransaction | Kind::Dirty => 0,
            Kind::Insert => 1,
            Kind::Import => rng.usize(1..5),
            _ => 2,
        };
        let mut seconds = match rng.u8(..100) {
            // Long enough that an app which is told to stop has certainly begun it.
            0..2 if !kind.is_read() => 0.3 + 0.5 * rng.f64(),
            0..8 => 0.02 + 0.13 * rng.f64(),
            _ => 0.0,
        };
        let mut leaves = (rng.u8(..100) < 3).then(|| Duration::from_micros(rng.u64(500..60_000)));
        if kind == Kind::Abandoned {
            seconds = UNTIL_CLIENT_LEFT;
            leaves = Some(Duration::from_micros(rng.u64(1_000..250_000)));
        } else if leaves.is_some() && rng.bool() {
            seconds = 0.1;
        }
        Self { kind, key, ids: keys.new_ids(ids), seconds, leaves }
    }
}

fn kind(client: u32, rng: &mut fastrand::Rng) -> Kind {
    let mut left = rng.u32(0..WEIGHTS.iter().map(|(_, weight)| weight).sum());
    let mut kind = Kind::Read;
    for (candidate, weight) in WEIGHTS {
        kind = candidate;
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    // Two thirds of the clients do most of their reads at the level `Session`.
    if kind == Kind::Read && !client.is_multiple_of(3) && rng.u8(..10) < 7 {
        kind = Kind::SessionRead;
    }
    kind
}

/// Often a key that the client has written to, since only on those can it miss its own writes.
fn key(kind: Kind, own: &[u64], keys: &Keys, rng: &mut fastrand::Rng) -> u64 {
    let returns = if kind.is_read() { 75 } else { 30 };
    match own.last() {
        Some(last) if rng.u32(..100) < returns => {
            if rng.bool() {
                *last
            } else {
                own[rng.usize(..own.len())]
            }
        }
        _ => keys.any(rng),
    }
}
