//! What the samples of all nodes together say: who is the primary, who belongs to it, how far
//! each certainly is. Samples in, a snapshot out; no I/O.
//!
//! A replica's timeline is the hard part. A cascading standby changes timeline while it stays in
//! recovery, and PostgreSQL shows an ordinary role only what the control file says, which lags
//! behind. So a position counts only when its timeline is proven, in one of three ways:
//!
//! - by the receiver: `pg_stat_wal_receiver.received_tli`, asked *after* the replay position.
//!   Replay is never on a later timeline than what was received. Only roles with
//!   `pg_read_all_stats` (a part of `pg_monitor`) see it.
//! - by the control file: it names a place that replay has passed, and its timeline. True, but old.
//! - by everybody: where the control file names the primary's timeline, replay is on that one or
//!   on a later one; and it can only be on a later one if some node was promoted. Where all other
//!   nodes were asked after it, and none was, it is on the primary's timeline. An engine that is
//!   opened while there is no primary takes the control files' latest timeline for that. If it was
//!   wrong, what a replica has of that timeline is all that is left of it.

use std::time::{Duration, Instant};

use super::health::{Health, Observation, Transition};
use super::moments::Moments;
use super::position::{Lsn, Position};
use super::snapshot::{Exclusion, NodeView, Snapshot};
use crate::node::Role;

/// A name that was found to lead to several servers is believed again when so many probes in a row,
/// each over a new connection, met the same one: it had moved, or was set right.
const AGREED: u32 = 20;

/// A node's answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// When the question was sent: the answer may be as old as that.
    pub(crate) began: Instant,
    /// How long the answer took.
    pub(crate) round_trip: Duration,
    pub(crate) role: Role,
    pub(crate) server: Server,
    /// `None` where the server does not say: Amazon Aurora, a role without the right to ask.
    pub(crate) progress: Option<Progress>,
}

/// Which server answered. Two answers that are not equal come from two servers, or from before and
/// after a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    /// `None` where the server does not say.
    pub(crate) system: Option<u64>,
    /// When it started, in microseconds since 1970.
    pub(crate) started: i64,
    /// Since when it counts what its background writer does, where that is cheap to know. Anybody may
    /// reset it, so another value does not mean another server.
    pub(crate) counts_since: Option<i64>,
}

impl Server {
    /// Whether that is the same server under another name. Servers that are started together now and
    /// then start in the same microsecond; what they count since nearly always tells them apart then.
    fn is_twin(self, other: Self) -> bool {
        let apart =
            self.counts_since.zip(other.counts_since).is_some_and(|(one, other)| one != other);
        self.system.is_some() && self == other && !apart
    }
}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        let same_system = match (self.system, other.system) {
            (Some(one), Some(other)) => one == other,
            // One of the answers did not tell.
            _ => true,
        };
        same_system && self.started == other.started
    }
}

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// On a primary the insert position, on a replica what was replayed.
    pub(crate) lsn: Lsn,
    /// On a primary, the number after the latest transaction that has ended; on a replica, the number
    /// before which all have ended.
    pub(crate) ended: u64,
    /// A primary's own timeline; on a replica that of its receiver, where the role may see it.
    pub(crate) timeline: Option<u32>,
    /// A place that a replica has passed for certain.
    pub(crate) control: Option<(u32, Lsn)>,
    pub(crate) paused: bool,
    /// `recovery_min_apply_delay`.
    pub(crate) apply_delay: Duration,
}

/// What is known of one node.
#[derive(Debug)]
struct NodeState {
    health: Health,
    sample: Option<Sample>,
    /// Of the role as it is now, for the server as it is now; and when it was asked for, unless
    /// it is the control file's old word.
    proven: Option<(Position, Option<Instant>)>,
    /// A replay position whose timeline waits to be proven by everybody, and when it was asked for.
    candidate: Option<(Instant, Lsn)>,
    /// When nothing listened there, the last time.
    refused: Option<Instant>,
    /// Its name leads to more than one server; so many probes in a row met the same one since.
    several_servers: Option<u32>,
    incarnation: u64,
    was_up: bool,
    readmitted: Option<Instant>,
}

