//! What follows from samples of several nodes, without a server.

use super::*;
use crate::router::snapshot::{Exclusion, NodeView};

const SYSTEM: u64 = 7;

struct Nodes {
    topology: Topology,
    start: Instant,
}

/// What a node reports to a probe. Made by [`primary`], [`replica`] or
/// [`replica_without_timeline`].
#[derive(Clone, Copy)]
struct Answer {
    role: Role,
    system: u64,
    started: i64,
    counts_since: Option<i64>,
    lsn: u64,
    xid_horizon: u64,
    timeline: Option<u32>,
    control: Option<(u32, Lsn)>,
    paused: bool,
}

fn primary(timeline: u32, lsn: u64) -> Answer {
    let timeline = Some(timeline);
    Answer {
        role: Role::Primary,
        system: SYSTEM,
        started: 0,
        counts_since: None,
        lsn,
        xid_horizon: 1,
        timeline,
        control: None,
        paused: false,
    }
}

fn replica(timeline: u32, lsn: u64) -> Answer {
    Answer { role: Role::Replica, xid_horizon: 0, ..primary(timeline, lsn) }
}

/// A replica as an ordinary role sees it: only the control file names a timeline.
fn replica_without_timeline(control: (u32, u64), lsn: u64) -> Answer {
    Answer { timeline: None, control: Some((control.0, Lsn(control.1))), ..replica(0, lsn) }
}

impl Nodes {
    fn new(count: usize) -> Self {
        Self {
            topology: Topology::new(count, 2, 2, Duration::from_secs(10)),
            start: Instant::now(),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn answers(&mut self, number: usize, millis: u64, answer: Answer) -> Change {
        let Answer {
            role,
            system,
            started,
            counts_since,
            lsn,
            xid_horizon,
            timeline,
            control,
            paused,
        } = answer;
        // Each node gets another start time, so that each is a server of its own.
        let server = ServerId {
            system: Some(system),
            started: started + 1000 * i64::try_from(number).unwrap(),
            counts_since,
        };
        let apply_delay = Duration::ZERO;
        let progress =
            Progress { lsn: Lsn(lsn), xid_horizon, timeline, control, paused, apply_delay };
        let sample = Sample {
            began: self.at(millis),
            round_trip: Duration::from_millis(1),
            role,
            server,
            progress: Some(progress),
        };
        self.topology.answered(number, sample)
    }

    fn fails(&mut self, number: usize, millis: u64) {
        let began = self.at(millis);
        self.topology.failed(number, began, false);
    }

    fn refuses(&mut self, number: usize, millis: u64) {
        let began = self.at(millis);
        self.topology.failed(number, began, true);
    }

    fn view(&self, number: usize) -> NodeView {
        self.topology.snapshot().nodes[number].clone()
    }

    fn confirmed(&self, number: usize) -> Option<(u32, u64)> {
        let (position, _) = self.view(number).position?;
        Some((position.timeline, position.lsn.0))
    }

    fn primary(&self) -> Option<usize> {
        self.topology.snapshot().primary
    }

    fn in_rotation(&self, number: usize, millis: u64) -> bool {
        self.view(number).in_rotation(self.at(millis), Duration::from_secs(10))
    }
}

#[test]
fn the_primary_is_the_node_that_takes_writes_on_the_highest_timeline() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 0, replica(1, 100));
    assert_eq!(nodes.primary(), Some(0));
    nodes.answers(1, 1, primary(2, 110));
    assert_eq!(nodes.primary(), Some(1));
    assert_eq!(nodes.view(0).excluded, Some(Exclusion::SecondPrimary(1)));
    // The old primary is further on its timeline by now, and is superseded all the same.
    nodes.answers(0, 2, primary(1, 900));
    assert_eq!(nodes.primary(), Some(1));
    // It does not become the primary while the new one is down either.
    nodes.refuses(1, 3);
    assert_eq!(nodes.primary(), None);
    assert_eq!(nodes.topology.snapshot().writer, 1);
}

#[test]
fn of_two_primaries_on_one_timeline_the_first_one_stays() {
    let mut nodes = Nodes::new(2);
    nodes.answers(1, 0, primary(1, 100));
    assert_eq!(nodes.primary(), Some(1));
    nodes.answers(0, 1, primary(1, 200));
    assert_eq!(nodes.primary(), Some(1));
    assert_eq!(nodes.view(0).excluded, Some(Exclusion::SecondPrimary(1)));
}

