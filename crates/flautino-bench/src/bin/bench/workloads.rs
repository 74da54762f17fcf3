//! What is measured, a file each. All go by rounds: each variant in its turn, in one order and then
//! in the other, so that what drifts with time cancels out.

mod burst;
mod one;
mod storm;

use crate::Broken;
use crate::options::{Plan, Workload};
use crate::report::Series;
use crate::world::World;

/// The connections that each variant's pool has at most, where the workload says nothing else.
const POOL: u32 = 16;

/// Measures what the plan says.
pub(crate) async fn run(world: &World, plan: &Plan) -> Result<Vec<Series>, Broken> {
    match plan.workload {
        Workload::One => one::run(world, plan).await,
        Workload::Burst => burst::run(world, plan).await,
        Workload::Storm => storm::run(world, plan).await,
    }
}

/// Which of so many has its turn, round by round.
fn turns(rounds: u32, count: usize) -> impl Iterator<Item = usize> {
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
