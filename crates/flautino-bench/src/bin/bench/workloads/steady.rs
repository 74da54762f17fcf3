//! The workloads that go by numbers of clients, each of which sends one request after the other. First come
//! the timed rounds, and then a round of each variant in which messages to the servers are counted.

use std::time::Duration;

use flautino_bench::resident_kb;

use super::turns::{POOL_SIZE, turns};
use crate::child::{CHILD_TIMEOUT, Child};
use crate::error::BoxError;
use crate::load::steady::{Outcome, Reads};
use crate::meter;
use crate::options::{Plan, Workload};
use crate::progress::Progress;
use crate::report::{Figures, Series};
use crate::usage;
use crate::world::{App, World};

/// The length of the round before the first one, which is not measured, for each number of clients.
const WARM_UP: Duration = Duration::from_secs(1);
/// The length of a round in which messages are counted.
const COUNTED: Duration = Duration::from_millis(500);
/// How many such rounds may go before them, until the pool has prepared its statements on all connections.
const MAX_PREPARING: usize = 8;

pub(super) async fn run(
    world: &World,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Series>, BoxError> {
    let mut measured = time(world, plan, progress).await?;
    for (number, variant) in plan.variants.iter().enumerate() {
        progress.turn_to(format!("{}: counting", plan.workload.name()));
        let app = world.metered_app(*variant, POOL_SIZE).await?;
        prepare(&app, plan.workload).await?;
        // For each number of clients there is a series of each variant.
        for series in measured.iter_mut().skip(number).step_by(plan.variants.len()) {
            series.counts = count(&app, plan.workload, series.clients, progress).await?;
        }
        app.child.end().await?;
    }
    Ok(measured)
}

/// All apps run from the start to the end, since one that gets no requests costs next to nothing.
async fn time(world: &World, plan: &Plan, progress: &Progress) -> Result<Vec<Series>, BoxError> {
    let mut apps = Vec::new();
    for variant in &plan.variants {
        apps.push(world.app(*variant, POOL_SIZE).await?);
    }
    let mut measured = Vec::new();
    for clients in &plan.clients {
        progress.turn_to(format!("{}: {clients} clients", plan.workload.name()));
        for app in &apps {
            round(app, plan.workload, *clients, WARM_UP, progress).await?;
        }
        let mut series: Vec<Series> =
            apps.iter().map(|app| Series::new(plan.workload, *clients, app.variant)).collect();
        for turn in turns(plan.rounds, apps.len()) {
            let figures = round(&apps[turn], plan.workload, *clients, plan.length, progress);
            series[turn].rounds.push(figures.await?);
        }
        measured.extend(series);
    }
    for app in apps {
        app.child.end().await?;
    }
    Ok(measured)
}

/// A timed round.
async fn round(
    app: &App,
    workload: Workload,
    clients: u32,
    length: Duration,
    progress: &Progress,
) -> Result<Figures, BoxError> {
    let mut clients = Clients::connect(app, workload, clients, length).await?;
    let pid = app.child.pid()?;
    let before = usage::cpu(pid)?;
    let outcome = clients.run().await?;
    let used = usage::cpu(pid)?.saturating_sub(before);
    let resident = resident_kb(&pid.to_string())?;
    clients.end().await?;
    report_failures(app, &outcome, progress);
    progress.step();
    let requests = f64::from(outcome.requests);
    let mut figures = vec![
        ("rps", requests / outcome.elapsed.as_secs_f64()),
        ("p50_us", outcome.p50.into()),
        ("p99_us", outcome.p99.into()),
        ("p999_us", outcome.p999.into()),
        ("cpu_us_per_request", used.as_secs_f64() * 1e6 / requests),
        ("rss_kb", resident.into()),
        ("failures", outcome.failures.into()),
    ];
    if workload == Workload::Token {
        let share = |reads: Reads| f64::from(reads.by_replicas) / f64::from(reads.all);
        let [at_once, after_10, after_50] = outcome.reads.map(share);
        figures.extend([
            ("by_replicas_at_once", at_once),
            ("by_replicas_after_10_ms", after_10),
            ("by_replicas_after_50_ms", after_50),
        ]);
    }
    Ok(figures)
}

/// Warms the pool up, until in a round no statement was prepared: that would be an extra round trip.
async fn prepare(app: &App, workload: Workload) -> Result<(), BoxError> {
    for _ in 0..MAX_PREPARING {
        let before = meter::settled(&app.meters).await?;
        let mut clients = Clients::connect(app, workload, 4 * POOL_SIZE, COUNTED).await?;
        clients.run().await?;
        clients.end().await?;
        if meter::settled(&app.meters).await?.prepared == before.prepared {
            break;
        }
    }
    Ok(())
}

/// A round in which messages to the servers are counted.
async fn count(
    app: &App,
    workload: Workload,
    clients: u32,
    progress: &Progress,
) -> Result<Figures, BoxError> {
    let mut clients = Clients::connect(app, workload, clients, COUNTED).await?;
    let before = meter::settled(&app.meters).await?;
    let outcome = clients.run().await?;
    let after = meter::settled(&app.meters).await?;
    clients.end().await?;
    report_failures(app, &outcome, progress);
    progress.step();
    let per_request = |before: u64, after: u64| {
        let count = u32::try_from(after - before)?;
        Ok::<_, BoxError>(f64::from(count) / f64::from(outcome.requests))
    };
    Ok(vec![
        ("round_trips_per_request", per_request(before.round_trips, after.round_trips)?),
        ("statements_per_request", per_request(before.statements, after.statements)?),
        ("monitor_statements_per_request", per_request(before.beside, after.beside)?),
    ])
}

fn report_failures(app: &App, outcome: &Outcome, progress: &Progress) {
    if let Some(failure) = &outcome.failure {
        let Outcome { failures, requests, .. } = outcome;
        progress.aside(|| {
            eprintln!("{}: {failures} of {requests} failed, the first: {failure}", app.variant);
        });
    }
}

/// The clients of one round, in a process of their own, connected to an app.
#[derive(Debug)]
struct Clients {
    child: Child,
    length: Duration,
}

impl Clients {
    async fn connect(
        app: &App,
        workload: Workload,
        clients: u32,
        length: Duration,
    ) -> Result<Self, BoxError> {
        let mut child = Child::start(&[
            "load".to_owned(),
            workload.name(),
            format!("--address={}", app.address),
            format!("--clients={clients}"),
            format!("--milliseconds={}", length.as_millis()),
        ])?;
        let _ready: String = child.answer(CHILD_TIMEOUT).await?;
        Ok(Self { child, length })
    }

    async fn run(&mut self) -> Result<Outcome, BoxError> {
        self.child.order("begin").await?;
        self.child.answer(self.length + CHILD_TIMEOUT).await
    }

    async fn end(self) -> Result<(), BoxError> {
        self.child.end().await
    }
}
