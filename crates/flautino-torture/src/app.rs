//! One app process: an ordinary axum app over the cluster, started by the parent as a child.
//!
//! It reads its configuration as any app would, prints where it listens, and ends on SIGTERM as
//! `serve` does, or at once when its parent is gone.

mod routes;

pub(crate) use self::routes::{Failure, Work};

use std::io::Read;

use flautino::{Engine, EngineConfig};
use flautino_axum::EngineLayer;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::error::BoxError;

/// The first word of the line on stdout that names the address.
pub(crate) const LISTENING: &str = "listening";
/// The first word of the line on stdout that tells how `serve` ended.
pub(crate) const STOPPED: &str = "stopped";

/// Serves until it is told to stop. The configuration is found as [`EngineConfig::find`] does.
///
/// # Errors
///
/// When there is no configuration, or the engine does not open.
///
/// # Cancellation
///
/// Dropped, it stops serving.
pub async fn run() -> Result<(), BoxError> {
    // stdin closes when the parent ends, however it does: an app must not outlive it.
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(3);
    });
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,flautino=info,flautino_axum=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let engine = Engine::new(EngineConfig::find()?)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{LISTENING} {}", listener.local_addr()?);
    let app = routes::routes()
        .layer(EngineLayer::new(engine.clone()).server_timing(true))
        .merge(flautino_axum::status_routes(engine.clone()));
    let report = flautino_axum::serve(listener, app, engine).await?;
    println!("{STOPPED} {}", report.requests_cut);
    Ok(())
}
