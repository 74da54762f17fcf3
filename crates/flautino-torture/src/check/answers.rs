//! Who may fail, when, and how.

use std::time::Duration;

use super::{Check, Violation};
use crate::history::{History, Kind, Op, Outcome, Rule, Window};

/// How long after a break a statement may still be sent into a connection whose end nobody has
/// noticed: it may rest for a second (`warm_time`), and the machine is under load.
const UNNOTICED: Duration = Duration::from_millis(1500);
/// A request that was sent so long before its app was told to stop was begun by then.
const BEGUN: Duration = Duration::from_millis(250);
/// What a wait for `failover_timeout` may fall short of it by the clock of a client.
const SHORT: Duration = Duration::from_millis(200);
/// The server's word for a statement that its shutdown ended before it did anything.
const ADMIN_SHUTDOWN: &str = "57P01";

/// No read fails.
pub(super) fn reads(history: &History, found: &mut Vec<Violation>) {
    for (number, op) in history.ops.iter().enumerate() {
        if !op.kind.reads() || matches!(op.outcome, Outcome::Acknowledged | Outcome::Left) {
            continue;
        }
        let excused = history.windows().any(|window| match window.rule {
            // It stays on one node: a transaction from its begin on, a statement from its first row.
            Rule::TransactionsBreak | Rule::WritesBreak => {
                let bound = op.kind == Kind::ReadTransaction || !op.seen.is_empty();
                bound && op.status == 500 && is_near(window, op)
            }
            _ => went_with_its_app(window, op),
        });
        if !excused {
            found.push(failed(op, number, Check::FailedRead));
        }
    }
}

/// A write fails only with its connection, and is refused only after it waited.
pub(super) fn writes(history: &History, failover_timeout: Duration, found: &mut Vec<Violation>) {
    for (number, op) in history.ops.iter().enumerate() {
        let as_asked = op.kind.is_answer(op.status) || op.outcome == Outcome::Left;
        if op.kind.reads() || as_asked {
            continue;
        }
        let resendable = op.kind == Kind::Insert
            && op.error.as_ref().is_some_and(|error| error.contains(ADMIN_SHUTDOWN));
        let excused = history.windows().any(|window| match window.rule {
            Rule::WritesBreak => {
                // What is bound to one connection cannot wait for another.
                let bound = op.kind != Kind::Insert;
                let fits = op.status == 500 && !resendable || op.status == 503 && bound;
                fits && is_near(window, op)
            }
            Rule::NoPrimary => {
                op.status == 503 && op.took() + SHORT >= failover_timeout && window.overlaps(op)
            }
            _ => went_with_its_app(window, op),
        });
        if !excused {
            found.push(failed(op, number, Check::FailedWrite));
        }
    }
}

/// Nothing is served by a node that must not.
pub(super) fn forbidden(history: &History, found: &mut Vec<Violation>) {
    for window in history.windows() {
        let Rule::Forbidden(node, why) = window.rule else { continue };
        for (number, op) in history.ops.iter().enumerate() {
            let served = op.nodes.split(", ").any(|entry| entry.split(' ').next() == Some(node));
            if served && window.contains(op) {
                let text = format!("{node} served a {} while it was {why}", op.kind);
                found.push(Violation { check: Check::ForbiddenNode, text, ops: vec![number] });
            }
        }
    }
}

fn is_near(window: &Window, op: &Op) -> bool {
    op.start <= window.to + UNNOTICED && op.end >= window.from
}

fn went_with_its_app(window: &Window, op: &Op) -> bool {
    match window.rule {
        Rule::AppKilled(app) => op.app == app && op.status == 0 && window.overlaps(op),
        Rule::AppStopped(app) => {
            op.app == app
                && op.status == 0
                && window.overlaps(op)
                && op.start + BEGUN >= window.from
        }
        _ => false,
    }
}

fn failed(op: &Op, number: usize, check: Check) -> Violation {
    let error = op.error.as_deref().unwrap_or("no reason given");
    if op.error.as_deref() == Some(crate::clients::NO_ANSWER) {
        let text = format!("a {} got no answer within {:?}", op.kind, op.took());
        return Violation { check: Check::NoAnswer, text, ops: vec![number] };
    }
    let text = match op.status {
        0 => format!("a {} got no response: {error}", op.kind),
        status => format!("a {} was answered {status}: {error}", op.kind),
    };
    Violation { check, text, ops: vec![number] }
}
