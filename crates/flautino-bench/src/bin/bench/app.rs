//! An app process: one variant, served over HTTP, or read from by many tasks at once.

mod dedicated;
pub(crate) mod open;
mod routes;
mod source;
pub(crate) mod statements;

use std::time::{Duration, Instant};

use axum::Router;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use self::source::Reader;
use crate::child::{answer, orders};
use crate::error::BoxError;
use crate::variant::Variant;
use crate::world::ROWS;

#[derive(Debug, Args)]
pub(crate) struct Options {
    variant: Variant,
    /// How many connections to a server the pool may have.
    #[arg(long)]
    pool: u32,
    #[arg(long)]
    primary: String,
    #[arg(long)]
    replica: Vec<String>,
}

/// The result of many reads at once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Burst {
    pub(crate) failures: u32,
    /// From the first task's start to the last task's end.
    pub(crate) elapsed: Duration,
}

/// Opens what the variant needs, says where it listens, and serves. On the order `burst N` it runs a
/// [`Burst`], and sends its result.
pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let Options { variant, pool, primary, replica } = options;
    let orders = orders();
    match variant {
        Variant::Pgpool | Variant::PgpoolNoPing => {
            let pool = open::pgpool(&primary, pool, variant == Variant::Pgpool).await?;
            serve(pool.clone(), routes::over(pool), orders).await
        }
        Variant::Dedicated => {
            let connections = open::dedicated(&primary, pool).await?;
            serve(connections.clone(), routes::over(connections), orders).await
        }
        Variant::Deadpool => {
            let pool = open::deadpool(&primary, pool)?;
            serve(pool.clone(), routes::over(pool), orders).await
        }
        Variant::AxumSqlxTx => {
            let pool = open::pgpool(&primary, pool, true).await?;
            serve(pool.clone(), routes::through_axum_sqlx_tx(pool), orders).await
        }
        Variant::FlautinoOne | Variant::FlautinoTwo | Variant::FlautinoWatched => {
            serve_flautino(&primary, pool, replica, orders).await
        }
        #[cfg(feature = "metrics")]
        Variant::FlautinoMetrics => {
            open::recorder()?;
            serve_flautino(&primary, pool, replica, orders).await
        }
    }
}

async fn serve_flautino(
    primary: &str,
    pool: u32,
    replicas: Vec<String>,
    orders: UnboundedReceiver<String>,
) -> Result<(), BoxError> {
    let engine = open::flautino(primary, pool, replicas).await?;
    let status = flautino_axum::status_routes(engine.clone());
    serve(engine.clone(), routes::through_layer(engine).merge(status), orders).await
}

async fn serve<S: Reader>(
    source: S,
    router: Router,
    mut orders: UnboundedReceiver<String>,
) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    answer(&listener.local_addr()?)?;
    let server = tokio::spawn(async { axum::serve(listener, router).await });
    while let Some(order) = orders.recv().await {
        let tasks = order.strip_prefix("burst ").ok_or("unknown order")?.parse()?;
        answer(&burst(&source, tasks).await)?;
    }
    server.abort();
    Ok(())
}

/// Runs so many tasks at once, each of which reads one row.
async fn burst<S: Reader>(source: &S, tasks: i32) -> Burst {
    let started = Instant::now();
    let reads = (0..tasks).map(|number| {
        let source = source.clone();
        async move { source.read(number % ROWS).await }
    });
    let mut failures = 0;
    let mut running: JoinSet<_> = reads.collect();
    while let Some(ended) = running.join_next().await {
        if let Err(failure) = ended.map_err(BoxError::from).flatten() {
            if failures == 0 {
                eprintln!("the first failure: {failure}");
            }
            failures += 1;
        }
    }
    Burst { failures, elapsed: started.elapsed() }
}
