//! Small histories by hand: each check finds its violation, and accepts what is legal.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::history::{
    Carries, Episode, FinalTable, Kind, Moment, NO_ANSWER, Op, Outcome, Remark, Rule, Window,
};
use crate::violation::Check;

const LIMITS: Limits =
    Limits { failover_timeout: Duration::from_secs(10), max_lag: Duration::from_secs(10) };

fn ms(number: u64) -> Moment {
    Duration::from_millis(number)
}

/// A write of client 1 under key 7, from `at` for 10 ms.
fn write(kind: Kind, ids: &[u64], at: u64) -> Op {
    Op {
        client: 1,
        carries: Carries::Tokens,
        app: 0,
        kind,
        key: 7,
        ids: ids.to_vec(),
        seen: Vec::new(),
        start: ms(at),
        end: ms(at + 10),
        outcome: Outcome::Acknowledged,
        status: 200,
        error: None,
        nodes: "main write".into(),
        sent: None,
        given: None,
    }
}

fn read(seen: &[u64], at: u64) -> Op {
    let nodes = "replica_1 floor_met".into();
    Op { seen: seen.to_vec(), nodes, ..write(Kind::Read, &[], at) }
}

fn session_read(seen: &[u64], at: u64) -> Op {
    Op { kind: Kind::SessionRead, ..read(seen, at) }
}

fn failed(op: Op, outcome: Outcome, status: u16) -> Op {
    Op { outcome, status, ..op }
}

fn by(client: u32, op: Op) -> Op {
    Op { client, ..op }
}

fn history(ops: &[Op]) -> History {
    let primaries = vec![(ms(0), "main")];
    History { ops: ops.to_vec(), primaries, ..History::default() }
}

fn with(mut history: History, from: u64, to: u64, rule: Rule) -> History {
    let windows = vec![Window { from: ms(from), to: ms(to), rule }];
    history.episodes.push(Episode {
        fault: "test".to_owned(),
        target: String::new(),
        from: ms(from),
        to: ms(to),
        failover: false,
        windows,
    });
    history
}

fn with_failover(history: History, from: u64, to: u64) -> History {
    let mut history = with(history, from, to, Rule::TransactionsBreak);
    history.episodes.last_mut().unwrap().failover = true;
    history
}

fn with_final(mut history: History, rows: &[(u64, u64, u64)]) -> History {
    let rows = rows.iter().map(|(id, key, count)| (*id, (*key, *count))).collect();
    history.finals.push(FinalTable { node: "main".to_owned(), rows });
    history
}

fn found(history: &History) -> Vec<Check> {
    check(history, LIMITS).iter().map(|violation| violation.check).collect()
}

