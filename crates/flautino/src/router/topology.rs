//! [`Topology`]: what follows from the samples of all nodes together. Which node is the primary,
//! which nodes belong to its cluster, and which position has each node certainly reached?
//!
//! - here: what is known of each node, and the election of the primary;
//! - `confirm`: which reported positions can be relied on;
//! - `view`: the snapshot for the router.

mod confirm;
mod view;

use std::time::{Duration, Instant};

use super::health::{Health, Observation, Transition};
use super::lag::LagTracker;
use super::position::{Lsn, Position, XidHorizon};
use super::replay_time::ReplayTime;
use super::sample::{Progress, Sample, ServerId};
use super::snapshot::Role;

/// How many probes in a row, each over a new connection, must reach the same server until an
/// address that led to several servers is trusted again.
const MIN_AGREEING_PROBES: u32 = 20;

/// What is known of one node.
#[derive(Debug)]
struct NodeState {
    health: Health,
    /// The latest answer to a probe.
    sample: Option<Sample>,
    /// The furthest position that this incarnation has certainly reached, and when it was asked
    /// for. The moment is `None` for a position from the control file, since nobody knows when the
    /// server wrote it.
    confirmed: Option<(Position, Option<Instant>)>,
    /// See [`NodeView::ended`](super::NodeView::ended).
    ended: Option<XidHorizon>,
    /// A replica's progress whose timeline is not confirmed yet, and when it was asked for.
    unconfirmed: Option<(Instant, Progress)>,
    replay_time: ReplayTime,
    /// When the latest probe began that found nothing listening at the node's address.
    refused: Option<Instant>,
    /// `Some` while the node's address leads to several servers: how many probes in a row have
    /// reached the same one.
    several_servers: Option<u32>,
    /// See [`NodeView::incarnation`](super::NodeView::incarnation).
    incarnation: u64,
    /// Whether the node was ever up. Only a node that comes back starts slowly.
    was_up: bool,
    /// When the node came back after it was down.
    readmitted: Option<Instant>,
}

/// What the outcome of a probe changed for its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Change {
    pub(crate) transition: Option<Transition>,
    /// Whether another server answered than before, or the same one after a restart.
    pub(crate) new_server: bool,
}

/// What is known of all nodes of an engine. A node's number is its place among them.
#[derive(Debug)]
pub(crate) struct Topology {
    nodes: Vec<NodeState>,
    /// The cluster's system identifier: that of the node that answered first, which is the main
    /// node unless it is down.
    system: Option<u64>,
    /// The highest timeline on which a node of the cluster took writes; 0 before one did.
    timeline: u32,
    /// The node that takes writes, if one is up.
    primary: Option<usize>,
    /// The primary; else the node that was the primary last; else the main node.
    writer: usize,
    /// The latest incarnation that was given to a node. Each number is given only once, so that a
    /// node cannot be mistaken for the one whose place it takes.
    incarnations: u64,
    settings: Settings,
    lag: LagTracker,
    /// When an engine of one node got its second one. Before that, sessions did not track their
    /// writes. So only the primary's progress from then on shows that a replica is fresh: earlier
    /// progress may lack such a write.
    routed_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    failures_to_down: u32,
    answers_to_up: u32,
    max_lag: Duration,
}

impl Topology {
    pub(crate) fn new(
        nodes: usize,
        failures_to_down: u32,
        answers_to_up: u32,
        max_lag: Duration,
    ) -> Self {
        let settings = Settings { failures_to_down, answers_to_up, max_lag };
        let mut new = Self::without_nodes(settings, 0);
        new.nodes = (0..nodes).map(|_| new.unknown_node()).collect();
        new
    }

    /// A topology in which nothing is known. `incarnations` is the latest one that was ever given.
    fn without_nodes(settings: Settings, incarnations: u64) -> Self {
        Self {
            nodes: Vec::new(),
            system: None,
            timeline: 0,
            primary: None,
            writer: 0,
            incarnations,
            settings,
            lag: LagTracker::new(settings.max_lag * 2),
            routed_since: None,
        }
    }

    fn unknown_node(&mut self) -> NodeState {
        NodeState {
            health: Health::new(self.settings.failures_to_down, self.settings.answers_to_up),
            sample: None,
            confirmed: None,
            ended: None,
            unconfirmed: None,
            replay_time: ReplayTime::default(),
            refused: None,
            several_servers: None,
            incarnation: self.next_incarnation(),
            was_up: false,
            readmitted: None,
        }
    }

    fn next_incarnation(&mut self) -> u64 {
        self.incarnations += 1;
        self.incarnations
    }

