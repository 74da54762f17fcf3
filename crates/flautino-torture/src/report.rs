//! What is printed at the end: counts, and the operations that show a violation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::history::{Episode, History, Moment, Op, Outcome};
use crate::soak::Footprint;
use crate::violation::Violation;

/// How many violations of one promise are shown.
const MAX_SHOWN: usize = 3;
/// How many operations between those of a violation are shown.
const MAX_BETWEEN: usize = 8;

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// The seed of the faults.
    pub seed: u64,
    /// From the first fault to the last.
    pub elapsed: Duration,
    /// All that happened.
    pub history: History,
    /// The promises that it breaks.
    pub violations: Vec<Violation>,
    /// In soak mode, what idle apps held before and after.
    pub soaked: Option<(Vec<Footprint>, Vec<Footprint>)>,
}

impl Report {
    /// Whether all promises were kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations(f)?;
        self.faults(f)?;
        if let Some((before, after)) = &self.soaked {
            writeln!(f, "\nidle apps, before and after")?;
            for (app, (before, after)) in before.iter().zip(after).enumerate() {
                writeln!(f, "  app {app}  {before}\n         {after}")?;
            }
        }
        self.wrong(f)?;
        writeln!(f, "\nseed {}", self.seed)
    }
}

impl Report {
    fn operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<_, [usize; 4]> = BTreeMap::new();
        for op in &self.history.ops {
            let column = match op.outcome {
                _ if op.kind.is_expected(op.status) => 0,
                Outcome::Acknowledged | Outcome::Refused => 1,
                Outcome::Unknown => 2,
                Outcome::Left => 3,
            };
            counts.entry(op.kind).or_default()[column] += 1;
        }
        let total = self.history.ops.len();
        writeln!(f, "\n{total} operations in {:.1} s", self.elapsed.as_secs_f64())?;
        writeln!(f, "  {:<18}{:>9}{:>9}{:>9}{:>9}", "", "as asked", "refused", "unknown", "left")?;
        for (kind, [asked, refused, unknown, left]) in counts {
            writeln!(f, "  {kind:<18}{asked:>9}{refused:>9}{unknown:>9}{left:>9}")?;
        }
        Ok(())
    }

    fn faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let episodes = &self.history.episodes;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for episode in episodes {
            *counts.entry(&episode.fault).or_default() += 1;
        }
        let failovers = episodes.iter().filter(|episode| episode.failover).count();
        writeln!(f, "\n{} faults, {failovers} of them failovers", episodes.len())?;
        for (fault, count) in counts {
            writeln!(f, "  {fault:<18}{count:>9}")?;
        }
        Ok(())
    }

    fn wrong(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return writeln!(f, "\nno violation");
        }
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for violation in &self.violations {
            let count = counts.entry(violation.check).or_default();
            *count += 1;
            if *count <= MAX_SHOWN {
                self.show(violation, f)?;
            }
        }
        writeln!(f, "\n{} violations", self.violations.len())?;
        for (check, count) in counts {
            writeln!(f, "  {check:<18}{count:>9}")?;
        }
        Ok(())
    }

    /// Prints the violation's operations in their order, and what its client did in between.
    fn show(&self, violation: &Violation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nVIOLATION {}: {}", violation.check, violation.text)?;
        let ops = &self.history.ops;
        let own: BTreeSet<_> = violation.ops.iter().copied().collect();
        let (Some(first), Some(last)) = (own.first(), own.last()) else { return Ok(()) };
        let client = ops[*last].client;
        let between = (first + 1..*last).filter(|number| !own.contains(number));
        let between: Vec<_> = between.filter(|number| ops[*number].client == client).collect();
        let skipped = between.len().saturating_sub(MAX_BETWEEN);
        let shown: BTreeSet<_> = own.iter().chain(&between[skipped..]).copied().collect();
        if skipped > 0 {
            writeln!(f, "    ({skipped} more of client {client} are not shown)")?;
        }
        for number in shown {
            let mark = if own.contains(&number) { '>' } else { ' ' };
            writeln!(f, "  {mark} {}", OpLine(&ops[number]))?;
        }
        let from = ops[*first].start;
        let to = own.iter().map(|number| ops[*number].end).max().unwrap_or(from);
        for episode in self.history.episodes.iter().filter(|e| e.from <= to && e.to >= from) {
            writeln!(f, "    {}", EpisodeLine(episode))?;
        }
        Ok(())
    }
}

/// An operation, as one line.
struct OpLine<'h>(&'h Op);

impl fmt::Display for OpLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = self.0;
        let (start, end) = (seconds(op.start), seconds(op.end));
        write!(f, "{start} to {end}  client {} app {} {}", op.client, op.app, op.kind)?;
        write!(f, " key {}", op.key)?;
        if op.kind.is_read() {
            write!(f, " saw {:?}", op.seen)?;
        } else {
            write!(f, " ids {:?}", op.ids)?;
        }
        write!(f, " {:?} {}", op.outcome, op.status)?;
        if !op.nodes.is_empty() {
            write!(f, " by {}", op.nodes)?;
        }
        if let Some(token) = &op.sent {
            write!(f, " sent {token}")?;
        }
        if let Some(token) = &op.given {
            write!(f, " given {token}")?;
        }
        if let Some(error) = &op.error {
            write!(f, " ({error})")?;
        }
        Ok(())
    }
}

/// A fault, as one line.
struct EpisodeLine<'h>(&'h Episode);

impl fmt::Display for EpisodeLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let episode = self.0;
        let (from, to) = (seconds(episode.from), seconds(episode.to));
        write!(f, "{from} to {to}  fault {} {}", episode.fault, episode.target)?;
        for window in &episode.windows {
            let (from, to) = (seconds(window.from), seconds(window.to));
            write!(f, "; {:?} {from} to {to}", window.rule)?;
        }
        Ok(())
    }
}

fn seconds(moment: Moment) -> String {
    format!("{:.3}", moment.as_secs_f64())
}
