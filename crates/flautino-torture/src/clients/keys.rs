//! The keys that clients write to: few enough that clients meet, and new ones before reads grow long.
//! And ids, each of which is given out once.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// How many keys are written to at a time.
const ACTIVE_KEYS: u64 = 12;
/// How many ids a key takes before another one replaces it.
const MAX_IDS_PER_KEY: usize = 30;

/// The keys that are written to, and the next id.
#[derive(Debug)]
pub(super) struct Keys {
    active: Mutex<Active>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Active {
    keys: Vec<Key>,
    /// The newest key.
    last: u64,
}

#[derive(Debug)]
struct Key {
    number: u64,
    /// How many ids it may have.
    ids: usize,
}

impl Default for Keys {
    fn default() -> Self {
        let keys = (1..=ACTIVE_KEYS).map(|number| Key { number, ids: 0 }).collect();
        let active = Mutex::new(Active { keys, last: ACTIVE_KEYS });
        Self { active, next_id: AtomicU64::new(1) }
    }
}

impl Keys {
    /// One of the keys that are written to.
    pub(super) fn any(&self, rng: &mut fastrand::Rng) -> u64 {
        let active = self.active.lock();
        active.keys[rng.usize(..active.keys.len())].number
    }

    /// New ids.
    pub(super) fn new_ids(&self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.next_id.fetch_add(1, Ordering::Relaxed)).collect()
    }

    /// Counts ids that may have been written to a key.
    pub(super) fn wrote(&self, number: u64, ids: usize) {
        let active = &mut *self.active.lock();
        if let Some(key) = active.keys.iter_mut().find(|key| key.number == number) {
            key.ids += ids;
            if key.ids >= MAX_IDS_PER_KEY {
                active.last += 1;
                *key = Key { number: active.last, ids: 0 };
            }
        }
    }
}
