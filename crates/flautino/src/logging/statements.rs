//! What statements cost, counted while somebody looks; and which of them take long.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::sql::without_values;

/// How many texts are counted; a new one takes the place of the one that took the least time so far.
const MAX_TEXTS: usize = 200;
/// How many of the most frequent and of the slowest texts are told.
const TOLD: usize = 10;

/// What the statements of one text cost, as long as they were watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StatementStatus {
    /// The text, without values: `?` stands for each constant.
    pub text: String,
    /// How many were run.
    pub count: u64,
    /// How long they took on the average, in microseconds, from sending to the end of the result.
    pub mean_us: u64,
    /// How long the slowest took, in microseconds.
    pub max_us: u64,
}

/// Statements are counted for [`EngineStatus::statements`](crate::EngineStatus::statements) until this is
/// dropped.
#[derive(Debug)]
pub struct StatementWatch(Arc<StatementStats>);

#[derive(Debug, Default)]
pub(crate) struct StatementStats {
    watchers: AtomicU32,
    seen: Mutex<HashMap<String, Figures>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    count: u64,
    total_us: u64,
    max_us: u64,
}

impl StatementWatch {
    /// The first one to watch begins anew.
    pub(crate) fn new(stats: &Arc<StatementStats>) -> Self {
        if stats.watchers.fetch_add(1, Ordering::Relaxed) == 0 {
            stats.seen.lock().clear();
        }
        Self(Arc::clone(stats))
    }
}

impl Drop for StatementWatch {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StatementStats {
    pub(super) fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    pub(super) fn count(&self, sql: &str, elapsed: Duration) {
        let (text, elapsed) = (without_values(sql), micros(elapsed));
        let mut seen = self.seen.lock();
        if seen.len() >= MAX_TEXTS
            && !seen.contains_key(&text)
            && let Some(least) = seen.iter().min_by_key(|(_, figures)| figures.total_us)
        {
            let least = least.0.clone();
            seen.remove(&least);
        }
        let figures = seen.entry(text).or_default();
        figures.count += 1;
        figures.total_us += elapsed;
        figures.max_us = figures.max_us.max(elapsed);
    }

    /// The most frequent and the slowest, those first that took the most time together.
    pub(crate) fn status(&self) -> Vec<StatementStatus> {
        let mut all: Vec<_> =
            self.seen.lock().iter().map(|(text, figures)| (text.clone(), *figures)).collect();
        let mean = |figures: &Figures| figures.total_us / figures.count.max(1);
        all.sort_by_key(|(_, figures)| std::cmp::Reverse(figures.count));
        let mut rarer = all.split_off(all.len().min(TOLD));
        rarer.sort_by_key(|(_, figures)| std::cmp::Reverse(mean(figures)));
        rarer.truncate(TOLD);
        all.append(&mut rarer);
        all.sort_by_key(|(_, figures)| std::cmp::Reverse(figures.total_us));
        let status = |(text, figures): (String, Figures)| StatementStatus {
            text,
            count: figures.count,
            mean_us: mean(&figures),
            max_us: figures.max_us,
        };
        all.into_iter().map(status).collect()
    }
}

/// Returns whole microseconds.
pub(crate) fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_and_the_slowest_are_told_and_memory_is_bounded() {
        let stats = StatementStats::default();
        for number in 0..MAX_TEXTS * 2 {
            stats.count(&format!("SELECT a{number}"), Duration::from_micros(10));
        }
        for _ in 0..1_000 {
            stats.count("SELECT often", Duration::from_micros(1));
        }
        stats.count("SELECT slow", Duration::from_secs(1));
        assert_eq!(stats.seen.lock().len(), MAX_TEXTS);
        let told = stats.status();
        assert!(told.len() <= 2 * TOLD);
        assert_eq!((told[0].text.as_str(), told[0].max_us), ("SELECT slow", 1_000_000));
        assert_eq!((told[1].text.as_str(), told[1].count), ("SELECT often", 1_000));
        assert_eq!(told[1].mean_us, 1);
    }
}
