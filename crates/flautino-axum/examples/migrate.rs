//! Two instances of an app that start at once, and migrate their database once.
//!
//! Run with `cargo run -p flautino-axum --features migrate --example migrate`. It starts a throwaway cluster with a
//! replica, and asks each instance as soon as it answers.

use std::error::Error;

use axum::{Router, routing::get};
use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_cluster::Cluster;
use sqlx::migrate::Migrator;
use tokio::net::TcpListener;

static MIGRATOR: Migrator = sqlx::migrate!("examples/migrations");

/// Never finds the table missing: no replica serves it before it has replayed the migrations.
async fn titles(db: Db) -> Result<String, DbError> {
    let titles: Vec<String> = sqlx::query_scalar("SELECT title FROM notes").fetch_all(&db).await?;
    Ok(format!("{titles:?}, says {}", db.served_by().unwrap_or_default()))
}

async fn instance(config: EngineConfig) -> Result<String, Box<dyn Error>> {
    let engine = Engine::new(config)?;
    let app = Router::new().route("/", get(titles)).layer(EngineLayer::new(engine.clone()));
    // Clients that come before the migrations are through wait in its queue.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let asked = async { reqwest::get(&url).await?.text().await };
    tokio::select! {
        served = flautino_axum::serve(listener, app, engine).migrate(&MIGRATOR) => {
            Err(format!("it ended: {:?}", served?).into())
        }
        asked = asked => Ok(asked?),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().replicas(1).start().await?;
    let mut config = EngineConfig::from_url(&cluster.primary().url())?;
    config.extensions.clear();
    let replica = NodeConfig { url: Some(cluster.replica(0).url()), ..NodeConfig::default() };
    config.extra_nodes.insert("replica".to_owned(), replica);
    let (one, two) = tokio::try_join!(instance(config.clone()), instance(config))?;
    println!("one: {one}\ntwo: {two}");
    cluster.stop().await;
    Ok(())
}
