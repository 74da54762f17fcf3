//! A few clients who stay, and many who ask for something slow and leave.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, timeout_at};

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
    pub(crate) answered: u32,
    pub(crate) failed: u32,
}

/// Says that it is ready, and begins when it is told to. Answers [`Reads`] twice: when the peace is
/// over, and when the storm is and the last client has left.
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

    let (peace, staying) = all_read(staying, Instant::now() + length, address).await?;
    answer(&peace)?;
    let begun = Instant::now();
    let storm = tokio::spawn(storm(address, leaving, begun, length / leaving));
    let (reads, staying) = all_read(staying, begun + length, address).await?;
    // Whoever still waits for a read leaves too.
    drop(staying);
    storm.await??;
    answer(&reads)?;
    pending::<()>().await;
    Ok(())
}

async fn all_read(
    clients: Vec<Client>,
    end: Instant,
    address: SocketAddr,
) -> Result<(Reads, Vec<Client>), Broken> {
    let reading: JoinSet<_> =
        clients.into_iter().map(|client| read_until(end, client, address)).collect();
    let (mut sum, mut clients) = (Reads::default(), Vec::new());
    for read in reading.join_all().await {
        let (reads, client) = read?;
        sum.answered += reads.answered;
        sum.failed += reads.failed;
        clients.push(client);
    }
    Ok((sum, clients))
}

/// Reads until the end, and no longer: a read that would end later does not count.
async fn read_until(
    end: Instant,
    mut client: Client,
    address: SocketAddr,
) -> Result<(Reads, Client), Broken> {
    let mut reads = Reads::default();
    while let Ok(read) = timeout_at(end, client.read_row()).await {
        match read {
            Ok(()) => reads.answered += 1,
            Err(_) => {
                reads.failed += 1;
                client = Client::connect(address).await?;
            }
        }
    }
    // Its last read may be unanswered.
    Ok((reads, Client::connect(address).await?))
}

/// Ends when the last has left.
async fn storm(
    address: SocketAddr,
    leaving: u32,
    begun: Instant,
    pause: Duration,
) -> Result<(), Broken> {
    let mut next = interval_at(begun, pause);
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
