//! One fault while it is performed, and the record that it leaves in the history.

use std::time::Duration;

use parking_lot::Mutex;

use crate::history::{Episode, Moment, Rule, Window};
use crate::schedule::Fault;
use crate::world::{NODES, World};

/// One fault while it is performed.
#[derive(Debug)]
pub(super) struct Injection<'w> {
    pub(super) world: &'w World,
    /// The app that faults of apps hit, if it is not left to chance.
    pub(super) victim: Option<usize>,
    /// The replicas that are hit by a fault at this time.
    taken: &'w Mutex<Vec<usize>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    episode: Episode,
}

impl<'w> Injection<'w> {
    pub(super) fn new(
        world: &'w World,
        fault: Fault,
        seed: u64,
        victim: Option<usize>,
        taken: &'w Mutex<Vec<usize>>,
    ) -> Self {
        let from = world.clock.elapsed();
        let episode = Episode {
            fault: fault.name().to_owned(),
            target: String::new(),
            from,
            to: from,
            failover: false,
            windows: Vec::new(),
        };
        let rng = fastrand::Rng::with_seed(seed);
        Self { world, victim, taken, state: Mutex::new(State { rng, episode }) }
    }

    /// Records the fault, now that all has recovered.
    pub(super) fn finish(self) {
        let State { mut episode, .. } = self.state.into_inner();
        episode.to = self.world.clock.elapsed();
        for window in &mut episode.windows {
            window.to = window.to.min(episode.to);
        }
        self.world.records().episodes.push(episode);
    }

    pub(super) fn now(&self) -> Moment {
        self.world.clock.elapsed()
    }

    /// A number between these, both included.
    pub(super) fn random(&self, from: u64, to: u64) -> u64 {
        self.state.lock().rng.u64(from..=to)
    }

    /// One of so many, by its index.
    pub(super) fn random_index(&self, count: usize) -> usize {
        self.state.lock().rng.usize(..count)
    }

    /// Waits for some time between these, in milliseconds.
    pub(super) async fn wait(&self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(self.random(from, to))).await;
    }

    /// Records what is hit.
    pub(super) fn record_target(&self, target: &str) {
        let mut state = self.state.lock();
        let text = &mut state.episode.target;
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(target);
    }

    /// What is hit so far.
    pub(super) fn target(&self) -> String {
        self.state.lock().episode.target.clone()
    }

    /// Records that another node is made the primary.
    pub(super) fn mark_failover(&self) {
        self.state.lock().episode.failover = true;
    }

    /// A rule held from then until now.
    pub(super) fn rule_until_now(&self, from: Moment, rule: Rule) {
        self.rule(from, self.now(), rule);
    }

    /// A rule holds from then until all has recovered.
    pub(super) fn rule_until_recovery(&self, from: Moment, rule: Rule) {
        self.rule(from, Moment::MAX, rule);
    }

    /// A rule holds for as long as the work takes.
    pub(super) async fn rule_during<T>(&self, rule: Rule, work: impl Future<Output = T>) -> T {
        let from = self.now();
        let done = work.await;
        self.rule_until_now(from, rule);
        done
    }

    /// Picks a replica that no other fault hits. Until recovery, transactions on it may fail.
    pub(super) fn replica(&self) -> usize {
        let mut taken = self.taken.lock();
        let replicas = self.world.replicas();
        let free: Vec<_> = replicas.iter().filter(|node| !taken.contains(node)).collect();
        let chosen = self.state.lock().rng.choice(free).copied();
        let chosen = chosen.unwrap_or(replicas[0]);
        taken.push(chosen);
        drop(taken);
        self.hit(chosen)
    }

    /// Picks the primary. Until recovery, transactions on it may fail.
    pub(super) fn primary(&self) -> usize {
        self.hit(self.world.primary())
    }

    fn hit(&self, node: usize) -> usize {
        self.record_target(NODES[node]);
        self.rule_until_recovery(self.now(), Rule::TransactionsBreak);
        node
    }

    fn rule(&self, from: Moment, to: Moment, rule: Rule) {
        self.state.lock().episode.windows.push(Window { from, to, rule });
    }
}
