//! `route` on pictures made by hand: in doubt, the primary.

use std::time::{Duration, Instant};

use flautino::router::{
    Decision, ExcludedNodes, Exclusion, Floor, Load, Lsn, NodeView, Position, Request, Snapshot,
    Target, route, route_stale,
};
use flautino::{Access, Reason, Role};

const LAG: Duration = Duration::from_secs(10);

fn at(lsn: u64) -> Position {
    Position::new(1, 1, Lsn(lsn))
}

/// A primary at 100 and two fresh replicas, at 100 and at 50.
fn picture(now: Instant) -> Snapshot {
    let mut snapshot = Snapshot::unknown(3);
    for (node, (role, lsn)) in snapshot.nodes.iter_mut().zip([
        (Role::Primary, 100),
        (Role::Replica, 100),
        (Role::Replica, 50),
    ]) {
        node.role = role;
        node.up = true;
        node.position = Some((at(lsn), Some(now)));
        node.fresh_as_of = Some(now);
    }
    snapshot.primary = Some(0);
    snapshot
}

fn request(floor: Floor, now: Instant) -> Request {
    let mut request = Request::new(Access::Read, Target::Auto, floor, now);
    request.max_lag = LAG;
    request
}

/// All answers over many random numbers; one reason.
fn all(request: &Request, snapshot: &Snapshot) -> (Vec<usize>, Reason) {
    let decide = |number: u64| {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        route(request, snapshot, |_| Load::default(), random)
    };
    let decisions: Vec<Decision> = (0..200).map(decide).collect();
    assert!(decisions.iter().all(|decision| decision.reason == decisions[0].reason));
    let mut nodes: Vec<_> = decisions.iter().map(|decision| decision.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    (nodes, decisions[0].reason)
}

#[test]
fn reads_without_a_floor_spread_over_all_replicas_and_with_one_over_those_that_meet_it() {
    let now = Instant::now();
    let snapshot = picture(now);
    for (floor, nodes, reason) in [
        (Floor::None, vec![1, 2], Reason::NoFloor),
        (Floor::At(at(50)), vec![1, 2], Reason::FloorMet),
        (Floor::At(at(51)), vec![1], Reason::FloorMet),
        (Floor::At(at(100)), vec![1], Reason::FloorMet),
        (Floor::At(at(101)), vec![0], Reason::FloorAhead),
        (Floor::At(Position::new(1, 2, Lsn(1))), vec![0], Reason::FloorAhead),
        (Floor::At(Position::new(2, 1, Lsn(1))), vec![0], Reason::FloorAhead),
        (Floor::SeenOn(2, None), vec![2], Reason::SameNode),
        (Floor::SeenOn(2, Some(at(51))), vec![0], Reason::FloorAhead),
        (Floor::Primary(Reason::OwnWrite), vec![0], Reason::OwnWrite),
        (Floor::Primary(Reason::Strong), vec![0], Reason::Strong),
        (Floor::Primary(Reason::TokenWindow), vec![0], Reason::TokenWindow),
        (Floor::Primary(Reason::ForeignToken), vec![0], Reason::ForeignToken),
    ] {
        assert_eq!(all(&request(floor, now), &snapshot), (nodes, reason), "{floor:?}");
    }
}

#[test]
fn an_unknown_age_is_too_old_and_so_is_one_above_the_limit() {
    let now = Instant::now() + Duration::from_secs(1000);
    for (fresh, expected) in [
        (Some(now), (vec![1], Reason::NoFloor)),
        (Some(now - LAG), (vec![1], Reason::NoFloor)),
        (Some(now - LAG - Duration::from_millis(1)), (vec![0], Reason::Lagging)),
        (None, (vec![0], Reason::Lagging)),
    ] {
        let mut snapshot = picture(now);
        snapshot.nodes[1].fresh_as_of = fresh;
        snapshot.nodes[2].up = false;
        assert_eq!(all(&request(Floor::None, now), &snapshot), expected, "{fresh:?}");
    }
}

#[test]
fn an_unknown_position_is_never_enough() {
    let now = Instant::now();
    let mut snapshot = picture(now);
    snapshot.nodes[1].position = None;
    snapshot.nodes[2].position = None;
    let ahead = (vec![0], Reason::FloorAhead);
    assert_eq!(all(&request(Floor::At(at(0)), now), &snapshot), ahead);
    // Nor when the primary is gone.
    snapshot.primary = None;
    snapshot.nodes[0].up = false;
    assert_eq!(all(&request(Floor::At(at(0)), now), &snapshot), ahead);
}

#[test]
fn what_is_down_excluded_or_no_replica_is_not_read_from() {
    let now = Instant::now();
    type Spoil = fn(&mut NodeView);
    let spoil: [(&str, Spoil); 9] = [
        ("down", |node| node.up = false),
        ("unknown", |node| node.role = Role::Unknown),
        ("a primary", |node| node.role = Role::Primary),
        ("foreign", |node| node.excluded = Some(Exclusion::OtherSystem(2))),
        ("another timeline", |node| node.excluded = Some(Exclusion::OtherTimeline(2))),
        ("a twin", |node| node.excluded = Some(Exclusion::SameServer(0))),
        ("several", |node| node.excluded = Some(Exclusion::SeveralServers)),
        ("paused", |node| node.excluded = Some(Exclusion::Paused)),
        ("silent", |node| node.excluded = Some(Exclusion::NoPosition)),
    ];
    for (what, spoil) in spoil {
        let mut snapshot = picture(now);
        spoil(&mut snapshot.nodes[1]);
        assert_eq!(all(&request(Floor::None, now), &snapshot).0, [2], "{what}");
        assert_eq!(all(&request(Floor::At(at(60)), now), &snapshot).0, [0], "{what}");
    }
}

#[test]
fn when_the_primary_is_gone_one_that_lags_serves_but_only_where_it_meets_the_floor() {
    let now = Instant::now() + Duration::from_secs(1000);
    let mut snapshot = picture(now);
    snapshot.primary = None;
    snapshot.nodes[0].up = false;
    for node in &mut snapshot.nodes[1..] {
        node.fresh_as_of = None;
    }
    for (floor, expected) in [
        (Floor::None, (vec![1, 2], Reason::Stale)),
        (Floor::At(at(50)), (vec![1, 2], Reason::Stale)),
        (Floor::At(at(51)), (vec![1], Reason::Stale)),
        (Floor::At(at(101)), (vec![0], Reason::Lagging)),
        (Floor::SeenOn(2, None), (vec![2], Reason::Stale)),
        (Floor::Primary(Reason::OwnWrite), (vec![0], Reason::OwnWrite)),
        (Floor::Primary(Reason::Strong), (vec![0], Reason::Strong)),
        (Floor::Primary(Reason::ForeignToken), (vec![0], Reason::ForeignToken)),
    ] {
        assert_eq!(all(&request(floor, now), &snapshot), expected, "{floor:?}");
    }
    // While it answers, one that lags serves nobody.
    snapshot.primary = Some(0);
    assert_eq!(all(&request(Floor::None, now), &snapshot), (vec![0], Reason::Lagging));
    // It counts as gone for a read that failed on it.
    let mut failed = request(Floor::At(at(51)), now);
    failed.excluded.insert(0);
    assert_eq!(all(&failed, &snapshot), (vec![1], Reason::Stale));
}

#[test]
fn one_that_may_lag_is_still_one_that_meets_the_floor() {
    let now = Instant::now();
    let snapshot = picture(now);
    let stale = |floor| {
        let decided = route_stale(&request(floor, now), &snapshot, |_| Load::default(), 7);
        decided.map(|decision| (decision.node, decision.reason))
    };
    assert_eq!(stale(Floor::At(at(51))), Some((1, Reason::Stale)));
    assert_eq!(stale(Floor::At(at(101))), None);
    assert_eq!(stale(Floor::Primary(Reason::TokenWindow)), None);
    assert_eq!(stale(Floor::Primary(Reason::OwnWrite)), None);
}

#[test]
fn writes_and_choices_of_the_user_go_where_they_must_whatever_the_floor() {
    let now = Instant::now();
    let mut snapshot = picture(now);
    (snapshot.writer, snapshot.primary) = (2, Some(2));
    for floor in [Floor::None, Floor::At(at(50)), Floor::Primary(Reason::OwnWrite)] {
        let decide = |access, target| {
            let mut request = request(floor, now);
            (request.access, request.target) = (access, target);
            all(&request, &snapshot)
        };
        assert_eq!(decide(Access::Write, Target::Auto), (vec![2], Reason::Write));
        for access in [Access::Read, Access::Write] {
            assert_eq!(decide(access, Target::Primary), (vec![2], Reason::PrimaryChosen));
            assert_eq!(decide(access, Target::Node(0)), (vec![0], Reason::NamedNode));
        }
    }
}

#[test]
fn nodes_that_failed_already_are_left_out_and_nothing_known_means_the_main_node() {
    let now = Instant::now();
    let mut request = request(Floor::None, now);
    request.excluded.insert(1);
    assert_eq!(all(&request, &picture(now)), (vec![2], Reason::NoFloor));
    request.excluded.insert(2);
    assert_eq!(all(&request, &picture(now)), (vec![0], Reason::NoReplica));
    request.excluded = ExcludedNodes::default();
    for nodes in [1, 2, 64] {
        let unknown = Snapshot::unknown(nodes);
        assert_eq!(all(&request, &unknown), (vec![0], Reason::NoReplica));
    }
}
