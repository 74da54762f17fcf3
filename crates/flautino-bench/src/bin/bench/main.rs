//! `bench`: flautino beside other pools, under load, in turns on one throwaway cluster. Linux only,
//! where `/proc` tells what a process has used.
//!
//! It starts itself again as its children, by hidden subcommands: `app` serves one [`Variant`] of the
//! same axum app, `load` and `storm-load` are the clients. All are processes of their own, so that
//! what an app uses is the app's alone.
//!
//! - [`options`]: the arguments; [`variant`]: what is compared
//! - [`workloads`]: what is measured, one kind of workload a file
//! - [`report`], [`plots`]: figures of rounds, their ratios, as tables and as JSON; as plots
//! - [`app`], [`load`]: the children's side; [`child`]: how parent and child talk
//! - [`growth`]: what a read costs, and what memory is held, by the number of nodes, tasks and so on
//! - [`world`]: the cluster; [`usage`]: what a process has used; [`meter`]: what it sends to its servers
//! - [`progress`]: how far a run is
//!
//! What is timed is never counted, and what is counted is not timed: messages are counted by a proxy, in
//! rounds of their own.

mod app;
mod child;
mod error;
mod growth;
mod load;
mod meter;
mod options;
mod plots;
mod progress;
mod report;
mod usage;
mod variant;
mod workloads;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use self::error::BoxError;
use self::options::{Options, Plan};
use self::progress::Progress;
use self::world::{World, on_a_cluster};

/// Measures flautino beside other pools: the same axum app over each, under the same load, in turns
/// on one throwaway cluster.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    args_conflicts_with_subcommands = true,
    override_usage = "bench [OPTIONS]\n       bench growth [OPTIONS]"
)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Another measurement, and the parts that child processes play.
#[derive(Debug, Subcommand)]
enum Part {
    /// What a read costs by the number of nodes, tasks and texts, and what memory requests, connections and
    /// nodes hold: about a quarter of an hour
    Growth(growth::Options),
    #[command(hide = true)]
    GrowthReads(growth::ReadsOptions),
    #[command(hide = true)]
    GrowthHeld(growth::HeldOptions),
    #[command(hide = true)]
    App(app::Options),
    #[command(hide = true)]
    Load(load::steady::Options),
    #[command(hide = true)]
    StormLoad(load::storm::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { options, part } = Arguments::parse();
    let outcome = match part {
        None => until_signal(bench(&options)).await,
        Some(Part::Growth(options)) => until_signal(growth::run(&options)).await,
        Some(Part::GrowthReads(options)) => growth::reads(options).await,
        Some(Part::GrowthHeld(options)) => growth::held(options).await,
        Some(Part::App(options)) => app::run(options).await,
        Some(Part::Load(options)) => load::steady::run(&options).await,
        Some(Part::StormLoad(options)) => load::storm::run(&options).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all plans on one cluster.
async fn bench(options: &Options) -> Result<(), BoxError> {
    let plans = options.plans();
    let rounds = plans.iter().map(Plan::all_rounds).sum();
    on_a_cluster(rounds, async |world, progress| measure(options, &plans, world, progress).await)
        .await
}

/// Runs one plan after the other. After each, prints its figures, and writes those of all so far, so that
/// a run that fails late is not in vain.
async fn measure(
    options: &Options,
    plans: &[Plan],
    world: &World,
    progress: &Progress,
) -> Result<(), BoxError> {
    let mut measured = Vec::new();
    for plan in plans {
        let series = workloads::run(world, plan, progress).await?;
        progress.aside(|| print!("{}", report::table(&series)));
        measured.extend(series);
        if let Some(path) = &options.json {
            std::fs::write(path, report::json(&measured)?)?;
        }
        if let Some(path) = &options.markdown {
            std::fs::write(path, report::markdown(&measured))?;
        }
        if let Some(folder) = &options.plots {
            plots::draw(&measured, folder)?;
        }
    }
    Ok(())
}

/// Runs until a signal comes. The run is then dropped, which ends its children and its cluster.
async fn until_signal(run: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        outcome = Box::pin(run) => outcome,
        _ = terminate.recv() => Err("ended by SIGTERM".into()),
        _ = interrupt.recv() => Err("ended by Ctrl-C".into()),
    }
}
