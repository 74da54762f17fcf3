//! A cache that notifications keep in step, through a failover.
//!
//! Run with `cargo run -p flautino --example listen`. It starts a throwaway cluster of its own.

use std::collections::BTreeMap;
use std::error::Error;

use flautino::{Engine, EngineConfig, Event, Listener, NodeConfig};
use flautino_cluster::Cluster;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().replicas(1).start().await?;
    let mut config = EngineConfig::from_url(&cluster.primary().url())?;
    config.extensions.clear();
    let replica = NodeConfig { url: Some(cluster.replica(0).url()), ..NodeConfig::default() };
    config.extra_nodes.insert("replica".to_owned(), replica);
    let engine = Engine::new(config)?;
    engine.open().await?;
    let table = "CREATE TABLE prices (name text PRIMARY KEY, cents int)";
    sqlx::query(table).execute(&engine.handle()).await?;

    // Listened to before anything is cached, so that no change is missed.
    let mut listener = engine.listen(["prices"]).await?;
    let mut cache = BTreeMap::from([("bread".to_owned(), 0)]);
    set(&engine, "bread", 120).await?;
    hear(&mut listener, &mut cache).await;
    println!("cached: {cache:?}");

    println!("the primary is killed, and the replica takes its place");
    cluster.replica(0).catch_up_with(cluster.primary()).await?;
    cluster.primary().kill().await?;
    hear(&mut listener, &mut cache).await; // the connection is lost
    cluster.replica(0).promote().await?;
    hear(&mut listener, &mut cache).await; // it listens to the new primary
    set(&engine, "bread", 140).await?;
    hear(&mut listener, &mut cache).await;
    println!("cached: {cache:?}");

    engine.close().await;
    cluster.stop().await;
    Ok(())
}

/// Changes a price, and tells everybody: when it is committed, and not if it is rolled back.
async fn set(engine: &Engine, name: &str, cents: i32) -> Result<(), sqlx::Error> {
    let mut tx = engine.handle().begin().await?;
    let sql = "INSERT INTO prices VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET cents = $2";
    sqlx::query(sql).bind(name).bind(cents).execute(&mut tx).await?;
    let told = format!("{name}={cents}");
    sqlx::query("SELECT pg_notify('prices', $1)").bind(told).execute(&mut tx).await?;
    tx.commit().await
}

/// Brings the cache up to date with the next event.
async fn hear(listener: &mut Listener, cache: &mut BTreeMap<String, i32>) {
    match listener.next().await {
        Some(Event::Notification(told)) => {
            println!("  {} notifies: {}", told.channel(), told.payload());
            if let Some((name, cents)) = told.payload().split_once('=') {
                cache.insert(name.to_owned(), cents.parse().unwrap_or_default());
            }
        }
        _ => {
            println!("  a gap: anything may have changed");
            cache.clear();
        }
    }
}
