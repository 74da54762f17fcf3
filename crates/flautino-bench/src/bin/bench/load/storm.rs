//! A few clients who stay, and many who ask for something slow and leave.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout_at};

use super::http::Client;
use crate::Broken;
use crate::child::{answer, orders};

/// How many stay.
const STAYING: usize = 4;
/// How long one who leaves waits.
const STAY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    /// How many leave.
    #[arg(long)]
    leaving: u32,
    /// How long the peace lasts, and how long the storm.
    #[arg(long)]
    milliseconds: u64,
}

/// What those saw who stayed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Reads {
    /// Answers until the storm began.
    pub(crate) peace: u32,
    /// Answers since.
    pub(crate) storm: u32,
    pub(crate) failed: u32,
}

/// Says that it is ready, and begins when it is told to. Says when the storm begins, and answers with
/// [`Reads`] when the last client has left.
pub(crate) async fn run(options: &Options) -> Result<(), Broken> {
    let Options { address, leaving, milliseconds } = *options;
    let length = Duration::from_millis(milliseconds);
    let mut orders = orders();
    let mut staying = Vec::new();
    for _ in 0..STAYING {
        staying.push(Client::connect(address).await?);
    }
    answer(&"ready")?;
    orders.recv().await.ok_or("there is no order to begin")?;

    let begin = Instant::now() + length;
    let end = begin + length;
    let staying: JoinSet<_> =
        staying.into_iter().map(|client| stay(begin, end, client, address)).collect();
    sleep_until(begin).await;
    answer(&"storm")?;
    storm(address, leaving, begin, length / leaving).await?;
    let mut sum = Reads::default();
    for reads in staying.join_all().await {
        let Reads { peace, storm, failed } = reads?;
        sum.peace += peace;
        sum.storm += storm;
        sum.failed += failed;
    }
    answer(&sum)?;
    pending::<()>().await;
    Ok(())
}

/// Reads until the end, and no longer: whoever still waits for a row then leaves without it.
async fn stay(
    begin: Instant,
    end: Instant,
    mut client: Client,
    address: SocketAddr,
) -> Result<Reads, Broken> {
    let mut reads = Reads::default();
    while let Ok(read) = timeout_at(end, client.read_row()).await {
        match read {
            Ok(()) if Instant::now() < begin => reads.peace += 1,
            Ok(()) => reads.storm += 1,
            Err(_) => {
                reads.failed += 1;
                client = Client::connect(address).await?;
            }
        }
    }
    Ok(reads)
}

/// Ends when the last has left.
async fn storm(
    address: SocketAddr,
    leaving: u32,
    begin: Instant,
    pause: Duration,
) -> Result<(), Broken> {
    let mut next = interval_at(begin, pause);
    let mut running = JoinSet::new();
    for _ in 0..leaving {
        next.tick().await;
        running.spawn(async move {
            let mut client = Client::connect(address).await?;
            client.ask("/sleep").await?;
            sleep(STAY).await;
            Ok::<_, std::io::Error>(())
        });
    }
    for left in running.join_all().await {
        left?;
    }
    Ok(())
}