impl NodeState {
    /// Takes over a proven position, unless an earlier one covers it.
    fn raise(&mut self, position: Position, as_of: Option<Instant>) {
        match &mut self.proven {
            Some((proven, since)) if proven.later(position) == *proven => *since = as_of.or(*since),
            proven => *proven = Some((position, as_of)),
        }
    }
}

/// What an outcome changed, for the node that it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Change {
    pub(crate) transition: Option<Transition>,
    /// Another server answers, or the same one after a restart.
    pub(crate) new_server: bool,
}

#[derive(Debug)]
pub(crate) struct Topology {
    nodes: Vec<NodeState>,
    /// The cluster's system identifier: that of the node that answered first, which is the main
    /// node unless it is down.
    system: Option<u64>,
    /// The highest timeline on which a node of the cluster took writes.
    timeline: u32,
    primary: Option<usize>,
    writer: usize,
    /// Counts the lives of all nodes: no two have the same number, also where a node takes the place
    /// of another.
    lives: u64,
    rules: Rules,
    /// The primary's progress on that timeline.
    moments: Moments,
    /// When a node came to a single one. Sessions did not remember what they did there before, so
    /// nothing from before counts as fresh.
    routed_since: Option<Instant>,
}

/// What it goes by.
#[derive(Debug, Clone, Copy)]
struct Rules {
    fall: u32,
    rise: u32,
    max_lag: Duration,
}

impl Topology {
    pub(crate) fn new(nodes: usize, fall: u32, rise: u32, max_lag: Duration) -> Self {
        let rules = Rules { fall, rise, max_lag };
        let mut new = Self::over(rules, 0);
        new.nodes = (0..nodes).map(|_| new.newcomer()).collect();
        new
    }

    fn over(rules: Rules, lives: u64) -> Self {
        Self {
            nodes: Vec::new(),
            system: None,
            timeline: 0,
            primary: None,
            writer: 0,
            lives,
            rules,
            moments: Moments::new(rules.max_lag * 2),
            routed_since: None,
        }
    }

    /// A node of which nothing is known.
    fn newcomer(&mut self) -> NodeState {
        self.lives += 1;
        NodeState {
            health: Health::new(self.rules.fall, self.rules.rise),
            sample: None,
            proven: None,
            candidate: None,
            refused: None,
            several_servers: None,
            incarnation: self.lives,
            was_up: false,
            readmitted: None,
        }
    }

    /// Forgets all that is known.
    pub(crate) fn restart(&mut self) {
        let mut new = Self::over(self.rules, self.lives);
        new.nodes = self.nodes.iter().map(|_| new.newcomer()).collect();
        *self = new;
    }

    /// Other nodes from now on: for each of them its number up to now, or `None` where it is new.
    pub(crate) fn replace(&mut self, kept: &[Option<usize>], moment: Instant) {
        if self.nodes.len() == 1 {
            self.moments.clear();
            self.routed_since = Some(moment);
        }
        let mut old: Vec<_> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        for number in kept {
            let node = number.and_then(|number| old[number].take());
            let node = node.unwrap_or_else(|| self.newcomer());
            self.nodes.push(node);
        }
        let now = |before: usize| kept.iter().position(|number| *number == Some(before));
        self.primary = self.primary.and_then(now);
        self.writer = now(self.writer).unwrap_or_else(|| {
            // Its progress says nothing about another one's.
            self.moments.clear();
            0
        });
        let systems = || {
            self.nodes.iter().filter_map(|node| node.sample.and_then(|sample| sample.server.system))
        };
        if self.system.is_some_and(|system| !systems().any(|other| other == system)) {
            // All of that cluster are gone.
            self.adopt(systems().next());
            self.choose_primary();
        }
    }

