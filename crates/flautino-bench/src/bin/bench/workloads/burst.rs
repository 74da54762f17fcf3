//! `burst`: many reads at once, over a pool that was opened a moment ago. Each round has an app of its
//! own, and the reads are tasks in it.

use super::turns::turns;
use crate::app::Burst;
use crate::child::CHILD_TIMEOUT;
use crate::error::BoxError;
use crate::options::Plan;
use crate::progress::Progress;
use crate::report::{Figures, Series};
use crate::variant::Variant;
use crate::world::{Watcher, World};

/// sqlx's own default.
const POOL_SIZE: u32 = 10;
const TASKS: u32 = 2000;

pub(super) async fn run(
    world: &World,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Series>, BoxError> {
    progress.turn_to("burst".to_owned());
    let mut watcher = world.watcher().await?;
    let mut series: Vec<Series> =
        plan.variants.iter().map(|variant| Series::new(plan.workload, TASKS, *variant)).collect();
    for turn in turns(plan.rounds, plan.variants.len()) {
        let figures = round(world, &mut watcher, plan.variants[turn]).await?;
        series[turn].rounds.push(figures);
        progress.step();
    }
    Ok(series)
}

async fn round(
    world: &World,
    watcher: &mut Watcher,
    variant: Variant,
) -> Result<Figures, BoxError> {
    let mut app = world.app(variant, POOL_SIZE).await?;
    let work = async {
        app.child.order(&format!("burst {TASKS}")).await?;
        app.child.answer(CHILD_TIMEOUT).await
    };
    let (burst, max_sessions) = watcher.max_sessions(work).await?;
    let burst: Burst = burst?;
    app.child.end().await?;
    watcher.until_alone().await?;
    Ok(vec![
        ("failures", burst.failures.into()),
        ("last_answer_ms", burst.elapsed.as_secs_f64() * 1e3),
        ("most_sessions", max_sessions.into()),
    ])
}
