//! How costs grow: those of a read by the number of nodes, of tasks at once and of texts, and the memory of
//! what waits or rests.
//!
//! Each figure of each round comes from a process of its own, which has done nothing else before. As
//! everywhere, the rounds take turns, in one order and then in the other.
//!
//! - here: the run; [`axis`]: what grows, and what is measured of it
//! - [`source`], [`reads`](mod@reads), [`held`](mod@held): the children's side
//! - [`report`]: tables, JSON, plots

mod axis;
mod held;
mod reads;
mod report;
mod source;

use std::path::PathBuf;

use clap::Args;

use self::axis::{Axis, Subject};
pub(crate) use self::held::{Options as HeldOptions, held};
pub(crate) use self::reads::{Options as ReadsOptions, reads};
use self::report::Series;
use crate::error::BoxError;
use crate::progress::Progress;
use crate::workloads::turns::turns;
use crate::world::{World, on_a_cluster};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Axis>,
    /// How many of each, separated by commas, instead of the usual numbers; up to 63 nodes.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    counts: Vec<u32>,
    /// Rounds of each figure.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a round in milliseconds, and of what goes before it unmeasured.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    milliseconds: u64,
    /// Writes the figures into this file too, as JSON, anew after each axis.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables into this file too, as Markdown, anew after each axis.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draws a plot for each axis into this folder, as SVG.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

impl Options {
    fn axes(&self) -> Vec<Axis> {
        let wanted = |axis: &Axis| self.only.is_empty() || self.only.contains(axis);
        Axis::all().into_iter().filter(wanted).collect()
    }

    fn counts(&self, axis: Axis) -> Vec<u32> {
        match self.counts.as_slice() {
            [] => axis.usual_counts().to_vec(),
            chosen => chosen.iter().map(|count| (*count).min(axis.most())).collect(),
        }
    }

    /// All rounds of an axis.
    fn all_rounds(&self, axis: Axis) -> u64 {
        let lines = (axis.subjects().len() * self.counts(axis).len()) as u64;
        u64::from(self.rounds) * lines
    }
}

/// Measures on a cluster of its own.
pub(crate) async fn run(options: &Options) -> Result<(), BoxError> {
    let axes = options.axes();
    let rounds = axes.iter().map(|axis| options.all_rounds(*axis)).sum();
    on_a_cluster(rounds, async |world, progress| {
        world.share_servers(axis::MAX_REPLICAS).await?;
        measure(options, &axes, world, progress).await
    })
    .await
}

async fn measure(
    options: &Options,
    axes: &[Axis],
    world: &World,
    progress: &Progress,
) -> Result<(), BoxError> {
    let mut measured = Vec::new();
    for axis in axes {
        progress.turn_to(axis.name());
        let series = rounds(options, *axis, world, progress).await?;
        progress.aside(|| print!("{}", report::table(*axis, &series)));
        if let Some(folder) = &options.plots {
            report::draw(*axis, &series, folder)?;
        }
        measured.push((*axis, series));
        if let Some(path) = &options.json {
            std::fs::write(path, report::json(&measured)?)?;
        }
        if let Some(path) = &options.markdown {
            std::fs::write(path, report::markdown(&measured))?;
        }
    }
    Ok(())
}

/// All rounds of an axis, for each subject and number.
async fn rounds(
    options: &Options,
    axis: Axis,
    world: &World,
    progress: &Progress,
) -> Result<Vec<Series>, BoxError> {
    let counts = options.counts(axis);
    let of = |subject: &Subject| {
        let subject = *subject;
        counts.iter().map(move |count| Series { subject, count: *count, rounds: Vec::new() })
    };
    let mut series: Vec<Series> = axis.subjects().iter().flat_map(of).collect();
    for turn in turns(options.rounds, series.len()) {
        let Series { subject, count, rounds } = &mut series[turn];
        let figures = axis.measure(*subject, *count, options.milliseconds, world).await;
        rounds.push(figures.map_err(|error| format!("{}, {count}: {error}", axis.name()))?);
        progress.step();
    }
    Ok(series)
}
