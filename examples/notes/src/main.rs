//! The example server: notes over a primary and two streaming replicas.
//!
//! Run with `cargo run -p notes`. It starts a throwaway cluster of its own and removes it on
//! Ctrl-C, SIGTERM or SIGHUP; with `DATABASE_URL` or `FLAUTINO_CONF` it uses that database instead.
//! `PORT` says where it listens: 3000 by default, 0 for any free port. `/metrics` is for Prometheus; with
//! `OTEL_EXPORTER_OTLP_ENDPOINT` traces go there.

mod error;
mod faults;
mod load;
mod notes;
mod telemetry;

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use flautino::{Access, Engine, EngineConfig, NodeConfig};
use flautino_axum::EngineLayer;
use flautino_cluster::Cluster;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::telemetry::Telemetry;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let outcome = match Telemetry::start() {
        Ok(telemetry) => {
            let outcome = run(&telemetry).await;
            telemetry.stop().await;
            outcome
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("notes: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(telemetry: &Telemetry) -> Result<(), Box<dyn Error>> {
    // Listened to before anything starts, so that no signal is missed.
    let mut stop = stop_signal()?;
    let listener = bind().await?;
    // A signal while the cluster starts drops `prepare`, which removes what there is of the cluster.
    let (cluster, engine) = tokio::select! {
        prepared = prepare() => prepared?,
        () = &mut stop => return Ok(()),
    };

    let cluster = cluster.map(Arc::new);
    let mut app = Router::new()
        .merge(notes::routes())
        .layer(EngineLayer::new(engine.clone()).server_timing(true))
        .merge(flautino_axum::status_routes(engine.clone()))
        .merge(faults::front_page());
    if let Some(cluster) = &cluster {
        app = app.merge(faults::routes(Arc::clone(cluster), engine.clone()));
    }

    let app = telemetry.around(app);

    let mut text = format!("listening on http://127.0.0.1:{}\n", listener.local_addr()?.port());
    for node in engine.status().nodes {
        writeln!(text, "  {:<16} {}:{} {:?}", node.name, node.host, node.port, node.role)?;
    }
    if let Some(cluster) = &cluster {
        writeln!(text, "  try: psql {}", cluster.primary().url())?;
    }
    // Whoever started the server may read the first line only and close the pipe: no reason to stop.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let report = flautino_axum::serve(listener, app, engine).with_shutdown(stop).await?;
    eprintln!("stopped: {report:?}");
    // The app is gone by now, and with it the last other user of the cluster.
    if let Some(cluster) = cluster.and_then(Arc::into_inner) {
        cluster.stop().await;
    }
    Ok(())
}

/// Listens from now on, and is ready at the first SIGTERM or Ctrl-C, or when the terminal is closed.
fn stop_signal() -> std::io::Result<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    }))
}

async fn bind() -> Result<TcpListener, Box<dyn Error>> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let port: u16 = port.parse().map_err(|_| format!("PORT is \"{port}\"; expected 0 to 65535"))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    Ok(listener.map_err(|err| {
        format!("cannot listen on 127.0.0.1:{port}: {err}; PORT=0 takes a free port")
    })?)
}

/// Opens an engine over the configured database, else over a cluster that it starts.
async fn prepare() -> Result<(Option<Cluster>, Engine), Box<dyn Error>> {
    let configured = ["DATABASE_URL", "FLAUTINO_CONF"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|value| !value.is_empty()));
    let (cluster, config) = if configured {
        (None, EngineConfig::find()?)
    } else {
        let cluster = Cluster::builder().replicas(2).start().await?;
        let config = config_of(&cluster)?;
        (Some(cluster), config)
    };
    let engine = Engine::new(config)?;
    engine.open().await?;
    engine.migrate(&sqlx::migrate!()).await?;
    if cluster.is_some() {
        // So that the first read already goes to a replica: before the engine has looked at what the migrations
        // made, none does.
        let looked_at = async {
            while engine.access("SELECT title FROM notes") == Access::Write {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), looked_at).await;
    }
    Ok((cluster, engine))
}

fn config_of(cluster: &Cluster) -> Result<EngineConfig, Box<dyn Error>> {
    let mut config = EngineConfig::from_url(&cluster.primary().url())?;
    config.main.application_name = Some("notes".to_owned());
    for index in 0..2 {
        let replica = NodeConfig {
            url: Some(cluster.replica(index).url()),
            application_name: Some("notes".to_owned()),
            ..NodeConfig::default()
        };
        config.extra_nodes.insert(format!("read_replica_{}", index + 1), replica);
    }
    Ok(config)
}