    /// The nodes are another cluster from now on.
    fn adopt(&mut self, system: Option<u64>) {
        self.system = system;
        self.timeline = 0;
        self.moments.clear();
    }

    /// Whether the cluster was replaced under its nodes' names: where writes go there is the primary
    /// of another one by now, and nobody is up who is of the one before.
    fn is_replaced(&self, number: usize, sample: Sample) -> bool {
        let is_ours = |node: &NodeState| {
            let system = node.sample.and_then(|sample| sample.server.system);
            node.health.is_up() && system == self.system
        };
        sample.role == Role::Primary
            && (number == 0 || number == self.writer)
            && sample.server.system.is_some_and(|system| self.system != Some(system))
            && !self.nodes.iter().any(is_ours)
    }

    /// A node answered a probe.
    pub(crate) fn answered(&mut self, number: usize, sample: Sample) -> Change {
        self.system = self.system.or(sample.server.system);
        let node = &mut self.nodes[number];
        let before = node.sample.replace(sample);
        let new_server = before.is_some_and(|before| before.server != sample.server);
        if new_server || before.is_some_and(|before| before.role != sample.role) {
            // What was cached speaks of another server, or of another life of this one.
            node.proven = None;
            node.candidate = None;
            self.lives += 1;
            node.incarnation = self.lives;
        }
        if let Some(agreed) = node.several_servers {
            let agreed = if new_server { 0 } else { agreed + 1 };
            node.several_servers = Some(agreed).filter(|agreed| *agreed < AGREED);
        }
        let transition = node.health.observe(Observation::Answered);
        if transition == Some(Transition::WentUp) {
            node.readmitted = node.was_up.then_some(sample.began);
            node.was_up = true;
        }
        if self.is_replaced(number, sample) {
            self.adopt(sample.server.system);
        }
        self.choose_primary();
        let counts = self.routed_since.is_none_or(|since| sample.began > since);
        if let (Some(progress), true) = (sample.progress, counts && self.primary == Some(number)) {
            self.moments.remember(sample.began, progress);
        }
        self.prove(number, sample);
        self.prove_by_everybody();
        Change { transition, new_server }
    }

    /// A probe of the node, begun at this moment, failed.
    pub(crate) fn failed(&mut self, number: usize, began: Instant, refused: bool) -> Change {
        let node = &mut self.nodes[number];
        let observation = if refused { Observation::Refused } else { Observation::Failed };
        if refused {
            node.refused = Some(began);
        }
        let transition = node.health.observe(observation);
        self.choose_primary();
        self.prove_by_everybody();
        Change { transition, new_server: false }
    }

    /// The node has no place for a probe.
    pub(crate) fn is_full(&mut self, number: usize) {
        self.nodes[number].health.lives();
    }

    /// The node did not answer a probe, and answers statements.
    pub(crate) fn doubt(&mut self, number: usize) {
        self.nodes[number].health.doubt();
    }

    /// A connection under the node's name reached another server than its probes.
    pub(crate) fn leads_to_several(&mut self, number: usize) {
        self.nodes[number].several_servers = Some(0);
    }

    /// Whether the node's name was found to lead to more than one server.
    pub(crate) fn is_several(&self, number: usize) -> bool {
        self.nodes[number].several_servers.is_some()
    }

    /// Whether the node should be asked again at once.
    pub(crate) fn is_suspect(&self, number: usize) -> bool {
        self.nodes[number].health.is_suspect()
    }

    pub(crate) fn server(&self, number: usize) -> Option<Server> {
        self.nodes[number].sample.map(|sample| sample.server)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let positions = self.primary.is_none_or(|primary| self.progress(primary).is_some());
        Snapshot {
            nodes: (0..self.nodes.len()).map(|number| self.view(number, positions)).collect(),
            primary: self.primary,
            writer: self.writer,
            positions,
        }
    }

