//! What the workloads share: the size of the pools, and whose turn it is.

/// The size of each variant's pool, where a workload does not have its own.
pub(crate) const POOL_SIZE: u32 = 16;

/// Which of `count` variants has its turn, round by round: each in one order, and then in the other, so
/// that what drifts with time affects all alike.
pub(crate) fn turns(rounds: u32, count: usize) -> impl Iterator<Item = usize> {
    (0..rounds).flat_map(move |round| {
        (0..count).map(move |turn| if round % 2 == 0 { turn } else { count - 1 - turn })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_round_goes_backwards() {
        assert!(turns(3, 3).eq([0, 1, 2, 2, 1, 0, 0, 1, 2]));
    }
}