    /// Forgets everything that is known of the nodes, and gives each a new incarnation.
    pub(crate) fn restart(&mut self) {
        let mut new = Self::without_nodes(self.settings, self.incarnations);
        new.nodes = self.nodes.iter().map(|_| new.unknown_node()).collect();
        *self = new;
    }

    /// Replaces the nodes. `kept` has an entry for each node from now on: the number that the node
    /// has had up to now, or `None` for a new node.
    pub(crate) fn replace(&mut self, kept: &[Option<usize>], moment: Instant) {
        if self.nodes.len() == 1 {
            self.lag.clear();
            self.routed_since = Some(moment);
        }
        let mut old: Vec<_> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        for number in kept {
            let node = number.and_then(|number| old[number].take());
            let node = node.unwrap_or_else(|| self.unknown_node());
            self.nodes.push(node);
        }
        let new_place = |before: usize| kept.iter().position(|number| *number == Some(before));
        self.primary = self.primary.and_then(new_place);
        self.writer = new_place(self.writer).unwrap_or_else(|| {
            // Replicas must not be compared with the progress of a primary that left.
            self.lag.clear();
            0
        });
        let systems = || {
            self.nodes.iter().filter_map(|node| node.sample.and_then(|sample| sample.server.system))
        };
        if self.system.is_some_and(|system| !systems().any(|other| other == system)) {
            // All nodes of the known cluster have left.
            self.switch_to_cluster(systems().next());
            self.elect_primary();
        }
    }

    /// From now on the nodes are those of the cluster with this system identifier.
    fn switch_to_cluster(&mut self, system: Option<u64>) {
        self.system = system;
        self.timeline = 0;
        self.lag.clear();
    }

    /// Whether this sample shows that another cluster took over the addresses of the known one: the
    /// node to which writes go is the primary of another cluster, and no node of the known one is
    /// up.
    fn is_cluster_replaced(&self, number: usize, sample: Sample) -> bool {
        let is_up_and_ours = |node: &NodeState| {
            let system = node.sample.and_then(|sample| sample.server.system);
            node.health.is_up() && system == self.system
        };
        sample.role == Role::Primary
            && (number == 0 || number == self.writer)
            && sample.server.system.is_some_and(|system| self.system != Some(system))
            && !self.nodes.iter().any(is_up_and_ours)
    }

    /// Records that the node answered a probe.
    pub(crate) fn answered(&mut self, number: usize, sample: Sample) -> Change {
        self.system = self.system.or(sample.server.system);
        let before = self.nodes[number].sample.replace(sample);
        let new_server = before.is_some_and(|before| before.server != sample.server);
        if new_server || before.is_some_and(|before| before.role != sample.role) {
            self.begin_incarnation(number);
        }
        let node = &mut self.nodes[number];
        if let Some(agreeing) = node.several_servers {
            let agreeing = if new_server { 0 } else { agreeing + 1 };
            node.several_servers = Some(agreeing).filter(|count| *count < MIN_AGREEING_PROBES);
        }
        let transition = node.health.observe(Observation::Answered);
        if transition == Some(Transition::WentUp) {
            node.readmitted = node.was_up.then_some(sample.began);
            node.was_up = true;
        }
        if self.is_cluster_replaced(number, sample) {
            self.switch_to_cluster(sample.server.system);
        }
        self.elect_primary();
        let is_tracked = self.routed_since.is_none_or(|since| sample.began > since);
        if let Some(progress) = sample.progress
            && is_tracked
            && self.primary == Some(number)
        {
            self.lag.record(sample.began, progress);
        }
        self.confirm_by_sample(number, sample);
        self.confirm_by_others();
        self.observe_replay(number, sample);
        Change { transition, new_server }
    }

    /// Corrects the replica's [`ReplayTime`] by its answer. Only positions that are confirmed count,
    /// since only those admit a read.
    fn observe_replay(&mut self, number: usize, sample: Sample) {
        if sample.role == Role::Replica {
            let node = &mut self.nodes[number];
            let confirmed = node.confirmed.map(|(position, _)| position);
            let confirmed = confirmed.filter(|position| position.timeline == self.timeline);
            let replayed = confirmed.map_or(Lsn(0), |position| position.lsn);
            let ended = node.ended.filter(|ended| ended.timeline == self.timeline);
            let replayed = ended.map_or(replayed, |ended| self.lag.visible(replayed, ended.xid));
            let (at_least, at_most) = self.lag.replay_bounds(replayed, sample.began);
            node.replay_time.observe(at_least, at_most);
        }
    }