#[test]
fn a_node_of_another_system_is_neither_primary_nor_replica() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 0, Answer { system: 8, ..primary(9, 900) });
    nodes.answers(2, 0, Answer { system: 8, ..replica(1, 100) });
    assert_eq!(nodes.primary(), Some(0));
    for number in [1, 2] {
        assert_eq!(nodes.view(number).excluded, Some(Exclusion::OtherSystem(8)));
        assert!(!nodes.in_rotation(number, 1));
    }
}

#[test]
fn another_cluster_at_the_same_addresses_is_taken_over_once_the_old_one_is_down() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(4, 900));
    nodes.answers(1, 0, replica(4, 900));
    nodes.answers(2, 0, Answer { system: 8, ..primary(1, 50) });
    nodes.refuses(0, 1);
    let newer = Answer { system: 9, started: 5, ..primary(1, 100) };
    for millis in [2, 3] {
        nodes.answers(0, millis, newer);
        assert_eq!(nodes.primary(), None, "a replica of the old cluster is up");
    }
    nodes.refuses(1, 4);
    nodes.answers(2, 5, Answer { system: 8, ..primary(1, 50) });
    assert_eq!(nodes.primary(), None, "node 2 is not the one that took writes");
    nodes.answers(0, 6, newer);
    assert_eq!(nodes.primary(), Some(0));
    assert_eq!(nodes.view(2).excluded, Some(Exclusion::OtherSystem(8)));
    for millis in [7, 8] {
        nodes.answers(1, millis, Answer { system: 9, started: 5, ..replica(1, 100) });
    }
    assert!(nodes.in_rotation(1, 9));
}

#[test]
fn one_server_under_two_names_counts_once() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 0, replica(1, 100));
    nodes.answers(2, 0, Answer { started: -1000, ..replica(1, 100) });
    assert_eq!(nodes.view(2).excluded, Some(Exclusion::SameServer(1)));
    assert!(nodes.in_rotation(1, 1) && !nodes.in_rotation(2, 1));
}

#[test]
fn servers_that_started_in_the_same_microsecond_are_told_apart_by_their_counters() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    let (one, other) = (Some(5), Some(6));
    nodes.answers(1, 0, Answer { counts_since: one, ..replica(1, 100) });
    nodes.answers(2, 0, Answer { counts_since: other, started: -1000, ..replica(1, 100) });
    assert_eq!(nodes.view(2).excluded, None);
    assert!(nodes.in_rotation(1, 1) && nodes.in_rotation(2, 1));
    // If one of them does not report since when it counts, the two cannot be told apart.
    nodes.answers(2, 1, Answer { started: -1000, ..replica(1, 100) });
    assert_eq!(nodes.view(2).excluded, Some(Exclusion::SameServer(1)));
    // Counters that were reset do not make another server.
    let incarnation = nodes.view(1).incarnation;
    let change = nodes.answers(1, 2, Answer { counts_since: Some(7), ..replica(1, 100) });
    assert!(!change.new_server && nodes.view(1).incarnation == incarnation);
}

#[test]
fn wal_without_a_transaction_keeps_no_replica_out() {
    let mut nodes = Nodes::new(2);
    let xid_horizon = 7;
    for millis in (0..30_000).step_by(200) {
        nodes.answers(0, millis, Answer { xid_horizon, ..primary(1, 150) });
        nodes.answers(1, millis, Answer { xid_horizon, paused: true, ..replica(1, 100) });
    }
    assert!(nodes.in_rotation(1, 30_000));
    let lag = |nodes: &Nodes| nodes.topology.lag(1, nodes.at(30_000));
    assert_eq!(lag(&nodes), (Some(50), Some(Duration::ZERO)));
    // Now there is a transaction that the paused replica has not replayed.
    nodes.answers(0, 30_000, Answer { xid_horizon: 8, ..primary(1, 180) });
    assert_eq!(nodes.view(1).excluded, Some(Exclusion::Paused));
    assert_eq!(lag(&nodes), (Some(80), Some(Duration::from_millis(200))));
}

#[test]
fn age_is_counted_from_the_moment_at_which_the_primary_had_no_more_than_the_replica() {
    let mut nodes = Nodes::new(2);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, replica(1, 100));
    nodes.answers(0, 500, primary(1, 200));
    nodes.answers(1, 501, replica(1, 150));
    // The replica has what the primary had at 0, and lacks some of what it had at 500.
    assert_eq!(nodes.view(1).fresh_as_of, Some(nodes.at(0)));
    assert!(nodes.in_rotation(1, 10_000) && !nodes.in_rotation(1, 10_001));
    nodes.answers(1, 502, replica(1, 200));
    assert_eq!(nodes.view(1).fresh_as_of, Some(nodes.at(500)));
}

