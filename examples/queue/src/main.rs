//! An app that takes orders, and a worker that packs them.
//!
//! Run with `cargo run -p queue`. It starts a throwaway cluster with one replica, and removes it on Ctrl-C. Ask it:
//! `curl -X POST localhost:3000/orders/flute`, and then `curl localhost:3000/orders`.

use std::error::Error;

use apalis_postgres::PostgresStorage;
use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_cluster::Cluster;
use queue::{TABLE, app, work};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    let cluster = Cluster::builder().replicas(1).start().await?;
    cluster.primary().execute(TABLE).await?;
    let mut config = EngineConfig::from_url(&cluster.primary().url())?;
    let replica = NodeConfig { url: Some(cluster.replica(0).url()), ..NodeConfig::default() };
    config.extra_nodes.insert("read_replica_1".into(), replica);
    let engine = Engine::new(config)?;
    engine.open().await?;
    engine.migrate(&PostgresStorage::migrations()).await?;
    let worker = tokio::spawn(work(engine.clone(), "packer"));
    println!("listening on http://{}", listener.local_addr()?);
    flautino_axum::serve(listener, app(&engine), engine).await?;
    worker.await?; // ends with the engine
    cluster.stop().await;
    Ok(())
}
