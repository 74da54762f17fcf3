//! Positions and floors, without servers.

use std::time::Instant;

use flautino::router::{Floor, Lsn, NodeView, Position, XidHorizon};
use flautino::{Reason, Role};

fn at(system: u64, timeline: u32, lsn: u64) -> Position {
    Position::new(system, timeline, Lsn(lsn))
}

/// Some positions of two systems, three timelines and the ends of the numbers.
fn positions() -> Vec<Position> {
    let mut all = Vec::new();
    for system in [1, 2] {
        for timeline in [1, 2, u32::MAX] {
            all.extend([0, 1, 7, u64::MAX].map(|lsn| at(system, timeline, lsn)));
        }
    }
    all
}

#[test]
fn a_position_is_reached_on_its_own_timeline_of_its_own_system_only() {
    for one in positions() {
        for other in positions() {
            let same = (one.system, one.timeline) == (other.system, other.timeline);
            assert_eq!(one.reaches(other), same && one.lsn >= other.lsn, "{one:?} {other:?}");
        }
    }
}

#[test]
fn the_later_of_two_positions_of_one_system_does_not_depend_on_their_order() {
    for one in positions() {
        assert_eq!(one.later(one), one);
        for other in positions() {
            let later = one.later(other);
            assert!(later == one || later == other);
            if one.system != other.system {
                // The one met last.
                assert_eq!(later, other);
                continue;
            }
            assert_eq!(later, other.later(one), "{one:?} {other:?}");
            if one.timeline == other.timeline {
                assert!(later.reaches(one) && later.reaches(other));
            } else {
                assert_eq!(later.timeline, one.timeline.max(other.timeline));
            }
        }
    }
}

#[test]
fn any_order_of_several_gives_the_same() {
    let own: Vec<_> = positions().into_iter().filter(|position| position.system == 1).collect();
    for a in &own {
        for b in &own {
            for c in &own {
                assert_eq!(a.later(*b).later(*c), c.later(b.later(*a)), "{a:?} {b:?} {c:?}");
            }
        }
    }
}

fn node(position: Option<Position>) -> NodeView {
    let mut node = NodeView::unknown();
    node.role = Role::Replica;
    node.up = true;
    node.position = position.map(|position| (position, Some(Instant::now())));
    node
}

#[test]
fn a_floor_is_admitted_exactly_met_and_not_one_byte_before() {
    let floor = Floor::At(at(1, 3, 100));
    assert!(floor.admits(0, &node(Some(at(1, 3, 100)))));
    assert!(floor.admits(0, &node(Some(at(1, 3, 101)))));
    assert!(!floor.admits(0, &node(Some(at(1, 3, 99)))));
    for other in [at(1, 2, 100), at(1, 2, u64::MAX), at(1, 4, u64::MAX), at(2, 3, u64::MAX)] {
        assert!(!floor.admits(0, &node(Some(other))), "{other:?}");
    }
}

#[test]
fn a_floor_is_admitted_too_where_all_its_transactions_have_ended() {
    let floor = at(1, 3, 100).with_xid_horizon(8);
    let ended = |system, timeline, xid| {
        let mut node = node(Some(at(1, 3, 99)));
        node.ended = Some(XidHorizon::new(system, timeline, xid));
        node
    };
    for floor in [Floor::At(floor), Floor::SeenOn(0, Some(floor))] {
        assert!(floor.admits(0, &ended(1, 3, 8)) && floor.admits(0, &ended(1, 3, 9)));
        for other in [ended(1, 3, 7), ended(1, 2, 9), ended(1, 4, 9), ended(2, 3, 9)] {
            assert!(!floor.admits(0, &other), "{other:?}");
        }
    }
    assert!(!Floor::At(at(1, 3, 100)).admits(0, &ended(1, 3, u64::MAX)));
    assert!(!Floor::Primary(Reason::OwnWrite).admits(0, &ended(1, 3, u64::MAX)));
}

#[test]
fn an_unknown_position_is_never_enough_but_for_no_floor() {
    let unknown = node(None);
    for floor in [at(1, 1, 0), at(0, 0, 0)] {
        assert!(!Floor::At(floor).admits(0, &unknown));
        assert!(!Floor::SeenOn(0, Some(floor)).admits(0, &unknown));
    }
    assert!(Floor::None.admits(0, &unknown));
    assert!(Floor::SeenOn(0, None).admits(0, &unknown), "it is the node that was seen");
    assert!(!Floor::SeenOn(1, None).admits(0, &unknown));
}

#[test]
fn an_old_word_of_a_position_is_as_good_as_a_new_one() {
    let mut old = node(None);
    old.position = Some((at(1, 1, 100), None));
    assert!(Floor::At(at(1, 1, 100)).admits(0, &old));
    assert!(!Floor::At(at(1, 1, 101)).admits(0, &old));
}

#[test]
fn what_only_the_primary_has_no_other_node_has() {
    for reason in [Reason::OwnWrite, Reason::Strong, Reason::TokenWindow, Reason::ForeignToken] {
        assert!(!Floor::Primary(reason).admits(0, &node(Some(at(1, 1, u64::MAX)))));
    }
}

#[test]
fn the_node_that_was_seen_must_have_the_floor_besides() {
    let floor = Floor::SeenOn(3, Some(at(1, 1, 100)));
    assert!(floor.admits(3, &node(Some(at(1, 1, 100)))));
    assert!(!floor.admits(3, &node(Some(at(1, 1, 99)))));
    assert!(!floor.admits(2, &node(Some(at(1, 1, 500)))));
}
