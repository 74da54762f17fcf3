//! Chooses among the admitted replicas: takes two at random, and most often the less loaded of
//! them.
//!
//! This spreads the load nearly as well as comparing all replicas, and does not send every request
//! to the one that was best a moment ago (Mitzenmacher, "The Power of Two Choices in Randomized
//! Load Balancing").

use std::time::{Duration, Instant};

/// What a node carries at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Load {
    /// Connections checked out.
    pub in_flight: u32,
    /// How long recent probes took, in microseconds.
    pub latency_us: u32,
    /// The share of its usual load that a node gets during its slow start, in percent; 100
    /// afterwards.
    pub warm_percent: u8,
}

impl Load {
    /// A load of these parts, for a node that is not in its slow start.
    #[must_use]
    pub const fn new(in_flight: u32, latency_us: u32) -> Self {
        Self { in_flight, latency_us, warm_percent: 100 }
    }

    /// The same load for a node that came back at `readmitted`. Such a node begins with a tenth of
    /// its usual load, and gets all of it after `slow_start`.
    #[must_use]
    pub fn readmitted(
        self,
        readmitted: Option<Instant>,
        now: Instant,
        slow_start: Duration,
    ) -> Self {
        let warm_percent = match readmitted {
            Some(since) if now < since + slow_start => {
                let elapsed = now.saturating_duration_since(since).as_millis();
                let percent = 10 + 90 * elapsed / slow_start.as_millis().max(1);
                u8::try_from(percent).unwrap_or(100).min(100)
            }
            _ => 100,
        };
        Self { warm_percent, ..self }
    }

    /// A measure of how long one more statement would take on the node.
    fn cost(self) -> u64 {
        (u64::from(self.in_flight) + 1) * u64::from(self.latency_us.max(1))
    }

    /// How many times of 65,536 this node is preferred to the other one.
    ///
    /// The squares of the costs decide: a node that costs twice as much is taken once in five
    /// times, and a much slower one hardly ever, while small differences do not send all requests
    /// to one node.
    fn preference(self, other: Self) -> u64 {
        let square = |load: Self| u128::from(load.cost()).pow(2);
        let (own, others) = (square(self), square(other));
        u64::try_from((others << 16) / (own + others)).unwrap_or(0)
    }
}

/// Chooses among the admitted nodes of those numbered below `count`. Returns `None` if none is
/// admitted. Allocates nothing.
pub fn choose(
    count: usize,
    admitted: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> Load,
    random: u64,
) -> Option<usize> {
    let candidates = || (0..count).filter(|node| admitted(node.to_owned()));
    let found = candidates().count();
    if found < 2 {
        return candidates().next();
    }
    let below = |random: u64, bound: usize| ((random & 0xffff) as usize * bound) >> 16;
    let first = below(random, found);
    // Never the first one again.
    let second = (first + 1 + below(random >> 16, found - 1)) % found;
    let (first, second) = (candidates().nth(first)?, candidates().nth(second)?);
    let (one, other) = (load(first), load(second));
    let (chosen, left, warm) = if (random >> 48) < one.preference(other) {
        (first, second, one.warm_percent)
    } else {
        (second, first, other.warm_percent)
    };
    let starts_slowly = below(random >> 32, 100) >= usize::from(warm);
    Some(if starts_slowly { left } else { chosen })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of the nodes is chosen in 10,000 calls.
    fn shares(loads: &[Load]) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut shares = vec![0; loads.len()];
        for _ in 0..10_000 {
            let node = choose(loads.len(), |_| true, |node| loads[node], random.u64(..)).unwrap();
            shares[node] += 1;
        }
        shares
    }

    #[test]
    fn nodes_of_nearly_equal_latency_get_equal_shares() {
        for share in shares(&[Load::new(0, 180), Load::new(0, 200), Load::new(0, 190)]) {
            assert!((2800..3900).contains(&share), "{share}");
        }
    }

    #[test]
    fn a_slow_node_and_a_busy_one_get_hardly_any_requests() {
        assert_eq!(shares(&[Load::new(0, 200), Load::new(0, 200_000)])[1], 0);
        assert!(shares(&[Load::new(1, 200), Load::new(9, 200)])[1] < 600);
        assert!(shares(&[Load::new(0, 200), Load::new(0, 200), Load::new(0, 200_000)])[2] < 10);
    }

    #[test]
    fn a_node_that_came_back_starts_with_a_tenth_and_grows() {
        let start = Instant::now();
        let time = Duration::from_secs(10);
        let share = |after: u64| {
            let now = start + Duration::from_secs(after);
            shares(&[Load::new(0, 200), Load::new(0, 200).readmitted(Some(start), now, time)])[1]
        };
        assert!((300..800).contains(&share(0)), "{}", share(0));
        assert!(share(5) > 2 * share(0));
        assert!((4700..5300).contains(&share(10)), "{}", share(10));
    }

    #[test]
    fn only_admitted_nodes_are_chosen() {
        let any = |random| choose(5, |node| node == 3, |_| Load::new(0, 1), random);
        assert!(
            (0..100).all(|random| any(u64::wrapping_mul(random, 0x9e37_79b9_7f4a_7c15)) == Some(3))
        );
        assert_eq!(choose(5, |_| false, |_| Load::new(0, 1), 1), None);
        assert_eq!(choose(0, |_| true, |_| Load::new(0, 1), 1), None);
    }
}
