//! [`History`]: what happened in the cluster lately, for people who look at it.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::node::Node;

/// How many events are kept.
const KEPT: usize = 256;
/// What happens again within this time is counted with the event before, so that an outage is a few events.
const SAME_FOR: Duration = Duration::from_secs(1);
/// How many of the latest events are searched for one of the same kind.
const SEARCHED: usize = 8;

/// Something that happened to a node, or to statements because of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EngineEvent {
    /// Counted from 0 since the start.
    pub number: u64,
    /// When it happened first; in milliseconds since 1970 where it is written as JSON.
    #[serde(rename = "at_ms", serialize_with = "unix_millis")]
    pub at: SystemTime,
    /// What it was.
    pub kind: EventKind,
    /// The node.
    pub node: String,
    /// What is known of it. No password and no SQL.
    pub text: String,
    /// How often it happened, each time within a second of the time before.
    pub count: u64,
}

/// Makes the enum, the list of its values and their names from one list.
macro_rules! kinds {
    ($(#[doc = $doc:literal] $name:ident => $text:literal,)+) => {
        /// The kind of an [`EngineEvent`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub enum EventKind {
            $(#[doc = $doc] #[serde(rename = $text)] $name,)+
        }

        impl EventKind {
            /// All of them.
            #[cfg(feature = "metrics")]
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name in the status and in metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

kinds! {
    /// The node takes the writes from now on.
    Primary => "primary",
    /// The node does not answer.
    Down => "down",
    /// The node answers again, or for the first time.
    Up => "up",
    /// The node's server was restarted, or is another one.
    Restarted => "restarted",
    /// The node is kept out of the rotation.
    Excluded => "excluded",
    /// Nothing keeps the node out of the rotation any more.
    Readmitted => "readmitted",
    /// A statement waited, because no node took writes.
    Waited => "waited",
    /// A statement failed on the node and was run again, here or elsewhere.
    Rescued => "rescued",
}

/// The latest events.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    /// The oldest first, each with the time when it happened last.
    events: VecDeque<(EngineEvent, SystemTime)>,
    next: u64,
}

impl History {
    pub(crate) fn record(&self, kind: EventKind, node: &Node, text: impl Into<String>) {
        node.server.metrics.happened(kind.as_str());
        self.0.lock().record(kind, node.name(), text.into(), SystemTime::now());
    }

    /// The oldest first.
    pub(crate) fn events(&self) -> Vec<EngineEvent> {
        self.0.lock().events.iter().map(|(event, _)| event.clone()).collect()
    }
}

impl Ring {
    fn record(&mut self, kind: EventKind, node: &str, text: String, now: SystemTime) {
        let is_same = |(event, last): &&mut (EngineEvent, SystemTime)| {
            let age = now.duration_since(*last).unwrap_or_default();
            event.kind == kind && event.node == node && age < SAME_FOR
        };
        let mut latest = self.events.iter_mut().rev().take(SEARCHED);
        if let Some((event, last)) = latest.find(is_same) {
            event.count += 1;
            event.text = text;
            *last = now;
            return;
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        let (number, node) = (self.next, node.to_owned());
        self.next += 1;
        let event = EngineEvent { number, at: now, kind, node, text, count: 1 };
        self.events.push_back((event, now));
    }
}

fn unix_millis<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers_and_counts(ring: &Ring) -> Vec<(u64, u64)> {
        ring.events.iter().map(|(event, _)| (event.number, event.count)).collect()
    }

    #[test]
    fn what_happens_again_within_a_second_is_one_event() {
        let mut ring = Ring::default();
        let start = SystemTime::now();
        for (millis, kind, node) in [
            (0, EventKind::Rescued, "a"),
            (900, EventKind::Rescued, "a"),
            (900, EventKind::Rescued, "b"),
            (1_800, EventKind::Rescued, "a"),
            (1_801, EventKind::Down, "a"),
            (2_800, EventKind::Rescued, "a"),
        ] {
            ring.record(kind, node, String::new(), start + Duration::from_millis(millis));
        }
        assert_eq!(numbers_and_counts(&ring), [(0, 3), (1, 1), (2, 1), (3, 1)]);
    }

    #[test]
    fn the_oldest_events_go_and_the_numbers_go_on() {
        let mut ring = Ring::default();
        let start = SystemTime::now();
        for second in 0..=KEPT as u64 {
            let now = start + Duration::from_secs(second);
            ring.record(EventKind::Up, "a", String::new(), now);
        }
        assert_eq!(ring.events.len(), KEPT);
        assert_eq!(ring.events.front().map(|(event, _)| event.number), Some(1));
    }
}
