//! The options of a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::schedule::Fault;

/// Tortures flautino: several app processes over a real cluster, clients, faults; then checks
/// what every client was told. Ends with 0 where all promises were kept, with 1 where one was broken,
/// with 2 where the run itself failed.
#[derive(Debug, Clone, Parser)]
#[command(name = "torture", version)]
pub struct Options {
    /// The longest time of the run, without its start and end. Default: 60, where neither
    /// operations nor faults are asked for; with --soak 600.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// At least so many operations.
    #[arg(long, default_value_t = 0)]
    pub operations: u64,
    /// At least so many faults.
    #[arg(long, default_value_t = 0)]
    pub faults: u64,
    /// The seed of the faults, and of what clients ask for. Default: one at random.
    #[arg(long)]
    pub seed: Option<u64>,
    /// App processes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub apps: u64,
    /// Clients.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub clients: u32,
    /// How long a client rests between two operations, in milliseconds, on average.
    #[arg(long, default_value_t = 15)]
    pub pace: u64,
    /// Only these faults, separated by commas: replica-kill, failover, ghost…
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Fault>,
    /// These faults first, in this order.
    #[arg(long, value_delimiter = ',')]
    pub first: Vec<Fault>,
    /// No faults at all.
    #[arg(long)]
    pub calm: bool,
    /// Checks that idle apps hold no more at the end than they held after a warm-up.
    #[arg(long)]
    pub soak: bool,
    /// A folder for the logs of the apps. Default: none are kept.
    #[arg(long)]
    pub logs: Option<PathBuf>,
    /// This program's file, for the app processes. Default: the one that runs.
    #[arg(long, hide = true)]
    pub program: Option<PathBuf>,
}

impl Options {
    /// The defaults, as without arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::parse_from(["torture"])
    }

    /// The longest time of the faults, if it is bounded.
    pub(crate) fn max_duration(&self) -> Option<Duration> {
        let bound = self.operations > 0 || self.faults > 0;
        let default = if self.soak { 600 } else { 60 };
        let seconds = self.seconds.or((!bound).then_some(default));
        seconds.map(Duration::from_secs)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
