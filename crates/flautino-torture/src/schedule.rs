//! Which faults there are, and which one comes next.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// A fault that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A replica is killed and started again.
    ReplicaKill,
    /// A replica hangs for up to three seconds.
    ReplicaHang,
    /// A replica receives and does not replay.
    ReplayPause,
    /// Packets to and from a replica are swallowed.
    ReplicaStall,
    /// A replica cannot be reached.
    ReplicaCut,
    /// A replica can and cannot be reached by turns.
    ReplicaFlap,
    /// Connections to a replica are reset.
    ReplicaReset,
    /// The network to a replica is slow.
    ReplicaSlow,
    /// Queries on replicas are cancelled in favour of replay.
    Conflict,
    /// Packets to and from the primary are swallowed for a short time.
    PrimaryStall,
    /// The primary cannot be reached for a short time.
    PrimaryCut,
    /// Connections to the primary are reset.
    PrimaryReset,
    /// The network to the primary is slow.
    PrimarySlow,
    /// The primary hangs for less than two seconds.
    PrimaryHang,
    /// The primary is restarted in order.
    PrimaryRestart,
    /// All nodes are restarted in order, one after the other.
    RollingRestart,
    /// The primary is killed, and the replica promoted that has received most.
    Failover,
    /// As `Failover`; the other replica stays on the old timeline, at a position ahead of the new
    /// primary's.
    DivergentFailover,
    /// As `Failover`; the old primary comes back, and still takes itself for the primary.
    Ghost,
    /// An app process is killed and started again.
    AppKill,
    /// An app process is told to stop, and started again.
    AppStop,
}

/// All faults, with their names and how often each is chosen.
const ALL: [(Fault, &str, u32); 21] = [
    (Fault::ReplicaKill, "replica-kill", 5),
    (Fault::ReplicaHang, "replica-hang", 5),
    (Fault::ReplayPause, "replay-pause", 5),
    (Fault::ReplicaStall, "replica-stall", 4),
    (Fault::ReplicaCut, "replica-cut", 4),
    (Fault::ReplicaFlap, "replica-flap", 4),
    (Fault::ReplicaReset, "replica-reset", 5),
    (Fault::ReplicaSlow, "replica-slow", 4),
    (Fault::Conflict, "conflict", 5),
    (Fault::PrimaryStall, "primary-stall", 4),
    (Fault::PrimaryCut, "primary-cut", 4),
    (Fault::PrimaryReset, "primary-reset", 5),
    (Fault::PrimarySlow, "primary-slow", 3),
    (Fault::PrimaryHang, "primary-hang", 4),
    (Fault::PrimaryRestart, "primary-restart", 5),
    (Fault::RollingRestart, "rolling-restart", 3),
    (Fault::Failover, "failover", 8),
    (Fault::DivergentFailover, "divergent-failover", 6),
    (Fault::Ghost, "ghost", 6),
    (Fault::AppKill, "app-kill", 5),
    (Fault::AppStop, "app-stop", 6),
];

impl Fault {
    /// Its name, as in `--only`.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(fault, ..)| *fault == self).map_or("", |(_, name, _)| name)
    }

    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(fault, ..)| fault)
    }

    /// Whether another fault may happen at the same time, and all promises can still be kept: it leaves
    /// servers and their roles as they are.
    #[must_use]
    pub fn may_overlap(self) -> bool {
        self.is_of_apps()
            || matches!(
                self,
                Self::ReplayPause
                    | Self::ReplicaStall
                    | Self::ReplicaCut
                    | Self::ReplicaFlap
                    | Self::ReplicaReset
                    | Self::ReplicaSlow
                    | Self::PrimarySlow
                    | Self::PrimaryReset
            )
    }

    /// Whether it hits app processes.
    #[must_use]
    pub fn is_of_apps(self) -> bool {
        matches!(self, Self::AppKill | Self::AppStop)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = ALL.into_iter().find(|(_, name, _)| *name == text);
        let names = || ALL.map(|(_, name, _)| name).join(", ");
        found.map(|(fault, ..)| fault).ok_or_else(|| format!("is none of {}", names()))
    }
}

