//! What takes the place of `recorded` without the feature `metrics`: nothing is told to anybody.

use std::time::{Duration, Instant};

use crate::error::AcquireStep;
use crate::router::Reason;

#[derive(Debug)]
pub(crate) struct NodeMetrics;

#[expect(clippy::unused_self, reason = "the same methods as with the feature")]
impl NodeMetrics {
    pub(crate) fn new(
        _engine: &str,
        _node: &str,
        _address: (&str, u16),
        _database: Option<&str>,
    ) -> Self {
        Self
    }

    pub(crate) fn starts() -> Option<Instant> {
        None
    }

    pub(crate) fn waited(&self, _elapsed: Duration) {}

    pub(crate) fn timed_out(&self, _step: AcquireStep) {}

    pub(crate) fn used(&self, _elapsed: impl FnOnce() -> Duration) {}

    pub(crate) fn created(&self, _elapsed: impl FnOnce() -> Duration) {}

    pub(crate) fn failed(&self) {}

    pub(crate) fn sent(&self, _reason: Reason) {}

    pub(crate) fn took(&self, _elapsed: Duration, _error: Option<&str>) {}

    pub(crate) fn probed(&self) {}

    pub(crate) fn asked_for_token(&self) {}

    pub(crate) fn asked_for_read(&self) {}

    pub(crate) fn happened(&self, _kind: &'static str) {}
}

pub(crate) fn unreadable_token() {}
