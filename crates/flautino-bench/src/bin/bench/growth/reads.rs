//! A child that reads, and says what that cost its process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use nix::time::ClockId;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::source::Source;
use crate::app::statements::READ;
use crate::child::{CHILD_TIMEOUT, answer, orders};
use crate::error::BoxError;
use crate::variant::Variant;
use crate::world::ROWS;

/// After `open`, before its own CPU time is looked at.
const AFTER_OPEN: Duration = Duration::from_millis(200);
/// How often a condition that is waited for is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct Options {
    variant: Variant,
    /// The primary first.
    urls: Vec<String>,
    #[arg(long)]
    pool: u32,
    #[arg(long)]
    tasks: u32,
    #[arg(long)]
    texts: u32,
    #[arg(long)]
    milliseconds: u64,
    /// Measures also what is used while nothing is read.
    #[arg(long)]
    rests: bool,
}

/// What reads have cost.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cost {
    pub(super) reads: u32,
    pub(super) elapsed: Duration,
    /// Of all threads of the process, in user space and in the kernel.
    pub(super) cpu: Duration,
    /// How many connections the pools have at the end.
    pub(super) connections: u32,
    /// The share of a core that is used while nothing is read.
    pub(super) at_rest: Option<f64>,
}

pub(crate) async fn reads(options: Options) -> Result<(), BoxError> {
    let Options { variant, urls, pool, tasks, texts, milliseconds, rests } = options;
    let length = Duration::from_millis(milliseconds);
    let mut orders = orders();
    let source = Source::open(variant, pool, &urls).await?;
    let at_rest = if rests { Some(at_rest(2 * length).await?) } else { None };
    let texts: Arc<[&'static str]> = (0..texts).map(text).collect();
    let done = Arc::new(AtomicU32::new(0));
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let (source, texts, done) = (source.clone(), Arc::clone(&texts), Arc::clone(&done));
        running.spawn(async move {
            let id = i32::try_from(task)? % ROWS;
            loop {
                source.read(texts[fastrand::usize(..texts.len())], id).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let measuring = async {
        // Until connections are made, statements are prepared, and each task has had its turn.
        tokio::time::sleep(length).await;
        until_served(&source, &done, tasks).await?;
        let (before, began, used) = (done.load(Ordering::Relaxed), Instant::now(), cpu_time()?);
        tokio::time::sleep(length).await;
        let (after, elapsed, cpu) =
            (done.load(Ordering::Relaxed), began.elapsed(), cpu_time()? - used);
        let connections = source.connections();
        Ok(Cost { reads: after - before, elapsed, cpu, connections, at_rest })
    };
    let cost = tokio::select! {
        cost = measuring => cost,
        Some(failure) = running.join_next() => Err(read_failed(failure)),
    };
    answer(&cost?)?;
    // The tasks go on until the process ends.
    while orders.recv().await.is_some() {}
    Ok(())
}

/// Waits until every node has served a read, and as many reads have ended as there are tasks.
async fn until_served(source: &Source, done: &AtomicU32, tasks: u32) -> Result<(), BoxError> {
    let serving = async {
        while !source.has_served() || done.load(Ordering::Relaxed) < tasks {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let served = tokio::time::timeout(CHILD_TIMEOUT, serving).await;
    served.map_err(|_| format!("not all nodes serve reads after {CHILD_TIMEOUT:?}").into())
}

/// The share of a core that the process takes by itself.
async fn at_rest(length: Duration) -> Result<f64, BoxError> {
    tokio::time::sleep(AFTER_OPEN).await;
    let (began, used) = (Instant::now(), cpu_time()?);
    tokio::time::sleep(length).await;
    Ok((cpu_time()? - used).as_secs_f64() / began.elapsed().as_secs_f64())
}

/// The CPU time of this process so far. `/proc` counts in hundredths of a second, which is too coarse for a
/// monitor at rest.
fn cpu_time() -> Result<Duration, BoxError> {
    Ok(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?.into())
}

/// Another text for each number. It lives as long as the process, so that no copy of it is made for a read.
fn text(number: u32) -> &'static str {
    Box::leak(format!("{READ} AND id <> -{number} - 1").into_boxed_str())
}

fn read_failed(ended: Result<Result<(), BoxError>, tokio::task::JoinError>) -> BoxError {
    match ended.map_err(BoxError::from).flatten() {
        Ok(()) => "a task has ended".into(),
        Err(failure) => format!("a read failed: {failure}").into(),
    }
}
