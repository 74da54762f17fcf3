//! What samples of several nodes say together, without a server.

use super::*;
use crate::router::snapshot::{Exclusion, NodeView};

const SYSTEM: u64 = 7;

struct Nodes {
    topology: Topology,
    start: Instant,
}

/// A node's answer, as a sentence is built.
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

/// As an ordinary role sees it: only the control file's old word.
fn shy_replica(control: (u32, u64), lsn: u64) -> Answer {
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
        // Each node is a server of its own.
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
fn the_primary_is_who_says_so_on_the_highest_timeline() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 0, replica(1, 100));
    assert_eq!(nodes.primary(), Some(0));
    nodes.answers(1, 1, primary(2, 110));
    assert_eq!(nodes.primary(), Some(1));
    assert_eq!(nodes.view(0).excluded, Some(Exclusion::SecondPrimary(1)));
    // It comes back with more than it had, and is a ghost all the same.
    nodes.answers(0, 2, primary(1, 900));
    assert_eq!(nodes.primary(), Some(1));
    // Also while the real one is down.
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
fn a_cluster_that_is_replaced_under_its_names_is_taken_over_when_all_of_the_old_one_are_down() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(4, 900));
    nodes.answers(1, 0, replica(4, 900));
    nodes.answers(2, 0, Answer { system: 8, ..primary(1, 50) });
    nodes.refuses(0, 1);
    let newer = Answer { system: 9, started: 5, ..primary(1, 100) };
    for millis in [2, 3] {
        nodes.answers(0, millis, newer);
        assert_eq!(nodes.primary(), None, "a replica of the old one is up");
    }
    nodes.refuses(1, 4);
    nodes.answers(2, 5, Answer { system: 8, ..primary(1, 50) });
    assert_eq!(nodes.primary(), None, "no write went there before");
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
fn servers_that_started_in_the_same_microsecond_are_not_one() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    let (one, other) = (Some(5), Some(6));
    nodes.answers(1, 0, Answer { counts_since: one, ..replica(1, 100) });
    nodes.answers(2, 0, Answer { counts_since: other, started: -1000, ..replica(1, 100) });
    assert_eq!(nodes.view(2).excluded, None);
    assert!(nodes.in_rotation(1, 1) && nodes.in_rotation(2, 1));
    // What they count since says nothing where one of them does not tell; and it may be reset.
    nodes.answers(2, 1, Answer { started: -1000, ..replica(1, 100) });
    assert_eq!(nodes.view(2).excluded, Some(Exclusion::SameServer(1)));
    let incarnation = nodes.view(1).incarnation;
    let change = nodes.answers(1, 2, Answer { counts_since: Some(7), ..replica(1, 100) });
    assert!(!change.new_server && nodes.view(1).incarnation == incarnation);
}

#[test]
fn log_without_a_transaction_keeps_no_replica_out() {
    let mut nodes = Nodes::new(2);
    let xid_horizon = 7;
    for millis in (0..30_000).step_by(200) {
        nodes.answers(0, millis, Answer { xid_horizon, ..primary(1, 150) });
        nodes.answers(1, millis, Answer { xid_horizon, paused: true, ..replica(1, 100) });
    }
    assert!(nodes.in_rotation(1, 30_000));
    let lag = |nodes: &Nodes| nodes.topology.lag(1, nodes.at(30_000));
    assert_eq!(lag(&nodes), (Some(50), Some(Duration::ZERO)));
    // It is paused, and there is something to replay now.
    nodes.answers(0, 30_000, Answer { xid_horizon: 8, ..primary(1, 180) });
    assert_eq!(nodes.view(1).excluded, Some(Exclusion::Paused));
    assert_eq!(lag(&nodes), (Some(80), Some(Duration::from_millis(200))));
}

#[test]
fn age_is_counted_from_when_the_primary_had_no_more() {
    let mut nodes = Nodes::new(2);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, replica(1, 100));
    nodes.answers(0, 500, primary(1, 200));
    nodes.answers(1, 501, replica(1, 150));
    // It has what the primary had at 0, and not what it had at 500.
    assert_eq!(nodes.view(1).fresh_as_of, Some(nodes.at(0)));
    assert!(nodes.in_rotation(1, 10_000) && !nodes.in_rotation(1, 10_001));
    nodes.answers(1, 502, replica(1, 200));
    assert_eq!(nodes.view(1).fresh_as_of, Some(nodes.at(500)));
}

