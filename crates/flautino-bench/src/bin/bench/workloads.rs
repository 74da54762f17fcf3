//! What is measured, one workload a file. Each goes by rounds, in which the variants take turns.

mod burst;
mod one;
mod storm;
mod turns;

use crate::error::BoxError;
use crate::options::{Plan, Workload};
use crate::report::Series;
use crate::world::World;

/// Runs the plan's workload.
pub(crate) async fn run(world: &World, plan: &Plan) -> Result<Vec<Series>, BoxError> {
    match plan.workload {
        Workload::One => one::run(world, plan).await,
        Workload::Burst => burst::run(world, plan).await,
        Workload::Storm => storm::run(world, plan).await,
    }
}