    /// When the replica has probably replayed up to this position of the primary's timeline. `None`
    /// if nothing is known of the primary.
    pub(crate) fn replays_by(&self, number: usize, position: Lsn) -> Option<Instant> {
        Some(self.lag.known_since(position)? + self.nodes[number].replay_time.get())
    }

    /// Gives the node a new incarnation and forgets its positions. Another server answers for the
    /// node, or the same one after a restart or in another role, and it may be behind those
    /// positions.
    fn begin_incarnation(&mut self, number: usize) {
        let incarnation = self.next_incarnation();
        let node = &mut self.nodes[number];
        node.confirmed = None;
        node.ended = None;
        node.unconfirmed = None;
        node.replay_time = ReplayTime::default();
        node.incarnation = incarnation;
    }

    /// Records that a probe which began at this moment failed. `refused` says whether nothing
    /// listens at the node's address.
    pub(crate) fn failed(&mut self, number: usize, began: Instant, refused: bool) -> Change {
        let node = &mut self.nodes[number];
        let observation = if refused { Observation::Refused } else { Observation::Failed };
        if refused {
            node.refused = Some(began);
        }
        let transition = node.health.observe(observation);
        self.elect_primary();
        self.confirm_by_others();
        Change { transition, new_server: false }
    }

    /// Records that the server refused a probe because all its connections are in use.
    pub(crate) fn observe_full(&mut self, number: usize) {
        self.nodes[number].health.observe_full();
    }

    /// Records that the node did not answer a probe although it answers statements.
    pub(crate) fn doubt(&mut self, number: usize) {
        self.nodes[number].health.doubt();
    }

    /// Records that a connection to the node's address reached another server than the probes did.
    pub(crate) fn observe_several_servers(&mut self, number: usize) {
        self.nodes[number].several_servers = Some(0);
    }

    /// Whether the node's address leads to more than one server.
    pub(crate) fn has_several_servers(&self, number: usize) -> bool {
        self.nodes[number].several_servers.is_some()
    }

    /// Whether the node should be probed again at once.
    pub(crate) fn is_suspect(&self, number: usize) -> bool {
        self.nodes[number].health.is_suspect()
    }

    /// The server that answered the node's latest successful probe.
    pub(crate) fn server(&self, number: usize) -> Option<ServerId> {
        self.nodes[number].sample.map(|sample| sample.server)
    }

    /// How far the node's server had come at its latest successful probe, if it reported that.
    pub(crate) fn progress(&self, number: usize) -> Option<Progress> {
        self.nodes[number].sample?.progress
    }

    pub(crate) fn is_up(&self, number: usize) -> bool {
        self.nodes[number].health.is_up()
    }

    /// The node of a lower number that is the same server under another name, if there is one.
    fn same_server_before(&self, number: usize) -> Option<usize> {
        let server = self.server(number)?;
        (0..number).find(|other| {
            let is_same = self.server(*other).is_some_and(|other| other.is_same_server(server));
            self.is_up(*other) && is_same
        })
    }

    /// Elects the primary: of the nodes that take writes, the one on the highest timeline. Of
    /// several on one timeline it is the one that was the primary before, or else the first.
    fn elect_primary(&mut self) {
        let claims = (0..self.nodes.len()).filter_map(|number| Some((self.claim(number)?, number)));
        let best = claims.max_by_key(|(timeline, number)| {
            (*timeline, *number == self.writer, std::cmp::Reverse(*number))
        });
        self.primary = best.map(|(_, number)| number);
        if let Some((timeline, number)) = best {
            if (number, timeline) != (self.writer, self.timeline) {
                // Replicas must not be compared with the progress of another primary or on another
                // timeline.
                self.lag.clear();
            }
            self.writer = number;
            self.timeline = timeline;
        }
    }

    /// The timeline on which the node takes writes for the cluster; 0 if the server does not report
    /// it. `None` if the node cannot be the primary.
    fn claim(&self, number: usize) -> Option<u32> {
        let node = &self.nodes[number];
        let sample = node.sample.filter(|sample| sample.role == Role::Primary)?;
        let timeline = sample.progress.and_then(|progress| progress.timeline).unwrap_or(0);
        // A primary on a lower timeline was superseded, and stays so while the newer one is down.
        let is_current = timeline == 0 || timeline >= self.timeline;
        let is_ours = sample.server.system == self.system;
        let is_usable = node.health.is_up()
            && node.several_servers.is_none()
            && self.same_server_before(number).is_none();
        (is_usable && is_ours && is_current).then_some(timeline)
    }
}

#[cfg(test)]
mod tests;
