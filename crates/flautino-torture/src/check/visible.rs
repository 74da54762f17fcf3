//! What reads show.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::index::Index;
use crate::history::{Carries, History, Kind, Outcome};
use crate::violation::{Check, Violation};

/// A client that carries its tokens reads all that it was told it has written.
pub(super) fn read_your_writes(history: &History, found: &mut Vec<Violation>) {
    // A client does one thing at a time, so the order of its operations is that of the history.
    let mut own: HashMap<(u32, u64), Vec<(u64, usize)>> = HashMap::new();
    for (number, op) in history.ops.iter().enumerate() {
        if op.carries != Carries::Tokens {
            continue;
        }
        if op.must_be_stored() {
            let known = own.entry((op.client, op.key)).or_default();
            known.extend(op.ids.iter().map(|id| (*id, number)));
        } else if op.is_answered_read() {
            let known = own.get(&(op.client, op.key)).map_or(&[][..], Vec::as_slice);
            if let Some((id, write)) = known.iter().find(|(id, _)| !op.seen.contains(id)) {
                let text = format!(
                    "client {} wrote id {id} under key {} and did not read it afterwards",
                    op.client, op.key
                );
                found.push(Violation::new(Check::ReadYourWrites, text, vec![*write, number]));
            }
        }
    }
}

/// What one read of a session showed, its later ones show too.
///
/// There are two exceptions, both PostgreSQL's own. A write that was never acknowledged may be lost in
/// a failover. And a write that has not returned yet can be seen on a replica before the primary shows
/// it, since the primary waits for its synchronous standby first.
pub(super) fn monotonic_reads(history: &History, index: &Index, found: &mut Vec<Violation>) {
    let mut shown: HashMap<(u32, u64), BTreeMap<u64, usize>> = HashMap::new();
    for (number, op) in history.answered_reads() {
        if op.kind != Kind::SessionRead || op.carries != Carries::Tokens {
            continue;
        }
        let shown = shown.entry((op.client, op.key)).or_default();
        let missing: Vec<_> = shown.iter().map(|(id, read)| (*id, *read)).collect();
        for (id, read) in missing.into_iter().filter(|(id, _)| !op.seen.contains(id)) {
            shown.remove(&id);
            let writer = index.writer(history, id);
            let lost = writer.is_some_and(|(_, write)| {
                write.outcome != Outcome::Acknowledged
                    && history.failed_over(history.ops[read].start, op.end)
            });
            let pending = writer.is_some_and(|(_, write)| {
                write.end > op.start
                    && op.node().is_some_and(|node| history.is_primary(node, op.end))
            });
            if !lost && !pending {
                let text = format!(
                    "client {} read id {id} under key {}, and then it was gone",
                    op.client, op.key
                );
                let mut ops = vec![read, number];
                ops.extend(writer.map(|(write, _)| write));
                found.push(Violation::new(Check::MonotonicReads, text, ops));
            }
        }
        shown.extend(op.seen.iter().map(|id| (*id, number)));
    }
}

/// No read shows what was rolled back or refused, or what nobody wrote there; nor twice what was
/// written once.
pub(super) fn undone(history: &History, index: &Index, found: &mut Vec<Violation>) {
    let mut reported = HashSet::new();
    for (number, op) in history.answered_reads() {
        let mut seen = HashSet::with_capacity(op.seen.len());
        for id in &op.seen {
            let writer = index.writer(history, *id);
            let mut report = |check, text| {
                if reported.insert((check, *id)) {
                    let ops = writer.map(|(write, _)| write).into_iter().chain([number]);
                    found.push(Violation::new(check, text, ops.collect()));
                }
            };
            if !seen.insert(id) {
                let text = format!("a read shows id {id} twice under key {}", op.key);
                report(Check::DoubleWrite, text);
            }
            let text = match writer {
                None => format!("a read shows id {id}, which nobody wrote"),
                Some((_, write))
                    if write.may_be_stored() && write.key == op.key && write.start <= op.end =>
                {
                    continue;
                }
                Some((_, write)) => format!(
                    "a read shows id {id}, which {} ({:?}) never committed under key {}",
                    write.kind, write.outcome, op.key
                ),
            };
            report(Check::DirtyRead, text);
        }
    }
}

/// A read shows all that a transaction wrote, or nothing of it.
pub(super) fn torn(history: &History, index: &Index, found: &mut Vec<Violation>) {
    let mut reported = HashSet::new();
    for (number, op) in history.answered_reads() {
        for id in &op.seen {
            let Some((write, writer)) = index.writer(history, *id) else { continue };
            let missing = writer.ids.iter().find(|other| !op.seen.contains(other));
            if let Some(missing) = missing
                && reported.insert(write)
            {
                let text = format!(
                    "a read shows id {id} and not id {missing} of the same transaction, key {}",
                    op.key
                );
                found.push(Violation::new(Check::TornTransaction, text, vec![write, number]));
            }
        }
    }
}

/// Added to `max_lag`, since probes come late on a machine under load.
const LAG_TOLERANCE: Duration = Duration::from_secs(5);

/// Every read shows what was acknowledged longer ago than a replica in use may lag behind.
pub(super) fn stale(history: &History, max_lag: Duration, found: &mut Vec<Violation>) {
    let mut stored: HashMap<u64, Vec<(u64, usize)>> = HashMap::new();
    for (number, op) in history.ops.iter().enumerate() {
        if op.must_be_stored() {
            stored.entry(op.key).or_default().extend(op.ids.iter().map(|id| (*id, number)));
        }
    }
    let mut reported = HashSet::new();
    for (number, op) in history.answered_reads() {
        let Some(stored) = stored.get(&op.key) else { continue };
        let missed = stored.iter().find(|(id, write)| {
            history.ops[*write].end + max_lag + LAG_TOLERANCE < op.start && !op.seen.contains(id)
        });
        if let Some((id, write)) = missed
            && reported.insert(*id)
        {
            let text = format!("a read misses id {id}, acknowledged long before it began");
            found.push(Violation::new(Check::StaleRead, text, vec![*write, number]));
        }
    }
}
