//! A child that holds something, and says how much memory that takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use flautino::{Engine, NodeConfig};
use flautino_bench::resident_kb;
use sqlx::{Executor, PgPool};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::source::Source;
use crate::app::open;
use crate::app::statements::{self, READ};
use crate::child::{CHILD_TIMEOUT, answer};
use crate::error::BoxError;
use crate::variant::Variant;
use crate::world::REPLICA;

/// How often a condition that is waited for is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Held {
    Waiting,
    Connections,
    Replicas,
}

impl Held {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    variant: Variant,
    held: Held,
    /// The primary first.
    urls: Vec<String>,
    #[arg(long)]
    count: u32,
}

/// Sends the run the resident memory that is added, in kB.
pub(crate) async fn held(options: Options) -> Result<(), BoxError> {
    let Options { variant, held, urls, count } = options;
    let added = match held {
        Held::Waiting => waiting(variant, &urls, count).await?,
        Held::Connections => connections(variant, &urls, count).await?,
        Held::Replicas => replicas(variant, &urls, count).await?,
    };
    answer(&added)
}

/// Tasks that read, while the only connection is taken.
async fn waiting(variant: Variant, urls: &[String], count: u32) -> Result<u32, BoxError> {
    let source = Source::open(variant, 1, urls).await?;
    source.read(READ, 0).await?;
    let _taken = Taken::from(&source).await?;
    let begun = Arc::new(AtomicU32::new(0));
    let before = resident_kb("self")?;
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (source, begun) = (source.clone(), Arc::clone(&begun));
        tasks.spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            source.read(READ, 0).await
        });
    }
    let all_begun = async {
        while begun.load(Ordering::Relaxed) < count {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(CHILD_TIMEOUT, all_begun).await?;
    let after = resident_kb("self")?;
    match tasks.try_join_next() {
        None => Ok(after.saturating_sub(before)),
        Some(ended) => Err(format!("a task did not wait: {ended:?}").into()),
    }
}

/// Connections of one pool, idle in the end.
async fn connections(variant: Variant, urls: &[String], count: u32) -> Result<u32, BoxError> {
    // One is there before, so that what the first one brings with it is not counted.
    let source = Source::open(variant, count + 1, urls).await?;
    source.read(READ, 0).await?;
    let before = resident_kb("self")?;
    let all = count + 1;
    let barrier = Arc::new(Barrier::new(usize::try_from(all)?));
    let mut tasks = JoinSet::new();
    for _ in 0..all {
        let (source, barrier) = (source.clone(), Arc::clone(&barrier));
        tasks.spawn(async move {
            let mut taken = Taken::from(&source).await?;
            taken.read().await?;
            // No connection serves two of them.
            barrier.wait().await;
            Ok::<_, BoxError>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(resident_kb("self")?.saturating_sub(before))
}

/// Replicas of an engine that has one already, or pools beside one, with a connection each.
async fn replicas(variant: Variant, urls: &[String], count: u32) -> Result<u32, BoxError> {
    let most = usize::try_from(count)? + 2;
    let urls = urls.get(..most).ok_or("there are too few URLs")?;
    if variant == Variant::Pgpool {
        let first = open::pgpool(&urls[1], 1, true).await?;
        statements::read(&first, 0).await?;
        let before = resident_kb("self")?;
        let mut pools: Vec<PgPool> = Vec::new();
        for url in &urls[2..] {
            let pool = open::pgpool(url, 1, true).await?;
            statements::read(&pool, 0).await?;
            pools.push(pool);
        }
        return Ok(resident_kb("self")?.saturating_sub(before));
    }
    let engine = open::flautino(&urls[0], 1, vec![urls[1].clone()]).await?;
    read_everywhere(&engine).await?;
    let before = resident_kb("self")?;
    let nodes = urls[1..].iter().enumerate().map(|(number, url)| {
        let node = NodeConfig { url: Some(url.clone()), ..NodeConfig::default() };
        (format!("{REPLICA}{number}"), node)
    });
    engine.set_nodes(nodes.collect::<BTreeMap<_, _>>()).await?;
    read_everywhere(&engine).await?;
    Ok(resident_kb("self")?.saturating_sub(before))
}

/// Reads from each node by its name.
async fn read_everywhere(engine: &Engine) -> Result<(), BoxError> {
    for node in engine.status().nodes {
        statements::read(&engine.handle().node(&node.name)?, 0).await?;
    }
    Ok(())
}

/// A connection that nobody else has.
enum Taken {
    OfPool(sqlx::pool::PoolConnection<sqlx::Postgres>),
    OfEngine(Box<flautino::Lease>),
}

impl Taken {
    async fn from(source: &Source) -> Result<Self, BoxError> {
        match source {
            Source::Pool(pool) => Ok(Self::OfPool(pool.acquire().await?)),
            Source::Engine(engine) => {
                Ok(Self::OfEngine(Box::new(engine.handle().acquire().await?)))
            }
        }
    }

    async fn read(&mut self) -> Result<(), BoxError> {
        let query = sqlx::query(READ).bind(0);
        match self {
            Self::OfPool(connection) => (&mut **connection).fetch_one(query).await?,
            Self::OfEngine(lease) => (&mut **lease).fetch_one(query).await?,
        };
        Ok(())
    }
}