/// One time in so many, two faults happen at once: two that may overlap, or one of an app and any other.
const PAIR_EVERY: u32 = 4;

/// Chooses faults at random.
#[derive(Debug)]
pub(crate) struct Schedule {
    rng: fastrand::Rng,
    faults: Vec<Fault>,
    /// The faults that come before any chosen at random.
    first: VecDeque<Fault>,
}

impl Schedule {
    /// Chooses among the faults in `only`, or among all if that is empty, after those in `first`.
    pub(crate) fn new(seed: u64, only: &[Fault], first: &[Fault]) -> Self {
        let faults = ALL.into_iter().filter(|(fault, ..)| only.is_empty() || only.contains(fault));
        // The list holds each as often as it is to be chosen.
        let faults = faults.flat_map(|(fault, _, weight)| (0..weight).map(move |_| fault));
        let rng = fastrand::Rng::with_seed(seed);
        Self { rng, faults: faults.collect(), first: first.iter().copied().collect() }
    }

    /// The faults that happen next, all at once, each with a seed for its details.
    pub(crate) fn next(&mut self) -> Vec<(Fault, u64)> {
        if let Some(fault) = self.first.pop_front() {
            return vec![(fault, self.rng.u64(..))];
        }
        let Some(first) = self.rng.choice(&self.faults).copied() else { return Vec::new() };
        let mut next = vec![(first, self.rng.u64(..))];
        if self.rng.u32(..PAIR_EVERY) == 0 {
            let fits = |fault: &&Fault| match (first.is_of_apps(), fault.is_of_apps()) {
                (true, true) => false,
                (false, true) => true,
                (_, false) => first.may_overlap() && fault.may_overlap() && **fault != first,
            };
            let others: Vec<_> = self.faults.iter().filter(fits).collect();
            if let Some(second) = self.rng.choice(others) {
                next.push((*second, self.rng.u64(..)));
            }
        }
        next
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_happens() {
        let (mut one, mut same) = (Schedule::new(7, &[], &[]), Schedule::new(7, &[], &[]));
        let mut other = Schedule::new(8, &[], &[]);
        let faults: Vec<_> = (0..200).map(|_| one.next()).collect();
        assert_eq!(faults, (0..200).map(|_| same.next()).collect::<Vec<_>>());
        assert_ne!(faults, (0..200).map(|_| other.next()).collect::<Vec<_>>());
        for fault in Fault::all() {
            let mut happens = faults.iter().flatten().map(|(happened, _)| *happened);
            assert!(happens.any(|happened| happened == fault), "{fault} in 200");
        }
    }

    #[test]
    fn only_faults_that_may_overlap_and_those_of_apps_happen_at_once() {
        let mut schedule = Schedule::new(1, &[], &[]);
        let next: Vec<_> = (0..500).map(|_| schedule.next()).collect();
        let both: Vec<_> = next.iter().filter(|faults| faults.len() > 1).collect();
        assert!(!both.is_empty());
        let fits = |faults: &[(Fault, u64)]| {
            let apps = faults.iter().filter(|(fault, _)| fault.is_of_apps()).count();
            faults.len() == 2
                && (apps == 1 || apps == 0 && faults.iter().all(|(fault, _)| fault.may_overlap()))
        };
        assert!(both.iter().all(|faults| fits(faults)), "{both:?}");
    }

    #[test]
    fn names_are_read_back() {
        for fault in Fault::all() {
            assert_eq!(fault.name().parse::<Fault>().unwrap(), fault);
        }
        assert!("flood".parse::<Fault>().is_err());
    }

    #[test]
    fn some_faults_may_be_asked_for() {
        let mut schedule = Schedule::new(3, &[Fault::Ghost], &[Fault::AppKill, Fault::Conflict]);
        assert_eq!(schedule.next()[0].0, Fault::AppKill);
        assert_eq!(schedule.next()[0].0, Fault::Conflict);
        assert!((0..20).all(|_| schedule.next()[0].0 == Fault::Ghost));
    }
}
