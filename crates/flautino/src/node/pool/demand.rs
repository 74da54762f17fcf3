//! What a caller asks of a pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::node::settings::Settings;

/// What the connections of a handle are asked for with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demand {
    /// What its statements run with. A connection that carries them comes first.
    pub(crate) settings: Option<Arc<Settings>>,
    /// How long to wait for a connection, instead of the pool's `acquire_timeout`. Most have none: boxed, it takes
    /// less room in the future of each statement.
    pub(crate) acquire_timeout: Option<Box<Duration>>,
}

impl Demand {
    pub(crate) fn acquire_timeout(&self) -> Option<Duration> {
        self.acquire_timeout.as_deref().copied()
    }
}

/// A caller who wants a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) came: Instant,
    /// How long it waits.
    pub(super) timeout: Duration,
}

impl Caller {
    pub(super) fn remaining(self) -> Duration {
        self.timeout.saturating_sub(self.came.elapsed())
    }
}
