//! Which operations may fail, when, and how.

use std::time::Duration;

use crate::history::{History, Kind, NO_ANSWER, Op, Outcome, Rule, Window};
use crate::violation::{Check, Violation};

/// How long after a connection broke a statement may still be sent over it. It is not tested for a
/// second after its last use (`warm_time`), and the machine is under load.
const MAX_UNNOTICED: Duration = Duration::from_millis(1500);
/// The app has certainly begun a request that was sent this long before it was told to stop.
const MAX_UNTIL_BEGUN: Duration = Duration::from_millis(250);
/// A client may measure a wait for `failover_timeout` as shorter than it was, by this much.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(200);
/// The SQLSTATE `admin_shutdown`: the server's shutdown ended the statement before it did anything.
const ADMIN_SHUTDOWN: &str = "57P01";

/// No read fails.
pub(super) fn reads(history: &History, found: &mut Vec<Violation>) {
    for (number, op) in history.ops.iter().enumerate() {
        if !op.kind.is_read() || matches!(op.outcome, Outcome::Acknowledged | Outcome::Left) {
            continue;
        }
        let excused = history.windows().any(|window| match window.rule {
            // A transaction cannot move to another node once it has begun, nor a statement once it has
            // given out a row.
            Rule::TransactionsBreak | Rule::WritesBreak => {
                let bound = op.kind == Kind::ReadTransaction || !op.seen.is_empty();
                bound && op.status == 500 && is_near(window, op)
            }
            _ => ended_with_app(window, op),
        });
        if !excused {
            found.push(failed(op, number, Check::FailedRead));
        }
    }
}

/// A write fails only if its connection broke, and is refused only after it has waited.
pub(super) fn writes(history: &History, failover_timeout: Duration, found: &mut Vec<Violation>) {
    for (number, op) in history.ops.iter().enumerate() {
        let expected = op.kind.is_expected(op.status) || op.outcome == Outcome::Left;
        if op.kind.is_read() || expected {
            continue;
        }
        let resendable = op.kind == Kind::Insert
            && op.error.as_ref().is_some_and(|error| error.contains(ADMIN_SHUTDOWN));
        let excused = history.windows().any(|window| match window.rule {
            Rule::WritesBreak => {
                // A transaction is bound to its connection, and cannot wait for another one.
                let bound = op.kind != Kind::Insert;
                let fits = op.status == 500 && !resendable || op.status == 503 && bound;
                fits && is_near(window, op)
            }
            Rule::NoPrimary => {
                op.status == 503
                    && op.took() + CLOCK_TOLERANCE >= failover_timeout
                    && window.overlaps(op)
            }
            _ => ended_with_app(window, op),
        });
        if !excused {
            found.push(failed(op, number, Check::FailedWrite));
        }
    }
}

/// Nothing is served by a node that must not be used.
pub(super) fn forbidden(history: &History, found: &mut Vec<Violation>) {
    for window in history.windows() {
        let Rule::Forbidden(node, why) = window.rule else { continue };
        for (number, op) in history.ops.iter().enumerate() {
            let served = op.nodes.split(", ").any(|entry| entry.split(' ').next() == Some(node));
            if served && window.contains(op) {
                let text = format!("{node} served a {} while it was {why}", op.kind);
                found.push(Violation::new(Check::ForbiddenNode, text, vec![number]));
            }
        }
    }
}

/// Whether the operation was under way in the window, or may have met a connection that broke in it.
fn is_near(window: &Window, op: &Op) -> bool {
    op.start <= window.to + MAX_UNNOTICED && op.end >= window.from
}

/// Whether the request went without a response because its app ended.
fn ended_with_app(window: &Window, op: &Op) -> bool {
    let may_lack_response = match window.rule {
        Rule::AppKilled(app) => op.app == app,
        Rule::AppStopped(app) => op.app == app && op.start + MAX_UNTIL_BEGUN >= window.from,
        _ => false,
    };
    may_lack_response && op.status == 0 && window.overlaps(op)
}

fn failed(op: &Op, number: usize, check: Check) -> Violation {
    let (check, text) = match (op.error.as_deref().unwrap_or("no reason given"), op.status) {
        (NO_ANSWER, _) => {
            (Check::NoAnswer, format!("a {} got no answer within {:?}", op.kind, op.took()))
        }
        (error, 0) => (check, format!("a {} got no response: {error}", op.kind)),
        (error, status) => (check, format!("a {} was answered {status}: {error}", op.kind)),
    };
    Violation::new(check, text, vec![number])
}
