//! `burst`: many reads at once, of a pool that was opened a moment ago. Each round has an app of its
//! own, and the tasks run in it.

use super::turns;
use crate::Broken;
use crate::app::Burst;
use crate::child::PATIENCE;
use crate::options::Plan;
use crate::report::{Figures, Series};
use crate::variant::Variant;
use crate::world::{Watcher, World};

/// sqlx's own default.
const POOL: u32 = 10;
const TASKS: u32 = 2000;

pub(super) async fn run(world: &World, plan: &Plan) -> Result<Vec<Series>, Broken> {
    eprintln!("burst: {TASKS} tasks, {} rounds", plan.rounds);
    let mut watcher = world.watcher().await?;
    let mut series: Vec<Series> =
        plan.variants.iter().map(|variant| Series::new("burst", TASKS, *variant)).collect();
    for turn in turns(plan.rounds, plan.variants.len()) {
        let figures = round(world, &mut watcher, plan.variants[turn]).await?;
        series[turn].rounds.push(figures);
    }
    Ok(series)
}

async fn round(world: &World, watcher: &mut Watcher, variant: Variant) -> Result<Figures, Broken> {
    let mut app = world.app(variant, POOL).await?;
    let work = async {
        app.child.order(&format!("burst {TASKS}")).await?;
        app.child.answer(PATIENCE).await
    };
    let (burst, most) = watcher.most_sessions(work).await?;
    let burst: Burst = burst?;
    app.child.end().await?;
    watcher.until_alone().await?;
    Ok(vec![
        ("failures", burst.failures.into()),
        ("last_answer_ms", burst.elapsed.as_secs_f64() * 1e3),
        ("most_sessions", most.into()),
    ])
}
