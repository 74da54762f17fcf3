//! `one`: reads of one row over HTTP, by clients who never rest.

use std::time::Duration;

use super::{POOL, turns};
use crate::Broken;
use crate::child::{Child, PATIENCE};
use crate::load::steady::Seen;
use crate::options::Plan;
use crate::report::{Figures, Series};
use crate::usage;
use crate::world::{App, World};

/// Before the first round of each variant, at each number of clients; not measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// All apps run from the start to the end; one that is not asked costs next to nothing.
pub(super) async fn run(world: &World, plan: &Plan) -> Result<Vec<Series>, Broken> {
    let mut apps = Vec::new();
    for variant in &plan.variants {
        apps.push(world.app(*variant, POOL).await?);
    }
    let mut measured = Vec::new();
    for clients in &plan.clients {
        eprintln!("one: {clients} clients, {} rounds of {:?}", plan.rounds, plan.length);
        for app in &mut apps {
            round(app, *clients, WARM_UP).await?;
        }
        let mut series: Vec<Series> =
            apps.iter().map(|app| Series::new("one", *clients, app.variant)).collect();
        for turn in turns(plan.rounds, apps.len()) {
            series[turn].rounds.push(round(&apps[turn], *clients, plan.length).await?);
        }
        measured.extend(series);
    }
    for app in apps {
        app.child.end().await?;
    }
    Ok(measured)
}

async fn round(app: &App, clients: u32, length: Duration) -> Result<Figures, Broken> {
    let mut load = Child::start(&[
        "load".to_owned(),
        format!("--address={}", app.address),
        format!("--clients={clients}"),
        format!("--milliseconds={}", length.as_millis()),
    ])?;
    let _ready: String = load.answer(PATIENCE).await?;
    let pid = app.child.pid()?;
    let before = usage::cpu(pid)?;
    load.order("begin").await?;
    let seen: Seen = load.answer(length + PATIENCE).await?;
    let used = usage::cpu(pid)?.saturating_sub(before);
    let resident = usage::resident_kb(pid)?;
    load.end().await?;
    if let Some(failure) = &seen.failure {
        eprintln!("{}: {} failures, the first: {failure}", app.variant, seen.failures);
    }
    let requests = f64::from(seen.requests);
    Ok(vec![
        ("rps", requests / seen.elapsed.as_secs_f64()),
        ("p50_us", seen.p50.into()),
        ("p99_us", seen.p99.into()),
        ("p999_us", seen.p999.into()),
        ("cpu_us_per_request", used.as_secs_f64() * 1e6 / requests),
        ("rss_kb", resident),
        ("failures", seen.failures.into()),
    ])
}
