//! Engines over a cluster that the test started.

use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_cluster::{Cluster, Node};

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

/// An open engine of this configuration.
pub async fn open(config: EngineConfig) -> Engine {
    let engine = Engine::new(config).unwrap();
    engine.open().await.unwrap();
    engine
}

/// An open engine over [`config`].
pub async fn engine(cluster: &Cluster, name: &str) -> Engine {
    open(config(cluster, name)).await
}
