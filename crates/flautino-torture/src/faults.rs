//! What happens, and which rules hold meanwhile.
//!
//! A fault is performed in a [`Scene`], which notes the windows in which writes may fail or a node
//! must serve nothing. All is whole again before the next one.

mod apps;
mod network;
mod primary;
mod replicas;

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::apps::Broken;
use crate::history::{Episode, Moment, Rule, Window};
use crate::schedule::Fault;
use crate::world::{NODES, World};

/// One fault at work.
#[derive(Debug)]
pub(crate) struct Scene<'w> {
    pub(crate) world: &'w World,
    /// The app that faults of apps hit, if it is not left to chance.
    victim: Option<usize>,
    /// Nodes that another fault is at.
    taken: &'w Mutex<Vec<usize>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    episode: Episode,
}

/// Performs faults, all at once, and waits until all is whole again.
pub(crate) async fn perform(
    world: &World,
    faults: &[(Fault, u64)],
    victim: Option<usize>,
) -> Result<(), Broken> {
    let taken = Mutex::default();
    let scenes: Vec<_> = faults
        .iter()
        .map(|(fault, seed)| (*fault, Scene::new(world, *fault, *seed, victim, &taken)))
        .collect();
    let all = scenes.iter().map(|(fault, scene)| async move {
        let done = scene.perform(*fault).await;
        done.map_err(|error| format!("{fault} {}: {error}", scene.state().episode.what))
    });
    futures_util::future::try_join_all(all).await?;
    world.whole().await?;
    for (_, scene) in scenes {
        scene.close();
    }
    Ok(())
}

impl<'w> Scene<'w> {
    fn new(
        world: &'w World,
        fault: Fault,
        seed: u64,
        victim: Option<usize>,
        taken: &'w Mutex<Vec<usize>>,
    ) -> Self {
        let from = world.clock.elapsed();
        let episode = Episode {
            fault: fault.name().to_owned(),
            what: String::new(),
            from,
            to: from,
            failover: false,
            windows: Vec::new(),
        };
        let rng = fastrand::Rng::with_seed(seed);
        Self { world, victim, taken, state: Mutex::new(State { rng, episode }) }
    }

    async fn perform(&self, fault: Fault) -> Result<(), Broken> {
        match fault {
            Fault::ReplicaKill => self.kill_replica().await,
            Fault::ReplicaHang => self.hang_replica().await,
            Fault::ReplayPause => self.pause_replay().await,
            Fault::Conflict => self.conflict().await,
            Fault::ReplicaStall => self.stall(false).await,
            Fault::ReplicaCut => self.cut(false).await,
            Fault::ReplicaFlap => self.flap().await,
            Fault::ReplicaReset => self.reset(false).await,
            Fault::ReplicaSlow => self.slow(false).await,
            Fault::PrimaryStall => self.stall(true).await,
            Fault::PrimaryCut => self.cut(true).await,
            Fault::PrimaryReset => self.reset(true).await,
            Fault::PrimarySlow => self.slow(true).await,
            Fault::PrimaryHang => self.hang_primary().await,
            Fault::PrimaryRestart => self.restart_primary().await,
            Fault::RollingRestart => self.restart_all().await,
            Fault::Failover => self.fail_over().await,
            Fault::DivergentFailover => self.fail_over_and_diverge().await,
            Fault::Ghost => self.fail_over_and_haunt().await,
            Fault::AppKill => self.kill_app().await,
            Fault::AppStop => self.stop_app().await,
        }
    }

    /// All is whole again.
    fn close(self) {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.episode.to = self.world.clock.elapsed();
        let to = state.episode.to;
        state.episode.windows.retain_mut(|window| {
            window.to = window.to.min(to);
            true
        });
        self.world.notes().episodes.push(state.episode);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.world.clock.elapsed()
    }

    /// A rule held from then until now.
    fn held(&self, from: Moment, rule: Rule) {
        let to = self.now();
        self.state().episode.windows.push(Window { from, to, rule });
    }

    /// A rule holds from then until all is whole again.
    fn holds(&self, from: Moment, rule: Rule) {
        self.state().episode.windows.push(Window { from, to: Moment::MAX, rule });
    }

    /// A rule holds for as long as the work takes.
    async fn during<T>(&self, rule: Rule, work: impl Future<Output = T>) -> T {
        let from = self.now();
        let done = work.await;
        self.held(from, rule);
        done
    }

    /// Some time between these, in milliseconds.
    async fn linger(&self, from: u64, to: u64) {
        let time = self.state().rng.u64(from..=to);
        tokio::time::sleep(Duration::from_millis(time)).await;
    }

    fn u64(&self, from: u64, to: u64) -> u64 {
        self.state().rng.u64(from..=to)
    }

    /// What is hit, for people.
    fn hits(&self, what: &str) {
        let mut state = self.state();
        let text = &mut state.episode.what;
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(what);
    }

    /// A replica that no other fault is at. While one is in trouble, transactions on it may fail.
    fn replica(&self) -> usize {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let replicas = self.world.replicas();
        let free: Vec<_> = replicas.iter().filter(|node| !taken.contains(node)).collect();
        let chosen = self.state().rng.choice(free).copied();
        let chosen = chosen.unwrap_or(replicas[0]);
        taken.push(chosen);
        drop(taken);
        self.hits(NODES[chosen]);
        self.holds(self.now(), Rule::TransactionsBreak);
        chosen
    }

    /// The primary, which is in trouble from now on.
    fn primary(&self) -> usize {
        let primary = self.world.primary();
        self.hits(NODES[primary]);
        self.holds(self.now(), Rule::TransactionsBreak);
        primary
    }
}
