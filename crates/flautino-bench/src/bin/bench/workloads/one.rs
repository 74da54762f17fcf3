//! `one`: reads of one row over HTTP, by clients that send one after the other without a pause.

use std::time::Duration;

use flautino_bench::resident_kb;

use super::turns::{POOL_SIZE, turns};
use crate::child::{CHILD_TIMEOUT, Child};
use crate::error::BoxError;
use crate::load::steady::Outcome;
use crate::options::Plan;
use crate::report::{Figures, Series};
use crate::usage;
use crate::world::{App, World};

/// The length of the round before the first one, which is not measured, for each number of clients.
const WARM_UP: Duration = Duration::from_secs(1);

/// All apps run from the start to the end, since one that gets no requests costs next to nothing.
pub(super) async fn run(world: &World, plan: &Plan) -> Result<Vec<Series>, BoxError> {
    let mut apps = Vec::new();
    for variant in &plan.variants {
        apps.push(world.app(*variant, POOL_SIZE).await?);
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

async fn round(app: &App, clients: u32, length: Duration) -> Result<Figures, BoxError> {
    let mut load = Child::start(&[
        "load".to_owned(),
        format!("--address={}", app.address),
        format!("--clients={clients}"),
        format!("--milliseconds={}", length.as_millis()),
    ])?;
    let _ready: String = load.answer(CHILD_TIMEOUT).await?;
    let pid = app.child.pid()?;
    let before = usage::cpu(pid)?;
    load.order("begin").await?;
    let outcome: Outcome = load.answer(length + CHILD_TIMEOUT).await?;
    let used = usage::cpu(pid)?.saturating_sub(before);
    let resident = resident_kb(&pid.to_string())?;
    load.end().await?;
    if let Some(failure) = &outcome.failure {
        eprintln!("{}: {} failures, the first: {failure}", app.variant, outcome.failures);
    }
    let requests = f64::from(outcome.requests);
    Ok(vec![
        ("rps", requests / outcome.elapsed.as_secs_f64()),
        ("p50_us", outcome.p50.into()),
        ("p99_us", outcome.p99.into()),
        ("p999_us", outcome.p999.into()),
        ("cpu_us_per_request", used.as_secs_f64() * 1e6 / requests),
        ("rss_kb", resident.into()),
        ("failures", outcome.failures.into()),
    ])
}
