//! Reads one row again and again, one read after the other, so that callgrind can count what a read costs.
//!
//! The cost of one read is the difference of two runs, divided by the difference of their numbers of
//! reads; so what the start costs does not count.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use clap::{Parser, ValueEnum};
use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_axum::{Db, EngineLayer};
use sqlx::{Connection, PgConnection, PgExecutor};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tower::ServiceExt;

const READ: &str = "SELECT n FROM counters WHERE id = $1";

#[derive(Debug, Parser)]
#[command(name = "warm_reads")]
struct Arguments {
    through: Through,
    /// How many reads.
    reads: u32,
    #[arg(long)]
    primary: String,
    #[arg(long)]
    replica: Option<String>,
    /// How many tasks share the reads and, through `engine` and `mutex`, one connection to each node.
    #[arg(long, default_value_t = 1)]
    tasks: u32,
}

/// What the reads go through.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Through {
    /// sqlx's connection.
    Bare,
    /// The same, behind a mutex that all tasks wait for.
    Mutex,
    /// The same, in axum's router.
    Route,
    /// An engine over the nodes that are named, with a handle of its own for each read.
    Engine,
    /// The same, in axum's router, through the layer.
    Layer,
}

async fn read(executor: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query_scalar::<_, i32>(READ).bind(1).fetch_one(executor).await.map(drop)
}

async fn read_bare(State(connection): State<Arc<Mutex<PgConnection>>>) -> StatusCode {
    status(&read(&mut *connection.lock().await).await)
}

async fn read_through_layer(db: Db) -> StatusCode {
    status(&read(&db).await)
}

fn status(result: &Result<(), sqlx::Error>) -> StatusCode {
    if result.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}

async fn request(router: &Router) -> Result<(), Box<dyn Error>> {
    let response = router.clone().oneshot(Request::new(Body::empty())).await?;
    if response.status() == StatusCode::OK { Ok(()) } else { Err("the request failed".into()) }
}

/// Runs so many reads in so many tasks.
async fn share<F>(
    reads: u32,
    tasks: u32,
    read: impl Fn() -> F + Clone + Send + 'static,
) -> Result<(), Box<dyn Error>>
where
    F: Future<Output = Result<(), sqlx::Error>> + Send,
{
    let mut running: JoinSet<Result<(), sqlx::Error>> = JoinSet::new();
    for _ in 0..tasks {
        let read = read.clone();
        running.spawn(async move {
            for _ in 0..reads / tasks {
                read().await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { through, reads, primary, replica, tasks } = Arguments::parse();
    let mut bare = PgConnection::connect(&primary).await?;
    let mut config = EngineConfig::from_url(&primary)?;
    config.extensions.clear();
    config.pool.max_connections = 1;
    // The monitor's own work would count too.
    config.routing.probe_interval = Duration::from_secs(60);
    if let Some(url) = replica {
        let node = NodeConfig { url: Some(url), ..NodeConfig::default() };
        config.extra_nodes.insert("replica".to_owned(), node);
    }
    let engine = Engine::new(config)?;
    engine.open().await?;
    match through {
        Through::Bare => {
            for _ in 0..reads {
                read(&mut bare).await?;
            }
        }
        Through::Mutex => {
            let connection = Arc::new(Mutex::new(bare));
            share(reads, tasks, move || {
                let connection = Arc::clone(&connection);
                async move { read(&mut *connection.lock().await).await }
            })
            .await?;
        }
        Through::Engine => {
            let engine = engine.clone();
            share(reads, tasks, move || {
                let db = engine.handle();
                async move { read(&db).await }
            })
            .await?;
        }
        Through::Route => {
            let state = Arc::new(Mutex::new(bare));
            let router = Router::new().route("/", get(read_bare)).with_state(state);
            for _ in 0..reads {
                request(&router).await?;
            }
        }
        Through::Layer => {
            let layer = EngineLayer::new(engine.clone());
            let router = Router::new().route("/", get(read_through_layer)).layer(layer);
            for _ in 0..reads {
                request(&router).await?;
            }
        }
    }
    engine.close().await;
    Ok(())
}
