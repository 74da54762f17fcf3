//! The front page and its buttons: faults that the demo's own cluster can make, and the load.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flautino::Engine;
use flautino_cluster::{Cluster, ClusterError, Node};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::problem;
use crate::load::Load;

/// The notes, and beside them the engine's status page.
pub(crate) fn front_page() -> Router {
    Router::new().route("/", get(async || Html(include_str!("front.html"))))
}

#[derive(Clone)]
struct Demo {
    cluster: Arc<Cluster>,
    engine: Engine,
    load: Arc<Load>,
}

/// What the buttons do, where the cluster is the demo's own.
pub(crate) fn routes(cluster: Arc<Cluster>, engine: Engine) -> Router {
    Router::new()
        .route("/demo", get(state))
        .route("/demo/load/{switch}", post(switch_load))
        .route("/demo/nodes/{node}/{action}", post(act))
        .with_state(Demo { cluster, engine, load: Arc::default() })
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    /// A replica stops replaying: it lags from now on.
    Pause,
    /// It goes on.
    Replay,
    /// The server is gone, as in a crash.
    Kill,
    /// The server takes connections and does not answer.
    Hang,
    /// The primary ends, and this replica takes its place; the others follow it.
    Promote,
    /// The server comes back, as a replica of whoever is the primary by now.
    Return,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    On,
    Off,
}

/// 409: the cluster is in no state in which this can be done; the text says why.
struct Refused(ClusterError);

impl From<ClusterError> for Refused {
    fn from(error: ClusterError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem(StatusCode::CONFLICT, &self.0.to_string())
    }
}

async fn state(State(demo): State<Demo>) -> Json<Value> {
    let nodes: Vec<_> = demo.cluster.nodes().map(|node| engine_name(node.name())).collect();
    Json(json!({ "nodes": nodes, "load": demo.load.figures() }))
}

async fn switch_load(State(demo): State<Demo>, Path(switch): Path<Switch>) -> StatusCode {
    match switch {
        Switch::On => demo.load.start(&demo.engine),
        Switch::Off => demo.load.stop(),
    }
    StatusCode::NO_CONTENT
}

async fn act(
    State(demo): State<Demo>,
    Path((name, action)): Path<(String, Action)>,
) -> Result<StatusCode, Refused> {
    let node = demo.cluster.node(&cluster_name(&name))?;
    match action {
        Action::Pause => node.pause_replay().await?,
        Action::Replay => node.resume_replay().await?,
        Action::Kill => node.kill().await?,
        Action::Hang => node.hang().await?,
        Action::Promote => demo.promote(node).await?,
        Action::Return => demo.bring_back(node).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

impl Demo {
    /// The primary, as far as the engine knows.
    fn primary(&self) -> Option<&Node> {
        self.cluster.node(&cluster_name(&self.engine.status().primary?)).ok()
    }

    async fn promote(&self, node: &Node) -> Result<(), ClusterError> {
        // Fails for one that does not answer, or is no replica, before anything is ended.
        if !node.is_in_recovery().await? {
            return node.promote().await;
        }
        for other in self.cluster.nodes().filter(|other| !is_replica(other)) {
            // In order, so that the replicas get all that it committed; a hung one cannot.
            if other.is_hung() || other.stop().await.is_err() {
                other.kill().await?;
            }
        }
        node.promote().await?;
        for other in self.cluster.nodes().filter(|other| is_replica(other)) {
            if other.is_running() && !other.is_hung() {
                other.follow(node).await?;
            }
        }
        Ok(())
    }

    async fn bring_back(&self, node: &Node) -> Result<(), ClusterError> {
        let primary = self.primary().filter(|primary| primary.name() != node.name());
        let primary = primary.filter(|primary| primary.is_running() && !primary.is_hung());
        match primary {
            // Two primaries at a time would be another fault.
            Some(primary) if !is_replica(node) => {
                node.kill().await?;
                node.rejoin(primary).await.map(drop)
            }
            _ if node.is_hung() => node.resume().await,
            None => node.start().await,
            Some(primary) => {
                node.start().await?;
                node.follow(primary).await
            }
        }
    }
}

/// Whether it is or was a replica. A server forgets that when it is promoted.
fn is_replica(node: &Node) -> bool {
    node.data_dir().join("standby.signal").exists()
}

/// The cluster's nodes are `primary`, `replica_1`, …; the engine's `main`, `read_replica_1`, ….
fn cluster_name(name: &str) -> String {
    match name {
        "main" => "primary".to_owned(),
        name => name.trim_start_matches("read_").to_owned(),
    }
}

fn engine_name(name: &str) -> String {
    match name {
        "primary" => "main".to_owned(),
        name => format!("read_{name}"),
    }
}
