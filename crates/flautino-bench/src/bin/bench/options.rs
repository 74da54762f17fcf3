//! The options of a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::variant::Variant;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Reads of one row over HTTP, by clients that send one request after the other without a pause.
    One,
    /// As `one`, with three reads one after the other in each request.
    Three,
    /// As `one`, with 100 rows in each request.
    List,
    /// As `one`, with an UPDATE of one row in each request. No two clients write the same row.
    Write,
    /// As `write`, with a transaction in each request: a read, an UPDATE and an INSERT that finds its row.
    Tx,
    /// A write, and reads of its row at once, 10 ms and 50 ms later, with the token that came with the
    /// write: which share of them replicas serve.
    Token,
    /// As `one`, with a write in every twentieth request; each client sends the latest token that it got.
    Mixed,
    /// 2,000 reads at once, over a pool that was opened a moment ago.
    Burst,
    /// 1,000 clients that send a slow request and leave, beside four that stay.
    Storm,
}

impl Workload {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it goes by numbers of clients, each of which sends one request after the other.
    pub(crate) fn is_steady(self) -> bool {
        !matches!(self, Self::Burst | Self::Storm)
    }

    /// Whether the variant can do it.
    fn admits(self, variant: Variant) -> bool {
        variant != Variant::AxumSqlxTx || self == Self::Tx
    }

    /// The variants of which it tells something.
    fn usual_variants(self) -> Vec<Variant> {
        match self {
            Self::Token => vec![Variant::Pgpool, Variant::FlautinoOne, Variant::FlautinoTwo],
            Self::Burst | Self::Storm => vec![Variant::Pgpool, Variant::FlautinoOne],
            _ => Variant::usual(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Two minutes at the most, to see roughly where things stand: few short rounds of `one` or of the
    /// workload in `--only`, 16 and 64 clients.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How many clients; several numbers are measured one after the other. `burst` and `storm` have their
    /// own. Default: 1,8,16,64,512. The pools have 16 connections.
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub(crate) clients: Vec<u32>,
    /// Length of a round in seconds; of each half of it in `storm`. Default: 1, with `--only` 2, in `storm`
    /// 5.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: Option<u64>,
    /// Rounds of each variant. Default: 10, with `--only` 30, in `burst` 5, in `storm` 3.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: Option<u32>,
    /// Only these variants, separated by commas, and `pgpool`, which is the base of all ratios. Default:
    /// all but those that say otherwise; in `token` `pgpool`, `flautino_one` and `flautino_two`; in `burst` and `storm` `pgpool` and
    /// `flautino_one`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) variants: Vec<Variant>,
    /// Only this workload, with more and longer rounds: about half an hour. Default: all, which takes about
    /// 50 minutes.
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) only: Option<Workload>,
    /// Writes the figures into this file too, as JSON, anew after each workload.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the tables into this file too, as Markdown, anew after each workload.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Draws plots into this folder, as SVG: for each workload that goes by numbers of clients, requests a
    /// second and p99 by the number of clients.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
}

/// One workload of a run, with its defaults filled in.
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
    /// The workloads, one after the other.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        let workloads = match self.only {
            Some(only) => vec![only],
            None if self.quick => vec![Workload::One],
            None => Workload::value_variants().to_vec(),
        };
        workloads.into_iter().map(|workload| self.plan(workload)).collect()
    }

    fn plan(&self, workload: Workload) -> Plan {
        let Self { quick, clients, seconds, rounds, variants, only, .. } = self;
        let (usual_seconds, usual_rounds) = match (workload, quick, only) {
            (Workload::Burst, false, _) => (1, 5),
            (Workload::Storm, false, _) => (5, 3),
            (Workload::Storm, true, _) => (5, 1),
            (_, true, _) => (1, 3),
            (_, false, None) => (1, 10),
            (_, false, Some(_)) => (2, 30),
        };
        let usual_clients = if *quick { vec![16, 64] } else { vec![1, 8, 16, 64, 512] };
        let wanted = |variant: &Variant| match variants.as_slice() {
            [] => workload.usual_variants().contains(variant),
            chosen => *variant == Variant::BASE || chosen.contains(variant),
        };
        let can = |variant: &Variant| workload.admits(*variant) && wanted(variant);
        Plan {
            workload,
            clients: if clients.is_empty() { usual_clients } else { clients.clone() },
            length: Duration::from_secs(seconds.unwrap_or(usual_seconds)),
            rounds: rounds.unwrap_or(usual_rounds),
            variants: Variant::all().into_iter().filter(can).collect(),
        }
    }
}

impl Plan {
    /// How many rounds there are in all, those that are not timed included.
    pub(crate) fn all_rounds(&self) -> u64 {
        let variants = self.variants.len() as u64;
        if self.workload.is_steady() {
            // A warm-up before them, and a round that is counted after them.
            (u64::from(self.rounds) + 2) * variants * self.clients.len() as u64
        } else {
            u64::from(self.rounds) * variants
        }
    }
}