    fn view(&self, number: usize, positions: bool) -> NodeView {
        let node = &self.nodes[number];
        let Some(sample) = node.sample else {
            return NodeView { incarnation: node.incarnation, ..NodeView::unknown() };
        };
        let fresh_as_of = match sample.progress {
            // Without positions only the probe's own word says that it lives.
            _ if !positions => Some(sample.began),
            Some(progress) => self.moments.contained_at(progress),
            None => None,
        };
        NodeView {
            role: sample.role,
            up: node.health.is_up(),
            excluded: self.exclusion(number, positions),
            position: node.proven,
            fresh_as_of,
            incarnation: node.incarnation,
            readmitted: node.readmitted,
        }
    }

    fn exclusion(&self, number: usize, positions: bool) -> Option<Exclusion> {
        let node = &self.nodes[number];
        let sample = node.sample?;
        if node.several_servers.is_some() {
            return Some(Exclusion::SeveralServers);
        }
        if let (Some(own), Some(system)) = (sample.server.system, self.system)
            && own != system
        {
            return Some(Exclusion::OtherSystem(own));
        }
        if let Some(twin) = self.twin(number) {
            return Some(Exclusion::SameServer(twin));
        }
        if sample.role == Role::Primary {
            let timeline = sample.progress.and_then(|progress| progress.timeline);
            let is_ghost = timeline.is_some_and(|timeline| timeline < self.timeline);
            let primary = self.primary.or(is_ghost.then_some(self.writer));
            return primary.filter(|primary| *primary != number).map(Exclusion::SecondPrimary);
        }
        let Some(progress) = sample.progress else {
            return positions.then_some(Exclusion::NoPosition);
        };
        // The control file's word lags; but one that was not seen to follow a promotion may as
        // well have stayed behind.
        let timeline = progress.timeline.or(progress.control.map(|(timeline, _)| timeline));
        if let Some(timeline) =
            timeline.filter(|timeline| self.timeline != 0 && *timeline != self.timeline)
        {
            return Some(Exclusion::OtherTimeline(timeline));
        }
        (progress.paused && self.moments.is_behind(progress)).then_some(Exclusion::Paused)
    }

    /// The node before this one that is the same server.
    fn twin(&self, number: usize) -> Option<usize> {
        let server = self.server(number)?;
        (0..number).find(|other| {
            let up = self.nodes[*other].health.is_up();
            up && self.server(*other).is_some_and(|other| other.is_twin(server))
        })
    }

    /// Bytes and time by which a replica is behind the primary, as far as that is known.
    pub(crate) fn lag(&self, number: usize, now: Instant) -> (Option<u64>, Option<Duration>) {
        // Against a primary that does not answer, nothing is known.
        let behind = |progress: Progress| {
            self.primary?;
            Some((progress, self.moments.bytes_behind(progress)?))
        };
        let Some((progress, bytes)) = self.progress(number).and_then(behind) else {
            return (None, None);
        };
        if self.exclusion(number, true).is_some_and(|why| why != Exclusion::Paused) {
            return (None, None);
        }
        let time = if self.moments.is_behind(progress) {
            let moment = self.moments.contained_at(progress);
            moment.map(|moment| now.saturating_duration_since(moment))
        } else {
            Some(Duration::ZERO)
        };
        (Some(bytes), time)
    }

    pub(crate) fn progress(&self, number: usize) -> Option<Progress> {
        self.nodes[number].sample?.progress
    }

    pub(crate) fn is_up(&self, number: usize) -> bool {
        self.nodes[number].health.is_up()
    }

