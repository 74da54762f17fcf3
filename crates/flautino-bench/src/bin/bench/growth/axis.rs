//! [`Axis`]: what grows, and what is measured of it.

use std::time::Duration;

use clap::ValueEnum;

use super::held::Held;
use super::reads::Cost;
use crate::child::{CHILD_TIMEOUT, Child};
use crate::error::BoxError;
use crate::plots::Across;
use crate::report::Figures;
use crate::variant::Variant;
use crate::workloads::turns::POOL_SIZE;
use crate::world::World;

/// The most replicas that can be told apart.
pub(super) const MAX_REPLICAS: u32 = 63;
/// The figure that only explains others.
pub(super) const CONNECTIONS: &str = "connections";
/// How many tasks read, where that does not grow: as many as a pool has connections.
const TASKS: u32 = POOL_SIZE;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Axis {
    /// The cost of a read over so many nodes, and of their monitor.
    Nodes,
    /// The cost of a read by so many tasks at once, over a pool of 16.
    Tasks,
    /// The cost of a read of so many texts, one of them by chance.
    Statements,
    /// The memory of so many tasks that wait for a connection.
    Waiting,
    /// The memory of so many idle connections, each of which has read once.
    Connections,
    /// The memory of so many replicas, or of so many pools, each of which has read once.
    Replicas,
}

/// What is measured: a line of a plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) name: &'static str,
    /// As it is opened.
    pub(super) variant: Variant,
}

const PGPOOL: Subject = Subject { name: "pgpool", variant: Variant::Pgpool };
const ONE: Subject = Subject { name: "flautino_one", variant: Variant::FlautinoOne };
const TWO: Subject = Subject { name: "flautino_two", variant: Variant::FlautinoTwo };
/// Where the nodes are what grows.
const FLAUTINO: Subject = Subject { name: "flautino", variant: Variant::FlautinoTwo };

impl Axis {
    pub(super) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// As it is written on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn usual_counts(self) -> &'static [u32] {
        match self {
            Self::Nodes => &[1, 2, 4, 8, 16, 32, 64],
            Self::Tasks => &[10, 100, 1000, 10_000],
            Self::Statements => &[10, 100, 1000, 10_000, 100_000],
            Self::Waiting => &[100, 1000, 10_000],
            Self::Connections => &[10, 30, 100, 300],
            Self::Replicas => &[1, 4, 16, 62],
        }
    }

    pub(super) fn most(self) -> u32 {
        match self {
            Self::Nodes => MAX_REPLICAS + 1,
            // One is there before.
            Self::Replicas => MAX_REPLICAS - 1,
            // As many as the server has places, less some for others.
            Self::Connections => 300,
            _ => u32::MAX,
        }
    }

    /// The base of ratios comes first.
    pub(super) fn subjects(self) -> &'static [Subject] {
        match self {
            Self::Nodes => &[FLAUTINO],
            Self::Tasks | Self::Statements => &[PGPOOL, ONE, TWO],
            Self::Waiting | Self::Connections => &[PGPOOL, ONE],
            Self::Replicas => &[PGPOOL, FLAUTINO],
        }
    }

    /// What its table is headed by.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nodes => "a read by the number of nodes, 16 tasks",
            Self::Tasks => "a read by the number of tasks at once, a pool of 16",
            Self::Statements => "a read by the number of texts, 16 tasks",
            Self::Waiting => "memory by the number of tasks that wait for a connection",
            Self::Connections => "memory by the number of idle connections",
            Self::Replicas => "memory by the number of replicas (flautino) or pools (pgpool)",
        }
    }

    /// The figure that is drawn, with its title.
    pub(super) fn drawn(self) -> (&'static str, &'static str) {
        match self {
            Self::Nodes | Self::Tasks | Self::Statements => {
                ("cpu_us_per_read", "µs of CPU of the process a read")
            }
            Self::Waiting | Self::Connections | Self::Replicas => ("kb", "kB"),
        }
    }

    pub(super) fn across(self) -> Across {
        let (name, base) = match self {
            Self::Nodes => ("nodes", 2.0),
            Self::Tasks => ("tasks", 10.0),
            Self::Statements => ("texts", 10.0),
            Self::Waiting => ("tasks that wait", 10.0),
            Self::Connections => ("idle connections", 10.0),
            Self::Replicas => ("replicas", 2.0),
        };
        Across { name, base }
    }

    /// A round.
    pub(super) async fn measure(
        self,
        subject: Subject,
        count: u32,
        milliseconds: u64,
        world: &World,
    ) -> Result<Figures, BoxError> {
        let (tasks, texts) = match self {
            Self::Tasks => (count, 1),
            Self::Statements => (TASKS, count),
            Self::Nodes => (TASKS, 1),
            Self::Waiting => return hold(subject, Held::Waiting, count, world).await,
            Self::Connections => return hold(subject, Held::Connections, count, world).await,
            Self::Replicas => return hold(subject, Held::Replicas, count, world).await,
        };
        let replicas = match subject {
            FLAUTINO => count - 1,
            TWO => 2,
            _ => 0,
        };
        let mut arguments = vec![
            "growth-reads".to_owned(),
            subject.variant.name(),
            format!("--pool={POOL_SIZE}"),
            format!("--tasks={tasks}"),
            format!("--texts={texts}"),
            format!("--milliseconds={milliseconds}"),
        ];
        if self == Self::Nodes {
            arguments.push("--rests".to_owned());
        }
        arguments.extend(world.urls(replicas));
        let cost: Cost = answer(arguments).await?;
        let per_read = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(cost.reads.max(1));
        let mut figures = vec![
            ("cpu_us_per_read", per_read(cost.cpu)),
            ("us_per_read", per_read(cost.elapsed)),
            (CONNECTIONS, cost.connections.into()),
        ];
        if let Some(at_rest) = cost.at_rest {
            figures.push(("idle_cpu_us_per_second", at_rest * 1e6));
        }
        Ok(figures)
    }
}

async fn hold(
    subject: Subject,
    held: Held,
    count: u32,
    world: &World,
) -> Result<Figures, BoxError> {
    let mut arguments = vec![
        "growth-held".to_owned(),
        subject.variant.name(),
        held.name(),
        format!("--count={count}"),
    ];
    let replicas = if held == Held::Replicas { count + 1 } else { 0 };
    arguments.extend(world.urls(replicas));
    let kb: u32 = answer(arguments).await?;
    Ok(vec![("kb", kb.into()), ("bytes_each", f64::from(kb) * 1024.0 / f64::from(count))])
}

/// What a child answers that takes no orders.
async fn answer<T: serde::de::DeserializeOwned>(arguments: Vec<String>) -> Result<T, BoxError> {
    let mut child = Child::start(&arguments)?;
    let answer = child.answer(2 * CHILD_TIMEOUT).await?;
    child.end().await?;
    Ok(answer)
}
