//! Clients that read one row after the other without a pause: a closed loop.

use std::future::pending;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::http::Client;
use crate::child::{answer, orders};
use crate::error::BoxError;

/// How many significant digits of a latency are kept.
const SIGNIFICANT_DIGITS: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    clients: u32,
    #[arg(long)]
    milliseconds: u64,
}

/// The result of a round.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) requests: u32,
    pub(crate) failures: u32,
    /// The message of the first failure.
    pub(crate) failure: Option<String>,
    /// Until the last response.
    pub(crate) elapsed: Duration,
    /// Percentiles of the latency, in µs.
    pub(crate) p50: u32,
    pub(crate) p99: u32,
    pub(crate) p999: u32,
}

/// Connects all clients, says that it is ready, and begins when it is told to. Connections stay open
/// until the process ends, so that a round's end costs the app nothing.
pub(crate) async fn run(options: &Options) -> Result<(), BoxError> {
    let mut orders = orders();
    let mut clients = Vec::new();
    for _ in 0..options.clients {
        let mut client = Client::connect(options.address).await?;
        client.read_row().await?;
        clients.push(client);
    }
    answer(&"ready")?;
    orders.recv().await.ok_or("there is no order to begin")?;

    let started = Instant::now();
    let end = started + Duration::from_millis(options.milliseconds);
    let running: JoinSet<_> = clients.into_iter().map(|client| read_until(end, client)).collect();
    let ended = running.join_all().await;
    answer(&outcome(&ended, started.elapsed())?)?;
    pending::<()>().await;
    Ok(())
}

/// One client's round.
#[derive(Debug)]
struct Round {
    /// In µs.
    latencies: Vec<u64>,
    failures: Vec<String>,
    client: Client,
}

async fn read_until(end: Instant, client: Client) -> Round {
    let mut round = Round { latencies: Vec::with_capacity(4096), failures: Vec::new(), client };
    let mut begun = Instant::now();
    while begun < end {
        let read = round.client.read_row().await;
        let now = Instant::now();
        let latency = now.duration_since(begun).as_micros();
        round.latencies.push(u64::try_from(latency).unwrap_or(u64::MAX));
        if let Err(failure) = read {
            round.failures.push(failure.to_string());
        }
        begun = now;
    }
    round
}

fn outcome(rounds: &[Round], elapsed: Duration) -> Result<Outcome, BoxError> {
    let mut latencies = Histogram::<u64>::new(SIGNIFICANT_DIGITS)?;
    for latency in rounds.iter().flat_map(|round| &round.latencies) {
        latencies.record(*latency)?;
    }
    let mut failures = rounds.iter().flat_map(|round| &round.failures);
    let failure = failures.next().cloned();
    let failed = failures.count() + usize::from(failure.is_some());
    let quantile = |quantile| u32::try_from(latencies.value_at_quantile(quantile));
    Ok(Outcome {
        requests: latencies.len().try_into()?,
        failures: failed.try_into()?,
        failure,
        elapsed,
        p50: quantile(0.5)?,
        p99: quantile(0.99)?,
        p999: quantile(0.999)?,
    })
}