    /// The primary is the node that says so, of the highest timeline; of two on one timeline the
    /// one that was the primary before, else the first.
    fn choose_primary(&mut self) {
        let claim = |number: usize| {
            let node = &self.nodes[number];
            let sample = node.sample.filter(|sample| sample.role == Role::Primary)?;
            let ours = sample.server.system == self.system;
            let usable = node.health.is_up()
                && node.several_servers.is_none()
                && self.twin(number).is_none();
            let timeline = sample.progress.and_then(|progress| progress.timeline).unwrap_or(0);
            // One of a timeline that was left behind is a ghost, also while the newer one is down.
            (usable && ours && (timeline >= self.timeline || timeline == 0)).then_some(timeline)
        };
        let claims = (0..self.nodes.len()).filter_map(|number| Some((claim(number)?, number)));
        let incumbent = self.writer;
        let best = claims.max_by_key(|(timeline, number)| {
            (*timeline, *number == incumbent, std::cmp::Reverse(*number))
        });
        self.primary = best.map(|(_, number)| number);
        if let Some((timeline, number)) = best {
            if (number, timeline) != (self.writer, self.timeline) {
                // Another primary, or another timeline: its progress is another story.
                self.moments.clear();
            }
            self.writer = number;
            self.timeline = timeline;
        }
    }

    /// By its own word: see the module.
    fn prove(&mut self, number: usize, sample: Sample) {
        let node = &mut self.nodes[number];
        let (Some(system), Some(progress)) = (sample.server.system, sample.progress) else {
            return;
        };
        if let (Some((timeline, lsn)), Role::Replica) = (progress.control, sample.role) {
            node.raise(Position::new(system, timeline, lsn), None);
        }
        if let Some(timeline) = progress.timeline {
            node.raise(Position::new(system, timeline, progress.lsn), Some(sample.began));
        }
        if sample.role == Role::Replica && progress.timeline.is_none() {
            node.candidate.get_or_insert((sample.began, progress.lsn));
        } else {
            node.candidate = None;
        }
    }

    /// The timeline that all are on: that of the primary. Where none was ever met, the latest that
    /// any replica's control file names.
    fn timeline_of_all(&self) -> Option<u32> {
        let control = |number| Some(self.progress(number)?.control?.0);
        let latest = || {
            (0..self.nodes.len())
                .filter(|number| self.exclusion(*number, true).is_none())
                .filter_map(control)
                .max()
        };
        if self.timeline > 0 { Some(self.timeline) } else { latest() }
    }

    /// By all others' word: see the module.
    fn prove_by_everybody(&mut self) {
        let Some(system) = self.system else { return };
        let Some(timeline) = self.timeline_of_all() else { return };
        for number in 0..self.nodes.len() {
            let Some((asked, lsn)) = self.nodes[number].candidate else { continue };
            let later = |moment: Option<Instant>| moment.is_some_and(|moment| moment > asked);
            let cleared = (0..self.nodes.len()).filter(|other| *other != number).all(|other| {
                let node = &self.nodes[other];
                let sample = node.sample.filter(|_| node.health.is_up());
                let foreign = matches!(
                    self.exclusion(other, true),
                    Some(Exclusion::OtherSystem(_) | Exclusion::SameServer(_))
                );
                // Of several servers under one name, or a second primary, nothing can be said.
                let speaks = Some(other) == self.primary
                    || sample.is_some_and(|sample| sample.role == Role::Replica);
                foreign
                    || later(node.refused)
                    || (speaks
                        && node.several_servers.is_none()
                        && later(sample.map(|sample| sample.began)))
            });
            let control = self.progress(number).and_then(|progress| progress.control);
            // One that has not caught up with a promotion may also have stayed behind for good.
            let fits = control.is_some_and(|(own, _)| own == timeline);
            let ours = self.server(number).is_some_and(|server| server.system == Some(system));
            if cleared && fits && ours {
                let position = Position::new(system, timeline, lsn);
                let node = &mut self.nodes[number];
                node.raise(position, Some(asked));
                // The next question is already answered, if a later sample is there.
                node.candidate = node.sample.and_then(|sample| {
                    sample
                        .progress
                        .filter(|_| sample.began > asked)
                        .map(|progress| (sample.began, progress.lsn))
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
