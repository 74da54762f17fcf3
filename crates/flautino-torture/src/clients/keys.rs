//! Which keys are in use: few enough that clients meet, and new ones before reads grow long.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many keys are written to at a time.
const ACTIVE: usize = 12;
/// How many ids a key takes.
const FULL: usize = 30;

/// The keys that are written to, and how many ids each has.
#[derive(Debug)]
pub(super) struct Keys(Mutex<(Vec<(u64, usize)>, u64)>);

impl Default for Keys {
    fn default() -> Self {
        let count = ACTIVE as u64;
        Self(Mutex::new(((1..=count).map(|key| (key, 0)).collect(), count)))
    }
}

impl Keys {
    /// One to write to.
    pub(super) fn any(&self, rng: &mut fastrand::Rng) -> u64 {
        let keys = self.lock();
        keys.0[rng.usize(..keys.0.len())].0
    }

    /// So many ids were written to the key, perhaps.
    pub(super) fn wrote(&self, key: u64, ids: usize) {
        let mut keys = self.lock();
        let (active, last) = &mut *keys;
        if let Some(place) = active.iter_mut().find(|(active, _)| *active == key) {
            place.1 += ids;
            if place.1 >= FULL {
                *last += 1;
                *place = (*last, 0);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<(u64, usize)>, u64)> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
