//! The options of a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::variant::Variant;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Reads of one row over HTTP, by clients that send one after the other without a pause.
    One,
    /// 2,000 reads at once, over a pool that was opened a moment ago.
    Burst,
    /// 1,000 clients that send a slow request and leave, beside four that stay.
    Storm,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Two minutes at the most, to see roughly where things stand: fewer rounds, 16 and 64 clients.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How many clients, for `one`; several numbers are measured one after the other. Default:
    /// 8,16,64,512.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: Vec<u32>,
    /// Length of a round in seconds; of each half of it in `storm`. Default: 2, in `storm` 5.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: Option<u64>,
    /// Rounds of each variant. Default: 30, in `burst` 5, in `storm` 3.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: Option<u32>,
    /// Only these variants, separated by commas, and `pgpool`, which is the base of all ratios.
    /// Default: all, in `burst` and `storm` `pgpool` and `flautino_one`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) variants: Vec<Variant>,
    /// Which workload.
    #[arg(long, default_value = "one", value_name = "WORKLOAD")]
    pub(crate) only: Workload,
    /// Writes the figures into this file too, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The options with their defaults filled in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) workload: Workload,
    pub(crate) clients: Vec<u32>,
    pub(crate) length: Duration,
    pub(crate) rounds: u32,
    /// The base comes first.
    pub(crate) variants: Vec<Variant>,
}

impl Options {
    pub(crate) fn plan(&self) -> Plan {
        let Self { quick, clients, seconds, rounds, variants, only, json: _ } = self;
        let (usual_seconds, usual_rounds, quick_rounds) = match only {
            Workload::One => (2, 30, 3),
            Workload::Burst => (2, 5, 3),
            Workload::Storm => (5, 3, 1),
        };
        let usual_rounds = if *quick { quick_rounds } else { usual_rounds };
        let usual_clients = if *quick { vec![16, 64] } else { vec![8, 16, 64, 512] };
        let usual_variants = match only {
            Workload::One => Variant::all(),
            Workload::Burst | Workload::Storm => vec![Variant::Pgpool, Variant::FlautinoOne],
        };
        let wanted = |variant: &Variant| *variant == Variant::BASE || variants.contains(variant);
        let chosen = Variant::all().into_iter().filter(wanted).collect();
        Plan {
            workload: *only,
            clients: if clients.is_empty() { usual_clients } else { clients.clone() },
            length: Duration::from_secs(seconds.unwrap_or(usual_seconds)),
            rounds: rounds.unwrap_or(usual_rounds),
            variants: if variants.is_empty() { usual_variants } else { chosen },
        }
    }
}