#[test]
fn replicas_of_an_idle_primary_do_not_age_but_those_of_a_dead_one_do() {
    let mut nodes = Nodes::new(2);
    for minute in 0..10 {
        nodes.answers(0, minute * 60_000, primary(1, 100));
        nodes.answers(1, minute * 60_000 + 1, replica(1, 100));
        assert!(nodes.in_rotation(1, minute * 60_000 + 2));
    }
    nodes.refuses(0, 550_000);
    nodes.answers(1, 560_000, replica(1, 100));
    assert!(!nodes.in_rotation(1, 560_000));
}

#[test]
fn an_unknown_age_is_too_old() {
    let mut nodes = Nodes::new(2);
    nodes.answers(1, 0, replica(1, 100));
    assert_eq!(nodes.view(1).fresh_as_of, None);
    assert!(!nodes.in_rotation(1, 0));
    nodes.answers(0, 1, primary(1, 200));
    // The replica's position is below every position that is known of the primary.
    assert!(!nodes.in_rotation(1, 2));
}

#[test]
fn paused_replay_matters_once_there_is_something_to_replay() {
    let mut nodes = Nodes::new(2);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, Answer { paused: true, ..replica(1, 100) });
    assert!(nodes.in_rotation(1, 2));
    nodes.answers(0, 3, primary(1, 101));
    assert_eq!(nodes.view(1).excluded, Some(Exclusion::Paused));
}

#[test]
fn the_position_of_a_server_that_was_restored_goes_back() {
    let mut nodes = Nodes::new(2);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, replica(1, 100));
    assert_eq!(nodes.confirmed(1), Some((1, 100)));
    let change = nodes.answers(1, 2, Answer { started: 5, ..replica(1, 60) });
    assert!(change.new_server);
    assert_eq!(nodes.confirmed(1), Some((1, 60)));
}

#[test]
fn a_position_that_an_ordinary_role_sees_is_confirmed_by_the_other_nodes() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, replica_without_timeline((1, 20), 100));
    nodes.answers(2, 2, replica_without_timeline((1, 30), 100));
    // The positions in the control files are old, but certain.
    assert_eq!((nodes.confirmed(1), nodes.confirmed(2)), (Some((1, 20)), Some((1, 30))));
    nodes.answers(0, 3, primary(1, 105));
    // Node 1 was probed before node 2 and the primary were, so its position is confirmed.
    assert_eq!((nodes.confirmed(1), nodes.confirmed(2)), (Some((1, 100)), Some((1, 30))));
    nodes.answers(1, 4, replica_without_timeline((1, 20), 105));
    assert_eq!(nodes.confirmed(2), Some((1, 100)));
}

#[test]
fn nothing_is_confirmed_by_the_other_nodes_while_one_of_them_does_not_answer() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(2, 1, replica_without_timeline((1, 30), 90));
    nodes.answers(1, 2, replica_without_timeline((1, 20), 100));
    nodes.answers(0, 3, primary(1, 100));
    nodes.fails(2, 4);
    nodes.fails(2, 5);
    assert_eq!(nodes.confirmed(1), Some((1, 20)));
    // Nothing listens at node 2, so it was not promoted, and node 1 cannot have followed it.
    nodes.refuses(2, 6);
    assert_eq!(nodes.confirmed(1), Some((1, 100)));
}

#[test]
fn a_cascading_standby_that_followed_a_promotion_is_not_confirmed_on_the_old_timeline() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, replica(1, 80));
    nodes.answers(2, 2, replica_without_timeline((1, 30), 80));
    nodes.answers(0, 3, primary(1, 100));
    // Node 1 is promoted at 85, and node 2 follows it beyond 100 while its control file is old.
    nodes.answers(2, 4, replica_without_timeline((1, 30), 120));
    nodes.answers(0, 5, primary(1, 100));
    assert_ne!(nodes.confirmed(2), Some((1, 120)));
    nodes.answers(1, 6, primary(2, 125));
    let (timeline, _) = nodes.confirmed(2).unwrap();
    assert!(timeline == 1 && nodes.confirmed(2).unwrap().1 <= 80, "{:?}", nodes.confirmed(2));
    // The old primary is down, but node 2 may have followed it until then.
    nodes.refuses(0, 7);
    nodes.answers(1, 8, primary(2, 130));
    assert_eq!(nodes.confirmed(2).unwrap().0, 1);
    // Only its control file shows the new timeline.
    nodes.answers(2, 9, replica_without_timeline((2, 90), 130));
    nodes.answers(1, 10, primary(2, 130));
    assert_eq!(nodes.confirmed(2), Some((2, 90)));
    nodes.refuses(0, 11);
    assert_eq!(nodes.confirmed(2), Some((2, 130)));
}

