//! Whether a history keeps the promises. Pure functions: a history in, violations out.
//!
//! - `visible`: reads show the client's own writes, what it has read before, and nothing that was
//!   undone
//! - `answers`: which operations may fail, when, and how
//! - `end`: what the tables hold once all faults are over

mod answers;
mod end;
mod index;
mod visible;

#[cfg(test)]
mod tests;

use std::time::Duration;

use self::index::Index;
use crate::history::History;
use crate::violation::Violation;

/// The settings of the apps that the promises depend on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `routing.failover_timeout`.
    pub failover_timeout: Duration,
    /// `routing.max_lag`.
    pub max_lag: Duration,
}

/// Returns all violations of a history.
#[must_use]
pub fn check(history: &History, limits: Limits) -> Vec<Violation> {
    let index = Index::of(history);
    let remarks = history.remarks.iter().map(|remark| {
        let text = format!("at {:.3} s: {}", remark.at.as_secs_f64(), remark.text);
        Violation::new(remark.check, text, Vec::new())
    });
    let mut found: Vec<_> = remarks.collect();
    visible::read_your_writes(history, &mut found);
    visible::monotonic_reads(history, &index, &mut found);
    visible::undone(history, &index, &mut found);
    visible::torn(history, &index, &mut found);
    visible::stale(history, limits.max_lag, &mut found);
    answers::reads(history, &mut found);
    answers::writes(history, limits.failover_timeout, &mut found);
    answers::forbidden(history, &mut found);
    end::tables(history, &index, &mut found);
    found.sort_by_key(|violation| violation.check);
    found
}
