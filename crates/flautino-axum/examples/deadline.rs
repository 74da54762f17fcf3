//! A deadline for all that a request asks of the database.
//!
//! Run with `cargo run -p flautino-axum --example deadline`. It starts a throwaway server, asks for a
//! quick report and a slow one, and shows what each client is told.

use std::error::Error;
use std::time::Duration;

use axum::{Router, routing::get};
use flautino::{Engine, EngineConfig};
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_cluster::Cluster;
use tokio::net::TcpListener;

async fn quick(db: Db) -> Result<String, DbError> {
    Ok(sqlx::query_scalar("SELECT 'done'").fetch_one(&db).await?)
}

/// Is cancelled at the server when the time is over, and its connection serves on.
async fn slow(db: Db) -> Result<String, DbError> {
    sqlx::query("SELECT pg_sleep(60)").execute(&db).await?;
    Ok("done".to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().start().await?;
    let mut config = EngineConfig::from_url(&cluster.primary().url())?;
    config.extensions.clear();
    let engine = Engine::new(config)?;
    let layer = EngineLayer::new(engine.clone())
        .deadline(Duration::from_secs(1))
        // Another service may say that it waits for less.
        .deadline_header(http::HeaderName::from_static("x-timeout-ms"));
    let app = Router::new().route("/quick", get(quick)).route("/slow", get(slow)).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::select! {
        served = flautino_axum::serve(listener, app, engine) => drop(served?),
        asked = ask(&url) => asked?,
    }
    cluster.stop().await;
    Ok(())
}

async fn ask(url: &str) -> Result<(), reqwest::Error> {
    for (path, patience) in [("quick", "1000"), ("slow", "1000"), ("slow", "200")] {
        let request = reqwest::Client::new().get(format!("{url}/{path}"));
        let answer = request.header("x-timeout-ms", patience).send().await?;
        println!("/{path} within {patience} ms: {}", answer.status());
    }
    Ok(())
}
