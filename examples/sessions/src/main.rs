//! Logins whose session is read from a replica, as soon as the replica has it.
//!
//! Run with `cargo run -p sessions`. It starts a throwaway cluster with one replica, and removes it on Ctrl-C. Ask it:
//! `curl -b jar -c jar -X POST localhost:3000/login/ada`, and then `curl -b jar -c jar localhost:3000`.

use std::{error::Error, time::Duration};

use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_cluster::Cluster;
use sessions::{Store, TABLE, app};
use tokio::{net::TcpListener, time::interval};
use tower_sessions::session_store::ExpiredDeletion;

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
    let store = Store(engine.handle());
    let cleaning = tokio::spawn(async move {
        let mut each_minute = interval(Duration::from_secs(60));
        loop {
            each_minute.tick().await;
            if let Err(error) = store.delete_expired().await {
                eprintln!("expired sessions are left for the next time: {error}");
            }
        }
    });
    println!("listening on http://{}", listener.local_addr()?);
    flautino_axum::serve(listener, app(&engine), engine).await?;
    cleaning.abort();
    cluster.stop().await;
    Ok(())
}
