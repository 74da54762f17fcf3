//! Which operation wrote what, and whether that is stored.

use std::collections::HashMap;

use crate::history::{History, Op, Outcome};

/// The writer of each id.
pub(super) struct Index {
    writers: HashMap<u64, usize>,
}

impl Index {
    pub(super) fn of(history: &History) -> Self {
        let ops = history.ops.iter().enumerate();
        let writers = ops.flat_map(|(number, op)| op.ids.iter().map(move |id| (*id, number)));
        Self { writers: writers.collect() }
    }

    /// The operation that wrote the id, with its index in the history.
    pub(super) fn writer<'h>(&self, history: &'h History, id: u64) -> Option<(usize, &'h Op)> {
        let number = *self.writers.get(&id)?;
        Some((number, &history.ops[number]))
    }
}

impl Op {
    /// Whether what it wrote must be stored.
    pub(super) fn must_be_stored(&self) -> bool {
        self.outcome == Outcome::Acknowledged && !self.kind.is_read()
    }

    /// Whether what it wrote may be stored.
    pub(super) fn may_be_stored(&self) -> bool {
        self.kind.commits() && self.outcome != Outcome::Refused
    }
}
