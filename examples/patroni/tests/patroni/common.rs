//! What these tests share.

use std::net::SocketAddr;
use std::time::Duration;

use flautino::{DiscoveryConfig, Engine, EngineConfig};
use patroni::Members;

/// An engine, open, over a main node and what `members` finds each second.
pub(crate) async fn discovering(main: &str, addr: SocketAddr, members: Members) -> Engine {
    let mut config = EngineConfig::from_url(main).unwrap();
    config.extensions.clear();
    config.routing.probe_interval = Duration::from_millis(50);
    config.routing.slow_start = Duration::ZERO;
    // So that no write fails that waits, also on a busy machine.
    config.routing.failover_timeout = Duration::from_secs(90);
    let discovery = config.discovery.insert(DiscoveryConfig::new("patroni"));
    discovery.interval = Duration::from_secs(1);
    let engine = Engine::new(config).unwrap();
    engine.resolve_with(move |_, _| {
        let members = members.clone();
        async move { members.nodes(addr).await }
    });
    engine.open().await.unwrap();
    engine
}

/// The names of all nodes but the main one.
pub(crate) fn others(engine: &Engine) -> Vec<String> {
    engine.status().nodes.into_iter().skip(1).map(|node| node.name).collect()
}