#[test]
fn a_replica_whose_receiver_is_on_another_timeline_than_the_primary_is_excluded() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, primary(2, 100));
    nodes.answers(2, 2, replica(1, 150));
    assert_eq!(nodes.view(2).excluded, Some(Exclusion::OtherTimeline(1)));
    nodes.answers(2, 3, replica(2, 100));
    assert_eq!(nodes.view(2).excluded, None);
}

#[test]
fn replicas_of_a_primary_that_reports_no_position_count_as_fresh() {
    let mut nodes = Nodes::new(2);
    let without_progress = |role, number: i64, began| Sample {
        began,
        round_trip: Duration::ZERO,
        role,
        server: ServerId { system: None, started: number, counts_since: None },
        progress: None,
    };
    let began = nodes.at(0);
    nodes.topology.answered(0, without_progress(Role::Primary, 0, began));
    nodes.topology.answered(1, without_progress(Role::Replica, 1, began));
    let snapshot = nodes.topology.snapshot();
    assert!(!snapshot.positions);
    assert_eq!(snapshot.primary, Some(0));
    assert!(nodes.in_rotation(1, 1));
    assert_eq!(snapshot.nodes[1].position, None);
    // If the primary reports its position and a replica does not, the replica's lag is unknown.
    nodes.answers(0, 2, primary(1, 100));
    assert_eq!(nodes.view(1).excluded, Some(Exclusion::NoPosition));
}

#[test]
fn a_replica_on_which_all_transactions_have_ended_has_what_a_token_needs() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, Answer { xid_horizon: 8, ..primary(1, 200) });
    let (token, _) = nodes.view(0).position.unwrap();
    assert_eq!(token.xid_horizon, Some(8));
    // Transaction 7 may not have ended on it yet.
    nodes.answers(1, 1, Answer { xid_horizon: 7, ..replica(1, 100) });
    assert!(!nodes.view(1).has(token));
    let all_ended = Answer { xid_horizon: 8, ..replica(1, 110) };
    nodes.answers(1, 2, all_ended);
    assert!(nodes.view(1).has(token));
    assert_eq!(nodes.confirmed(1), Some((1, 110)));
    // Its own position says nothing of transactions, so another replica that has ended as many need not
    // have what was read on it.
    let (own, _) = nodes.view(1).position.unwrap();
    nodes.answers(2, 2, Answer { xid_horizon: 9, ..replica(1, 100) });
    assert!(nodes.view(2).has(token) && !nodes.view(2).has(own));
    // A transaction that is open keeps the horizon down; what had ended stays so.
    nodes.answers(1, 3, Answer { xid_horizon: 5, ..replica(1, 115) });
    assert!(nodes.view(1).has(token));
    // Another server under its name, or the same one after a restart, may be behind.
    nodes.answers(1, 4, Answer { started: 1, xid_horizon: 7, ..replica(1, 110) });
    assert!(!nodes.view(1).has(token));
    // On another timeline the ids are those of other transactions.
    nodes.answers(1, 5, Answer { started: 1, xid_horizon: 9, ..replica(2, 110) });
    assert!(!nodes.view(1).has(token));
}

#[test]
fn transactions_have_ended_where_the_timeline_is_certain() {
    let mut nodes = Nodes::new(2);
    nodes.answers(0, 0, Answer { xid_horizon: 8, ..primary(1, 200) });
    let (token, _) = nodes.view(0).position.unwrap();
    nodes.answers(1, 1, Answer { xid_horizon: 8, ..replica_without_timeline((1, 50), 100) });
    assert!(!nodes.view(1).has(token));
    // The primary was not promoted since.
    nodes.answers(0, 2, Answer { xid_horizon: 9, ..primary(1, 300) });
    assert!(nodes.view(1).has(token));
}

#[test]
fn a_replica_is_expected_to_take_as_long_as_its_answers_showed() {
    let mut nodes = Nodes::new(2);
    let expected = |nodes: &Nodes| {
        let moment = nodes.topology.replays_by(1, Lsn(200))?;
        Some((moment - nodes.start).as_millis())
    };
    assert_eq!(expected(&nodes), None);
    nodes.answers(0, 1000, primary(1, 200));
    nodes.answers(1, 1000, replica(1, 100));
    assert_eq!(expected(&nodes), Some(1000));
    nodes.answers(1, 1100, replica(1, 100));
    assert_eq!(expected(&nodes), Some(1150));
    nodes.answers(1, 1120, replica(1, 200));
    assert_eq!(expected(&nodes), Some(1120));
    // What it took on its own server says nothing of another one.
    nodes.answers(1, 1130, Answer { started: 1, ..replica(1, 200) });
    assert_eq!(expected(&nodes), Some(1000));
}
