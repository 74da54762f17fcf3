//! A few clients that stay, and many that send a slow request and leave.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout_at};

use super::http::Client;
use crate::child::{answer, orders};
use crate::error::BoxError;

/// How many clients stay.
const STAYING: usize = 4;
/// How long a client waits before it leaves.
const STAY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    /// How many clients leave.
    #[arg(long)]
    leaving: u32,
    /// How long the peace lasts, and how long the storm, each.
    #[arg(long)]
    milliseconds: u64,
}

/// The reads of the clients that stayed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Reads {
    /// Successful ones before the storm began.
    pub(crate) peace: u32,
    /// Successful ones since.
    pub(crate) storm: u32,
    pub(crate) failed: u32,
}

/// Says that it is ready, and begins when it is told to. Says when the storm begins, and sends the
/// [`Reads`] when the last client has left.
pub(crate) async fn run(options: &Options) -> Result<(), BoxError> {
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

/// Reads until `end`. A read that has not returned by then is not waited for.
async fn stay(
    begin: Instant,
    end: Instant,
    mut client: Client,
    address: SocketAddr,
) -> Result<Reads, BoxError> {
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

/// Lets clients come and leave, evenly spread. Returns when the last one has left.
async fn storm(
    address: SocketAddr,
    leaving: u32,
    begin: Instant,
    pause: Duration,
) -> Result<(), BoxError> {
    let mut next = interval_at(begin, pause);
    let mut running = JoinSet::new();
    for _ in 0..leaving {
        next.tick().await;
        running.spawn(async move {
            let mut client = Client::connect(address).await?;
            client.send("GET", "/sleep", None).await?;
            sleep(STAY).await;
            Ok::<_, std::io::Error>(())
        });
    }
    for left in running.join_all().await {
        left?;
    }
    Ok(())
}
