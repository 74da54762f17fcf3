//! Reads one row again and again, one read after the other, so that callgrind can count what a read costs.
//!
//! With `--toggle-collect=warm_reads::counted` it counts the reads alone: neither the start nor what else
//! the runtime does.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
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
use tokio::runtime::Builder;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tower::ServiceExt;

type ReadResult = Result<(), sqlx::Error>;

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

/// Polls a read, in a function of its own, so that `--toggle-collect` finds it.
#[inline(never)]
fn counted(
    read: Pin<&mut dyn Future<Output = ReadResult>>,
    context: &mut Context<'_>,
) -> Poll<ReadResult> {
    read.poll(context)
}

/// A read that is counted.
async fn count(read: impl Future<Output = ReadResult>) -> ReadResult {
    let mut read = pin!(read);
    poll_fn(|context| counted(read.as_mut(), context)).await
}

async fn read(executor: impl PgExecutor<'_>) -> ReadResult {
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

async fn request(router: &Router) -> ReadResult {
    let answered = router.clone().oneshot(Request::new(Body::empty())).await;
    let status = answered.map_or_else(|never| match never {}, |response| response.status());
    if status == StatusCode::OK { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}

/// Runs so many reads in so many tasks.
async fn share<F>(
    reads: u32,
    tasks: u32,
    read: impl Fn() -> F + Clone + Send + 'static,
) -> Result<(), Box<dyn Error>>
where
    F: Future<Output = ReadResult> + Send,
{
    let mut running: JoinSet<ReadResult> = JoinSet::new();
    for _ in 0..tasks {
        let read = read.clone();
        running.spawn(async move {
            for _ in 0..reads / tasks {
                count(read()).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

/// What the reads go through, ready for them.
enum Subject {
    Bare(PgConnection),
    Mutex(Arc<Mutex<PgConnection>>),
    Engine(Engine),
    Router(Router),
}

impl Subject {
    fn new(through: Through, bare: PgConnection, engine: &Engine) -> Self {
        match through {
            Through::Bare => Self::Bare(bare),
            Through::Mutex => Self::Mutex(Arc::new(Mutex::new(bare))),
            Through::Engine => Self::Engine(engine.clone()),
            Through::Route => {
                let state = Arc::new(Mutex::new(bare));
                Self::Router(Router::new().route("/", get(read_bare)).with_state(state))
            }
            Through::Layer => {
                let layer = EngineLayer::new(engine.clone());
                Self::Router(Router::new().route("/", get(read_through_layer)).layer(layer))
            }
        }
    }

    /// The first read, which prepares the statement, is not counted.
    async fn read_once(&mut self) -> ReadResult {
        match self {
            Self::Bare(connection) => read(&mut *connection).await,
            Self::Mutex(connection) => read(&mut *connection.lock().await).await,
            Self::Engine(engine) => read(&engine.handle()).await,
            Self::Router(router) => request(router).await,
        }
    }

    async fn read(&mut self, reads: u32, tasks: u32) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Bare(connection) => {
                for _ in 0..reads {
                    count(read(&mut *connection)).await?;
                }
            }
            Self::Mutex(connection) => {
                let connection = Arc::clone(connection);
                share(reads, tasks, move || {
                    let connection = Arc::clone(&connection);
                    async move { read(&mut *connection.lock().await).await }
                })
                .await?;
            }
            Self::Engine(engine) => {
                let engine = engine.clone();
                share(reads, tasks, move || {
                    let db = engine.handle();
                    async move { read(&db).await }
                })
                .await?;
            }
            Self::Router(router) => {
                for _ in 0..reads {
                    count(request(router)).await?;
                }
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { through, reads, primary, replica, tasks } = Arguments::parse();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let bare = runtime.block_on(PgConnection::connect(&primary))?;
    let mut config = EngineConfig::from_url(&primary)?;
    config.extensions.clear();
    config.pool.max_connections = 1;
    // As in a release build.
    config.log_repeated = 0;
    // All this takes its time under callgrind.
    config.routing.max_lag = Duration::from_secs(60);
    config.routing.token_window = Duration::from_secs(60);
    config.routing.probe_timeout = Duration::from_secs(60);
    config.pool.warm_time = Duration::from_secs(60);
    if let Some(url) = replica {
        let node = NodeConfig { url: Some(url), ..NodeConfig::default() };
        config.extra_nodes.insert("replica".to_owned(), node);
    }
    let engine = Engine::new(config)?;
    runtime.block_on(engine.open())?;
    let mut subject = Subject::new(through, bare, &engine);
    runtime.block_on(subject.read_once())?;
    runtime.block_on(subject.read(reads, tasks))?;
    runtime.block_on(engine.close());
    Ok(())
}
