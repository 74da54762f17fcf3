//! `storm`: clients that send a slow request and leave, beside a few that stay and read. Each round has
//! an app of its own: first those that stay are alone (peace), and then the others come (storm).

use std::time::Instant;

use super::turns::{POOL_SIZE, turns};
use crate::child::{CHILD_TIMEOUT, Child};
use crate::error::BoxError;
use crate::load::storm::Reads;
use crate::options::Plan;
use crate::progress::Progress;
use crate::report::{Figures, Series};
use crate::variant::Variant;
use crate::world::{Watcher, World};

/// How many clients leave.
const LEAVING: u32 = 1000;

pub(super) async fn run(
    world: &World,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Series>, BoxError> {
    progress.turn_to("storm".to_owned());
    let mut watcher = world.watcher().await?;
    let mut series: Vec<Series> =
        plan.variants.iter().map(|variant| Series::new(plan.workload, LEAVING, *variant)).collect();
    for turn in turns(plan.rounds, plan.variants.len()) {
        let figures = round(world, &mut watcher, plan, plan.variants[turn]).await?;
        series[turn].rounds.push(figures);
        progress.step();
    }
    Ok(series)
}

async fn round(
    world: &World,
    watcher: &mut Watcher,
    plan: &Plan,
    variant: Variant,
) -> Result<Figures, BoxError> {
    let app = world.app(variant, POOL_SIZE).await?;
    let mut load = Child::start(&[
        "storm-load".to_owned(),
        format!("--address={}", app.address),
        format!("--leaving={LEAVING}"),
        format!("--milliseconds={}", plan.length.as_millis()),
    ])?;
    let _ready: String = load.answer(CHILD_TIMEOUT).await?;
    load.order("begin").await?;
    let _storm: String = load.answer(plan.length + CHILD_TIMEOUT).await?;
    let before = world.connections();
    let reads: Reads = load.answer(plan.length + CHILD_TIMEOUT).await?;
    let left = Instant::now();
    watcher.until_idle().await?;
    let idle_after = left.elapsed();
    let started = world.connections() - before;
    load.end().await?;
    app.child.end().await?;
    watcher.until_alone().await?;

    let (of_peace, of_storm) = (f64::from(reads.peace), f64::from(reads.storm));
    let seconds = plan.length.as_secs_f64();
    Ok(vec![
        ("peace_rps", of_peace / seconds),
        ("storm_rps", of_storm / seconds),
        ("storm_to_peace", of_storm / of_peace),
        ("failures", reads.failed.into()),
        ("new_server_processes", started.into()),
        ("idle_after_ms", idle_after.as_secs_f64() * 1e3),
    ])
}
