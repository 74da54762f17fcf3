//! Serves an API and its OpenAPI document.
//!
//! Run with `cargo run -p openapi`. It starts a throwaway database, and removes it on Ctrl-C. Ask it:
//! `curl localhost:3000/openapi.json`, `curl -i localhost:3000/notes/1`.

use std::error::Error;

use flautino::{Engine, EngineConfig};
use flautino_cluster::Cluster;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    let cluster = Cluster::builder().start().await?;
    let table = "CREATE TABLE notes (id bigserial PRIMARY KEY, title text UNIQUE)";
    cluster.primary().execute(table).await?;
    let engine = Engine::new(EngineConfig::from_url(&cluster.primary().url())?)?;
    println!("listening on http://{}", listener.local_addr()?);
    flautino_axum::serve(listener, openapi::app(&engine), engine).await?;
    cluster.stop().await;
    Ok(())
}
