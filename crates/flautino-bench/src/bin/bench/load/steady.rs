//! Clients that send one request after the other, without a pause but for those that the workload itself
//! has: a closed loop.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::http::Client;
use super::script::{Located, PAUSES, Script};
use crate::child::{answer, orders};
use crate::error::BoxError;
use crate::options::Workload;

/// How many significant digits of a latency are kept.
const SIGNIFICANT_DIGITS: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct Options {
    workload: Workload,
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
    /// The reads after each of the [`PAUSES`].
    pub(crate) reads: [Reads; PAUSES.len()],
}

/// Reads whose node is known.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Reads {
    pub(crate) all: u32,
    pub(crate) by_replicas: u32,
}

/// Connects all clients, says that it is ready, and begins when it is told to. Connections stay open
/// until the process ends, so that a round's end costs the app nothing.
pub(crate) async fn run(options: &Options) -> Result<(), BoxError> {
    let Options { workload, address, clients, milliseconds } = *options;
    let mut orders = orders();
    let mut rounds = Vec::new();
    for number in 0..i32::try_from(clients)? {
        let mut client = Client::connect(address).await?;
        // Sent by a script of its own, so that each round begins where its script does.
        let mut script = Script::new(workload, number, clients.try_into()?);
        script.next(&mut client).await?;
        rounds.push(Round::new(client, Script::new(workload, number, clients.try_into()?)));
    }
    answer(&"ready")?;
    orders.recv().await.ok_or("there is no order to begin")?;

    let started = Instant::now();
    let end = started + Duration::from_millis(milliseconds);
    let running: JoinSet<_> = rounds.into_iter().map(|round| round.until(end)).collect();
    let ended = running.join_all().await;
    answer(&outcome(&ended, started.elapsed())?)?;
    pending::<()>().await;
    Ok(())
}

/// One client's round.
#[derive(Debug)]
struct Round {
    client: Client,
    script: Script,
    /// In µs.
    latencies: Vec<u64>,
    failures: Vec<String>,
    located: Vec<Located>,
}

impl Round {
    fn new(client: Client, script: Script) -> Self {
        let latencies = Vec::with_capacity(4096);
        Self { client, script, latencies, failures: Vec::new(), located: Vec::new() }
    }

    async fn until(mut self, end: Instant) -> Self {
        loop {
            if let Some(due) = self.script.due() {
                sleep_until(due.min(end)).await;
            }
            let begun = Instant::now();
            if begun >= end {
                return self;
            }
            let served = self.script.next(&mut self.client).await;
            let latency = begun.elapsed().as_micros();
            self.latencies.push(u64::try_from(latency).unwrap_or(u64::MAX));
            match served {
                Ok(located) => self.located.extend(located),
                Err(failure) => self.failures.push(failure.to_string()),
            }
        }
    }
}

fn outcome(rounds: &[Round], elapsed: Duration) -> Result<Outcome, BoxError> {
    let mut latencies = Histogram::<u64>::new(SIGNIFICANT_DIGITS)?;
    for latency in rounds.iter().flat_map(|round| &round.latencies) {
        latencies.record(*latency)?;
    }
    let mut failures = rounds.iter().flat_map(|round| &round.failures);
    let failure = failures.next().cloned();
    let failed = failures.count() + usize::from(failure.is_some());
    let mut reads = [Reads::default(); PAUSES.len()];
    for Located { pause, by_replica } in rounds.iter().flat_map(|round| &round.located) {
        reads[*pause].all += 1;
        reads[*pause].by_replicas += u32::from(*by_replica);
    }
    let quantile = |quantile| u32::try_from(latencies.value_at_quantile(quantile));
    Ok(Outcome {
        requests: latencies.len().try_into()?,
        failures: failed.try_into()?,
        failure,
        elapsed,
        p50: quantile(0.5)?,
        p99: quantile(0.99)?,
        p999: quantile(0.999)?,
        reads,
    })
}
