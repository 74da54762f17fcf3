//! What is measured, one kind of workload a file. Each goes by rounds, in which the variants take turns.

mod burst;
mod steady;
mod storm;
pub(crate) mod turns;

use crate::error::BoxError;
use crate::options::{Plan, Workload};
use crate::progress::Progress;
use crate::report::Series;
use crate::world::World;

/// Runs one workload.
pub(crate) async fn run(
    world: &World,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Series>, BoxError> {
    match plan.workload {
        Workload::Burst => burst::run(world, plan, progress).await,
        Workload::Storm => storm::run(world, plan, progress).await,
        _ => steady::run(world, plan, progress).await,
    }
}