#[test]
fn an_idle_primary_is_no_lag_and_a_dead_one_proves_nothing() {
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
    // Its position is from before all that is known of the primary.
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
fn a_restored_server_goes_backwards() {
    let mut nodes = Nodes::new(2);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, replica(1, 100));
    assert_eq!(nodes.confirmed(1), Some((1, 100)));
    let change = nodes.answers(1, 2, Answer { started: 5, ..replica(1, 60) });
    assert!(change.new_server);
    assert_eq!(nodes.confirmed(1), Some((1, 60)));
}

#[test]
fn a_position_of_an_ordinary_role_is_confirmed_by_the_others() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, shy_replica((1, 20), 100));
    nodes.answers(2, 2, shy_replica((1, 30), 100));
    // The control file's word is old and true.
    assert_eq!((nodes.confirmed(1), nodes.confirmed(2)), (Some((1, 20)), Some((1, 30))));
    nodes.answers(0, 3, primary(1, 105));
    // The first was asked before the second and the primary.
    assert_eq!((nodes.confirmed(1), nodes.confirmed(2)), (Some((1, 100)), Some((1, 30))));
    nodes.answers(1, 4, shy_replica((1, 20), 105));
    assert_eq!(nodes.confirmed(2), Some((1, 100)));
}

#[test]
fn nothing_is_confirmed_by_the_others_while_one_is_silent() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(2, 1, shy_replica((1, 30), 90));
    nodes.answers(1, 2, shy_replica((1, 20), 100));
    nodes.answers(0, 3, primary(1, 100));
    nodes.fails(2, 4);
    nodes.fails(2, 5);
    assert_eq!(nodes.confirmed(1), Some((1, 20)));
    // Where nothing listens, nobody was promoted whom it could follow.
    nodes.refuses(2, 6);
    assert_eq!(nodes.confirmed(1), Some((1, 100)));
}

#[test]
fn a_cascading_standby_that_followed_a_promotion_is_not_taken_for_one_that_did_not() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, replica(1, 80));
    nodes.answers(2, 2, shy_replica((1, 30), 80));
    nodes.answers(0, 3, primary(1, 100));
    // Node 1 is promoted at 85, and node 2 follows it beyond 100 while its control file is old.
    nodes.answers(2, 4, shy_replica((1, 30), 120));
    nodes.answers(0, 5, primary(1, 100));
    assert_ne!(nodes.confirmed(2), Some((1, 120)));
    nodes.answers(1, 6, primary(2, 125));
    let (timeline, _) = nodes.confirmed(2).unwrap();
    assert!(timeline == 1 && nodes.confirmed(2).unwrap().1 <= 80, "{:?}", nodes.confirmed(2));
    // The old primary is gone, and yet node 2 may have followed that one till then.
    nodes.refuses(0, 7);
    nodes.answers(1, 8, primary(2, 130));
    assert_eq!(nodes.confirmed(2).unwrap().0, 1);
    // Its control file tells, in the end.
    nodes.answers(2, 9, shy_replica((2, 90), 130));
    nodes.answers(1, 10, primary(2, 130));
    assert_eq!(nodes.confirmed(2), Some((2, 90)));
    nodes.refuses(0, 11);
    assert_eq!(nodes.confirmed(2), Some((2, 130)));
}

#[test]
fn a_receiver_s_timeline_other_than_the_primary_s_keeps_a_replica_out() {
    let mut nodes = Nodes::new(3);
    nodes.answers(0, 0, primary(1, 100));
    nodes.answers(1, 1, primary(2, 100));
    nodes.answers(2, 2, replica(1, 150));
    assert_eq!(nodes.view(2).excluded, Some(Exclusion::OtherTimeline(1)));
    nodes.answers(2, 3, replica(2, 100));
    assert_eq!(nodes.view(2).excluded, None);
}

#[test]
fn a_server_without_positions_turns_the_cluster_to_time_windows() {
    let mut nodes = Nodes::new(2);
    let silent = |role, number: i64, began| Sample {
        began,
        round_trip: Duration::ZERO,
        role,
        server: ServerId { system: None, started: number, counts_since: None },
        progress: None,
    };
    let began = nodes.at(0);
    nodes.topology.answered(0, silent(Role::Primary, 0, began));
    nodes.topology.answered(1, silent(Role::Replica, 1, began));
    let snapshot = nodes.topology.snapshot();
    assert!(!snapshot.positions);
    assert_eq!(snapshot.primary, Some(0));
    assert!(nodes.in_rotation(1, 1));
    assert_eq!(snapshot.nodes[1].position, None);
    // Where the primary does tell, a replica that does not is unknown, and so out.
    nodes.answers(0, 2, primary(1, 100));
    assert_eq!(nodes.view(1).excluded, Some(Exclusion::NoPosition));
}
