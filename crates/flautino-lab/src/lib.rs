//! What the tests share: waiting for conditions, engines over clusters, captured events.
#![expect(clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "axum")]
mod app;
mod bouncer;
mod cancel;
mod capture;
mod proxied;
mod server;
mod token;
mod wait;

#[cfg(feature = "axum")]
pub use self::app::App;
pub use self::bouncer::Bouncer;
pub use self::cancel::polled_at_most;
pub use self::capture::{Capture, Event};
pub use self::proxied::{Proxied, sessions_begun};
pub use self::server::{
    ask, has_session, pid, running, sessions_of, sqlstate, until_running, until_sessions,
};
pub use self::token::{bare, summed};
pub use self::wait::{wait_until, wait_until_or_tell};

use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_cluster::{Cluster, Node};

/// A cluster with this many streaming replicas.
pub async fn cluster(replicas: usize) -> Cluster {
    Cluster::builder().replicas(replicas).start().await.unwrap()
}

/// A configuration with the cluster's primary as the main node and its replicas as
/// `read_replica_1`, `read_replica_2`, …; no extensions. Sessions are called `name`.
#[must_use]
pub fn config(cluster: &Cluster, name: &str) -> EngineConfig {
    let node = |node: &Node| NodeConfig {
        url: Some(node.url()),
        application_name: Some(name.to_owned()),
        ..NodeConfig::default()
    };
    let mut config = EngineConfig {
        main: node(cluster.primary()),
        extensions: vec![],
        ..EngineConfig::default()
    };
    for (index, replica) in cluster.nodes().skip(1).enumerate() {
        config.extra_nodes.insert(format!("read_replica_{}", index + 1), node(replica));
    }
    config
}

/// An open engine over [`config`].
pub async fn engine(cluster: &Cluster, name: &str) -> Engine {
    let engine = Engine::new(config(cluster, name)).unwrap();
    engine.open().await.unwrap();
    engine
}