#[track_caller]
fn clean(history: &History) {
    let found = check(history, LIMITS);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_client_with_tokens_reads_what_it_wrote() {
    let write = write(Kind::Insert, &[1], 0);
    clean(&history(&[write.clone(), read(&[1], 20)]));
    assert_eq!(found(&history(&[write.clone(), read(&[], 20)])), [Check::ReadYourWrites]);
    // It need not read what others wrote or what is under other keys, nor anything without tokens.
    clean(&history(&[write.clone(), by(2, read(&[], 20))]));
    clean(&history(&[write.clone(), Op { key: 8, ..read(&[], 20) }]));
    let bare = |op| Op { carries: Carries::Nothing, ..op };
    clean(&history(&[bare(write.clone()), bare(read(&[], 20))]));
    // Nor a write that may not have been done.
    clean(&history(&[failed(write, Outcome::Left, 0), read(&[], 20)]));
}

#[test]
fn a_read_transaction_reads_own_writes_too() {
    let in_transaction = Op { kind: Kind::ReadTransaction, ..read(&[], 20) };
    let history = history(&[write(Kind::Pair, &[1, 2], 0), in_transaction]);
    assert_eq!(found(&history), [Check::ReadYourWrites]);
}

#[test]
fn what_a_session_read_stays() {
    let write = by(2, write(Kind::Insert, &[1], 0));
    let back = |first: Op| history(&[write.clone(), first, session_read(&[], 40)]);
    assert_eq!(found(&back(session_read(&[1], 20))), [Check::MonotonicReads]);
    clean(&back(by(3, session_read(&[1], 20))));
    // Plain reads may go back, and set no floor for later reads of the session.
    clean(&back(read(&[1], 20)));
    clean(&history(&[write.clone(), session_read(&[1], 20), read(&[], 40)]));
    clean(&history(&[write.clone(), session_read(&[], 20), session_read(&[1], 40)]));
}

#[test]
fn a_failover_may_take_back_what_was_not_acknowledged() {
    let reads = [session_read(&[1], 20), session_read(&[], 400)];
    let unknown = failed(by(2, write(Kind::Insert, &[1], 0)), Outcome::Left, 0);
    let lost = history(&[unknown, reads[0].clone(), reads[1].clone()]);
    assert_eq!(found(&lost), [Check::MonotonicReads]);
    clean(&with_failover(lost, 100, 300));
    let known = by(2, write(Kind::Insert, &[1], 0));
    let lost = history(&[known, reads[0].clone(), reads[1].clone()]);
    assert_eq!(found(&with_failover(lost, 100, 300)), [Check::MonotonicReads]);
}

#[test]
fn the_primary_shows_a_write_that_is_under_way_later_than_its_replicas() {
    let long = Op { end: ms(500), ..by(2, write(Kind::Insert, &[1], 0)) };
    let back = |node: &str| {
        let second = Op { nodes: node.into(), ..session_read(&[], 40) };
        history(&[long.clone(), session_read(&[1], 20), second])
    };
    clean(&back("main same_node"));
    assert_eq!(found(&back("replica_2 floor_met")), [Check::MonotonicReads]);
}

#[test]
fn what_was_undone_is_never_seen() {
    let refused = failed(write(Kind::Rollback, &[1, 2], 0), Outcome::Refused, 422);
    clean(&history(&[refused.clone(), by(2, read(&[], 20))]));
    assert!(found(&history(&[refused, by(2, read(&[1, 2], 20))])).contains(&Check::DirtyRead));
    let abandoned = failed(write(Kind::Abandoned, &[1], 0), Outcome::Left, 0);
    assert_eq!(found(&history(&[abandoned, by(2, read(&[1], 20))])), [Check::DirtyRead]);
    let left = failed(write(Kind::Insert, &[1], 0), Outcome::Left, 0);
    clean(&history(&[left, by(2, read(&[1], 20))]));
    assert_eq!(found(&history(&[read(&[9], 20)])), [Check::DirtyRead]);
    let elsewhere = Op { key: 8, ..by(2, read(&[1], 20)) };
    let elsewhere = history(&[write(Kind::Insert, &[1], 0), elsewhere]);
    assert_eq!(found(&elsewhere), [Check::DirtyRead]);
}

#[test]
fn a_transaction_is_seen_whole() {
    let pair = write(Kind::Pair, &[1, 2], 0);
    clean(&history(&[pair.clone(), by(2, read(&[1, 2], 20))]));
    clean(&history(&[pair.clone(), by(2, read(&[], 20))]));
    assert_eq!(found(&history(&[pair.clone(), by(2, read(&[2], 20))])), [Check::TornTransaction]);
    let left = failed(pair, Outcome::Left, 0);
    let half = with_final(history(&[left]), &[(1, 7, 1)]);
    assert_eq!(found(&half), [Check::TornTransaction]);
}

#[test]
fn what_was_written_once_is_there_once() {
    let write = write(Kind::Insert, &[1], 0);
    let twice = history(&[write.clone(), read(&[1, 1], 20)]);
    assert_eq!(found(&twice), [Check::DoubleWrite]);
    let twice = with_final(history(std::slice::from_ref(&write)), &[(1, 7, 2)]);
    assert_eq!(found(&twice), [Check::DoubleWrite]);
    clean(&with_final(history(&[write]), &[(1, 7, 1)]));
}

#[test]
fn what_was_acknowledged_is_there_at_the_end() {
    let lost = with_final(history(&[write(Kind::Insert, &[1], 0)]), &[]);
    assert_eq!(found(&lost), [Check::LostWrite]);
    let left = failed(write(Kind::Insert, &[1], 0), Outcome::Left, 0);
    clean(&with_final(history(std::slice::from_ref(&left)), &[]));
    clean(&with_final(history(&[left]), &[(1, 7, 1)]));
    // Here a transaction that the server had aborted was reported as a success.
    let spoiled = write(Kind::Spoiled, &[1, 2], 0);
    assert!(found(&with_final(history(&[spoiled]), &[])).contains(&Check::LostWrite));
    let spoiled = failed(write(Kind::Spoiled, &[1, 2], 0), Outcome::Refused, 500);
    clean(&with_final(history(&[spoiled]), &[]));
}

#[test]
fn what_was_undone_is_not_there_at_the_end() {
    let refused = failed(write(Kind::TxRollback, &[1], 0), Outcome::Refused, 422);
    let there = with_final(history(&[refused]), &[(1, 7, 1)]);
    assert_eq!(found(&there), [Check::DirtyRead]);
    assert_eq!(found(&with_final(history(&[]), &[(1, 7, 1)])), [Check::DirtyRead]);
}

#[test]
fn nobody_reads_what_is_older_than_max_lag() {
    let write = write(Kind::Insert, &[1], 0);
    clean(&history(&[write.clone(), by(2, read(&[], 9_000))]));
    assert_eq!(found(&history(&[write, by(2, read(&[], 16_000))])), [Check::StaleRead]);
}

#[test]
fn no_read_fails() {
    let refused = failed(read(&[], 100), Outcome::Refused, 503);
    let history = history(&[refused]);
    assert_eq!(found(&history), [Check::FailedRead]);
    // Nor does it while servers are in trouble.
    for rule in [Rule::WritesBreak, Rule::NoPrimary, Rule::TransactionsBreak] {
        assert_eq!(found(&with(history.clone(), 0, 200, rule)), [Check::FailedRead]);
    }
}

#[test]
fn a_read_transaction_fails_only_while_nodes_do() {
    let lost = Op { kind: Kind::ReadTransaction, ..failed(read(&[], 100), Outcome::Refused, 500) };
    let history = history(&[lost]);
    assert_eq!(found(&history), [Check::FailedRead]);
    clean(&with(history.clone(), 0, 200, Rule::TransactionsBreak));
    let later = with(history, 5_000, 6_000, Rule::TransactionsBreak);
    assert_eq!(found(&later), [Check::FailedRead]);
}

#[test]
fn a_read_may_fail_with_its_node_once_it_gave_out_a_row() {
    let lost = |seen: &[u64]| history(&[failed(read(seen, 100), Outcome::Unknown, 500)]);
    let breaks = |history| with(history, 0, 200, Rule::TransactionsBreak);
    assert_eq!(found(&breaks(lost(&[]))), [Check::FailedRead]);
    clean(&breaks(lost(&[1])));
    assert_eq!(found(&lost(&[1])), [Check::FailedRead]);
}

#[test]
fn requests_to_a_killed_app_may_go_without_an_answer() {
    let lost = history(&[failed(read(&[], 100), Outcome::Unknown, 0)]);
    clean(&with(lost.clone(), 90, 120, Rule::AppKilled(0)));
    assert_eq!(found(&with(lost.clone(), 90, 120, Rule::AppKilled(1))), [Check::FailedRead]);
    assert_eq!(found(&with(lost, 500, 520, Rule::AppKilled(0))), [Check::FailedRead]);
}

#[test]
fn an_app_that_stops_answers_what_it_had_begun() {
    let long = |start: u64| {
        let lost = failed(read(&[], start), Outcome::Unknown, 0);
        history(&[Op { end: ms(1_100), ..lost }])
    };
    clean(&with(long(800), 1_000, 2_000, Rule::AppStopped(0)));
    let begun = with(long(500), 1_000, 2_000, Rule::AppStopped(0));
    assert_eq!(found(&begun), [Check::FailedRead]);
}

#[test]
fn a_write_breaks_only_with_its_connection() {
    let broken = failed(write(Kind::Insert, &[1], 100), Outcome::Unknown, 500);
    let broken = history(&[broken]);
    assert_eq!(found(&broken), [Check::FailedWrite]);
    clean(&with(broken.clone(), 50, 150, Rule::WritesBreak));
    assert_eq!(found(&with(broken.clone(), 1_000, 1_100, Rule::WritesBreak)), [Check::FailedWrite]);
    assert_eq!(found(&with(broken, 50, 150, Rule::TransactionsBreak)), [Check::FailedWrite]);
}

#[test]
fn a_write_that_a_shutdown_ended_is_sent_again() {
    let error = Some("terminating connection due to administrator command 57P01".into());
    let ended = failed(write(Kind::Insert, &[1], 100), Outcome::Unknown, 500);
    let ended = Op { error, ..ended };
    let pair = Op { kind: Kind::Pair, ids: vec![1, 2], ..ended.clone() };
    let during = |op| with(history(&[op]), 50, 150, Rule::WritesBreak);
    assert_eq!(found(&during(ended)), [Check::FailedWrite]);
    clean(&during(pair));
}

#[test]
fn a_write_is_refused_only_after_it_waited() {
    let refused = failed(write(Kind::Insert, &[1], 100), Outcome::Refused, 503);
    let during = |op| with(history(&[op]), 0, 20_000, Rule::NoPrimary);
    assert_eq!(found(&during(refused.clone())), [Check::FailedWrite]);
    let waited = Op { end: ms(10_150), ..refused };
    clean(&during(waited.clone()));
    assert_eq!(found(&history(&[waited])), [Check::FailedWrite]);
}

#[test]
fn a_transaction_that_had_begun_need_not_wait() {
    let refused = failed(write(Kind::Pair, &[1, 2], 100), Outcome::Refused, 503);
    let during = |op, rule| with(history(&[op]), 50, 150, rule);
    clean(&during(refused.clone(), Rule::WritesBreak));
    assert_eq!(found(&during(refused.clone(), Rule::NoPrimary)), [Check::FailedWrite]);
    let single = Op { kind: Kind::Insert, ids: vec![1], ..refused };
    assert_eq!(found(&during(single, Rule::WritesBreak)), [Check::FailedWrite]);
}

#[test]
fn who_asks_gets_an_answer() {
    let error = Some(NO_ANSWER.into());
    let hung = Op { error, ..failed(write(Kind::Insert, &[1], 0), Outcome::Unknown, 0) };
    assert_eq!(found(&history(&[hung])), [Check::NoAnswer]);
}

#[test]
fn a_ghost_serves_nothing() {
    let rule = Rule::Forbidden("main", "a ghost");
    let read = Op { nodes: "main fallback".into(), ..read(&[], 100) };
    let history = history(&[read]);
    assert_eq!(found(&with(history.clone(), 50, 200, rule.clone())), [Check::ForbiddenNode]);
    clean(&with(history.clone(), 500, 600, rule));
    clean(&with(history, 50, 200, Rule::Forbidden("replica_2", "a ghost")));
}

#[test]
fn what_the_run_saw_counts() {
    let remark = Remark { at: ms(1), check: Check::Leak, text: "too many files".to_owned() };
    let history = History { remarks: vec![remark], ..History::default() };
    assert_eq!(found(&history), [Check::Leak]);
}
