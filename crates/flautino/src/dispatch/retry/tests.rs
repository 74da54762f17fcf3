//! The decisions that need no error of a server. Those that depend on a SQLSTATE are tested on real
//! clusters.

use std::io;

use sqlx::SqlSafeStr;

use super::*;
use crate::sql::Classifier;

const INCARNATION: u64 = 7;

fn attempt(target: Target<()>, on_replica: bool, retries: u32) -> Retry {
    let mut retry = Retry::new(target, retries);
    retry.attempt = Attempt { incarnation: INCARNATION, on_replica, on_writer: !on_replica };
    retry
}

fn connection_lost() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::ConnectionReset.into())
}

fn node_down(sent: bool) -> sqlx::Error {
    Error::NodeDown { node: "main".to_owned(), sent }.into()
}

fn acquire_timeout(step: AcquireStep) -> sqlx::Error {
    let (node, waited) = ("main".to_owned(), Duration::from_secs(1));
    Error::AcquireTimeout { node, waited, step, in_use: 1, max: 1 }.into()
}

/// A statement that is sent in the simple protocol.
fn simple(sql: &'static str) -> Statement {
    Statement::text_of(sql.into_sql_str(), &Classifier::new(1, Box::new(|| {})))
}

/// A statement that is sent in the extended protocol.
fn extended(sql: &'static str) -> Statement {
    let classifier = Classifier::new(1, Box::new(|| {}));
    Statement::split(sqlx::query(sql), &classifier).unwrap()
}

#[test]
fn a_statement_runs_elsewhere_if_it_is_harmless_and_its_node_is_at_fault() {
    use Access::{Read, Write};
    // The table says for each of these errors whether the statement is run again.
    let errors: [fn() -> sqlx::Error; 6] = [
        connection_lost,
        || node_down(false),
        || node_down(true),
        || acquire_timeout(AcquireStep::Connecting),
        || acquire_timeout(AcquireStep::WaitingForSlot),
        || sqlx::Error::RowNotFound,
    ];
    let never = [false; 6];
    let from_replica = [true, true, true, true, false, false];
    // After a time-out while connecting to the primary, there is no other node to connect to.
    let from_primary = [true, true, true, false, false, false];
    let table = [
        (Target::Auto, Read, true, from_replica),
        (Target::Auto, Read, false, from_primary),
        (Target::Auto, Write, true, never),
        (Target::Auto, Write, false, never),
        (Target::Primary, Read, true, from_replica),
        (Target::Primary, Read, false, from_primary),
        (Target::Primary, Write, true, never),
        (Target::Primary, Write, false, never),
        (Target::Replica, Read, true, from_replica),
        (Target::Replica, Read, false, from_primary),
        (Target::Replica, Write, true, from_replica),
        (Target::Replica, Write, false, never),
        (Target::Node(()), Read, true, never),
        (Target::Node(()), Read, false, never),
        (Target::Node(()), Write, true, never),
        (Target::Node(()), Write, false, never),
    ];
    let statement = extended("SELECT 1");
    for (target, access, on_replica, expected) in table {
        for (error, expected) in errors.iter().zip(expected) {
            for sent in [None, Some(Sent { statement: &statement, completed: false })] {
                let error = error();
                let case = format!("{target:?} {access:?} on_replica={on_replica} {error}");
                let mut retry = attempt(target, on_replica, 1);
                assert_eq!(retry.may_run_elsewhere(access, &error, sent), expected, "{case}");
                let (cause, excluded, left) = if expected {
                    (Some(Reason::Retried), vec![INCARNATION], 0)
                } else {
                    (None, vec![], 1)
                };
                assert_eq!(retry.cause, cause, "{case}");
                assert_eq!(retry.excluded, excluded, "{case}");
                assert_eq!(retry.retries_left, left, "{case}");
                assert!(!retry.to_primary && !retry.was_refused, "{case}");
            }
        }
    }
}

#[test]
fn a_read_runs_elsewhere_no_more_often_than_there_are_retries() {
    for retries in 0..3 {
        let mut retry = attempt(Target::Auto, true, retries);
        for _ in 0..retries {
            assert!(retry.may_run_elsewhere(Access::Read, &connection_lost(), None));
        }
        assert!(!retry.may_run_elsewhere(Access::Read, &connection_lost(), None));
        assert_eq!(retry.retries_left, 0);
    }
}

