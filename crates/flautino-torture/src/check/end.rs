//! What the tables hold once all faults are over.

use super::index::Index;
use crate::history::{FinalTable, History};
use crate::violation::{Check, Violation};

/// Every node has all writes that were acknowledged, once, and none that was undone.
pub(super) fn tables(history: &History, index: &Index, found: &mut Vec<Violation>) {
    for table in &history.finals {
        missing(history, table, found);
        surplus(history, index, table, found);
    }
}

fn missing(history: &History, table: &FinalTable, found: &mut Vec<Violation>) {
    for (number, op) in history.ops.iter().enumerate() {
        let gone: Vec<_> = op.ids.iter().filter(|id| !table.rows.contains_key(id)).collect();
        let node = &table.node;
        let (check, text) = if op.must_be_stored() && !gone.is_empty() {
            let text = format!("{} was acknowledged, and {node} has not {gone:?}", op.kind);
            (Check::LostWrite, text)
        } else if !gone.is_empty() && gone.len() < op.ids.len() {
            let text = format!("{node} has a part of a {}, and not {gone:?}", op.kind);
            (Check::TornTransaction, text)
        } else {
            continue;
        };
        found.push(Violation::new(check, text, vec![number]));
    }
}

fn surplus(history: &History, index: &Index, table: &FinalTable, found: &mut Vec<Violation>) {
    for (id, (key, count)) in &table.rows {
        let writer = index.writer(history, *id);
        let ops: Vec<_> = writer.iter().map(|(number, _)| *number).collect();
        let node = &table.node;
        if *count > 1 {
            let text = format!("{node} has id {id} {count} times under key {key}");
            found.push(Violation::new(Check::DoubleWrite, text, ops.clone()));
        }
        let text = match writer {
            None => format!("{node} has id {id}, which nobody wrote"),
            Some((_, op)) if !op.may_be_stored() || op.key != *key => {
                format!("{node} has id {id} of a {} that was {:?}", op.kind, op.outcome)
            }
            Some(_) => continue,
        };
        found.push(Violation::new(Check::DirtyRead, text, ops));
    }
}
