//! How each variant is opened: as its documentation says, and all with pools of one size.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use flautino::{Engine, EngineConfig, NodeConfig};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio_postgres::NoTls;

use super::dedicated::Dedicated;
use crate::error::BoxError;
use crate::world::REPLICA;

/// `ping` is sqlx's own default.
pub(crate) async fn pgpool(url: &str, size: u32, ping: bool) -> Result<PgPool, BoxError> {
    let options = PgPoolOptions::new().max_connections(size).test_before_acquire(ping);
    Ok(options.connect(url).await?)
}

pub(super) async fn dedicated(url: &str, size: u32) -> Result<Dedicated, BoxError> {
    let mut connections = Vec::new();
    for _ in 0..size {
        connections.push(PgConnection::connect(url).await?);
    }
    Ok(Dedicated::new(connections))
}

pub(super) fn deadpool(url: &str, size: u32) -> Result<Pool, BoxError> {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(url.parse()?, NoTls, config);
    Ok(Pool::builder(manager).max_size(size.try_into()?).build()?)
}

/// A recorder that nobody scrapes: it puts away what histograms have gathered, as after a scrape.
#[cfg(feature = "metrics")]
pub(super) fn recorder() -> Result<(), BoxError> {
    const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
    let builder = metrics_exporter_prometheus::PrometheusBuilder::new()
        .set_buckets(&flautino::metrics::BUCKETS)?;
    let recorder = builder.install_recorder()?;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            recorder.run_upkeep();
        }
    });
    Ok(())
}

/// `size` is for each node.
pub(crate) async fn flautino(
    url: &str,
    size: u32,
    replicas: Vec<String>,
) -> Result<Engine, BoxError> {
    let mut config = EngineConfig::from_url(url)?;
    config.extensions.clear();
    config.pool.max_connections = size;
    // As long as in sqlx's pool, so that as many may wait on a busy machine.
    config.pool.acquire_timeout = Duration::from_secs(30);
    for (number, url) in replicas.into_iter().enumerate() {
        let node = NodeConfig { url: Some(url), ..NodeConfig::default() };
        config.extra_nodes.insert(format!("{REPLICA}{number}"), node);
    }
    let engine = Engine::new(config)?;
    engine.open().await?;
    Ok(engine)
}