#[test]
fn a_statement_that_was_not_sent_had_no_effect_if_its_node_is_at_fault() {
    let table = [
        (connection_lost(), Some(NoEffect::NeverSent)),
        (node_down(false), Some(NoEffect::NeverSent)),
        (acquire_timeout(AcquireStep::Connecting), None),
        (acquire_timeout(AcquireStep::WaitingForSlot), None),
        (Error::Closed { node: "main".to_owned() }.into(), None),
    ];
    for (error, expected) in table {
        for target in [Target::Auto, Target::Primary] {
            let retry = attempt(target, false, 0);
            assert_eq!(retry.no_effect(&error, None), expected, "{target:?} {error}");
        }
        // A replica or a node that the handle names cannot be replaced by a new primary.
        assert_eq!(attempt(Target::Auto, true, 0).no_effect(&error, None), None, "{error}");
        assert_eq!(attempt(Target::Node(()), false, 0).no_effect(&error, None), None, "{error}");
    }
}

#[test]
fn a_statement_that_was_sent_may_have_had_an_effect_unless_the_error_disproves_it() {
    let retry = attempt(Target::Auto, false, 0);
    let texts = ["INSERT INTO t VALUES (1)", "CREATE TABLE t ()", "SELECT 1; SELECT 2"];
    for statement in texts.map(extended).iter().chain(&texts.map(simple)) {
        for completed in [false, true] {
            let sent = Some(Sent { statement, completed });
            let text = statement.text();
            let unsent = retry.no_effect(&node_down(false), sent);
            assert_eq!(unsent, Some(NoEffect::NeverSent), "{text}");
            assert_eq!(retry.no_effect(&node_down(true), sent), None, "{text}");
            assert_eq!(retry.no_effect(&connection_lost(), sent), None, "{text}");
        }
    }
}

#[test]
fn a_statement_without_effect_is_sent_again_unless_its_primary_goes_on_refusing() {
    use NoEffect::{EndedByShutdown, NeverSent, RefusedReadOnly};
    // The last column says whether the statement is sent again the first and the second time.
    let table = [
        (NeverSent, true, [true, true]),
        (NeverSent, false, [true, true]),
        (RefusedReadOnly, true, [true, false]),
        (RefusedReadOnly, false, [true, true]),
        (EndedByShutdown, true, [false, false]),
        (EndedByShutdown, false, [true, true]),
    ];
    for (no_effect, is_still_primary, expected) in table {
        let mut retry = attempt(Target::Auto, false, 0);
        let resent = [(); 2].map(|()| retry.may_resend(no_effect, is_still_primary));
        assert_eq!(resent, expected, "{no_effect:?} is_still_primary={is_still_primary}");
        assert_eq!(retry.cause, Some(Reason::Retried));
    }
}

#[test]
fn an_outdated_statement_is_prepared_anew_once_in_a_row() {
    let mut retry = attempt(Target::Auto, false, 0);
    assert!(!retry.may_prepare_anew(false));
    assert!(retry.may_prepare_anew(true));
    assert!(retry.is_outdated);
    assert!(!retry.may_prepare_anew(true));
    assert!(!retry.may_prepare_anew(true));
    assert!(!retry.may_prepare_anew(false));
    assert!(retry.may_prepare_anew(true));
}

#[test]
fn a_lost_connection_is_the_first_one_only_once() {
    let mut retry = attempt(Target::Auto, false, 0);
    assert!(!retry.is_first_lost_connection(&sqlx::Error::RowNotFound));
    assert!(!retry.is_first_lost_connection(&node_down(true)));
    assert!(retry.is_first_lost_connection(&connection_lost()));
    assert!(!retry.is_first_lost_connection(&connection_lost()));
}

#[test]
fn a_node_is_excluded_until_it_is_another_incarnation() {
    let mut snapshot = Snapshot::unknown(3);
    for (node, incarnation) in snapshot.nodes.iter_mut().zip(INCARNATION - 1..) {
        node.incarnation = incarnation;
    }
    let excluded = |retry: &Retry, snapshot: &Snapshot| {
        let excluded = retry.excluded_in(snapshot);
        [0, 1, 2].map(|number| excluded.contains(number))
    };
    let mut retry = attempt(Target::Auto, true, 2);
    assert_eq!(excluded(&retry, &snapshot), [false, false, false]);
    assert!(retry.may_run_elsewhere(Access::Read, &connection_lost(), None));
    assert_eq!(excluded(&retry, &snapshot), [false, true, false]);
    // The nodes may have other numbers in the next snapshot.
    snapshot.nodes.swap(1, 2);
    assert_eq!(excluded(&retry, &snapshot), [false, false, true]);
    snapshot.nodes[2].incarnation = 100;
    assert_eq!(excluded(&retry, &snapshot), [false, false, false]);
}
