//! An engine over one server, with a proxy between the two that counts and plays a bad network.

use flautino::{Engine, EngineConfig, Handle, PoolStatus};
use flautino_cluster::{Cluster, Node, Proxy};

use crate::config;

/// One server, an engine that is open over it, and the way from one to the other.
#[derive(Debug)]
pub struct Proxied {
    /// A primary alone; it logs who connects, for [`sessions_begun`].
    pub cluster: Cluster,
    /// The engine's only way to it.
    pub proxy: Proxy,
    /// Open, with one connection that rests.
    pub engine: Engine,
    /// A handle of it.
    pub db: Handle,
}

impl Proxied {
    /// Such an engine, of sessions called `name`, after `adjust` has changed its configuration.
    pub async fn start(name: &str, adjust: impl FnOnce(&mut EngineConfig)) -> Self {
        let closed = Self::start_closed(name, adjust, |engine| engine).await;
        closed.engine.open().await.unwrap();
        closed
    }

    /// As [`start`](Self::start), not open, and after `build` has added to the engine.
    pub async fn start_closed(
        name: &str,
        adjust: impl FnOnce(&mut EngineConfig),
        build: impl FnOnce(Engine) -> Engine,
    ) -> Self {
        let cluster = Cluster::builder().setting("log_connections", "on").start().await.unwrap();
        let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
        let mut config = config(&cluster, name);
        config.main.url = Some(proxy.url());
        adjust(&mut config);
        let engine = build(Engine::new(config).unwrap());
        let db = engine.handle();
        Self { cluster, proxy, engine, db }
    }

    /// The server.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.cluster.primary()
    }

    /// What the engine says of its pool now.
    #[must_use]
    pub fn pool(&self) -> PoolStatus {
        self.engine.status().nodes[0].pool.unwrap()
    }
}

/// How many sessions of that `application_name` have begun since the server's first start, by its
/// own log; it must have been started with `log_connections`. Requests to cancel are no sessions.
#[must_use]
pub fn sessions_begun(node: &Node, name: &str) -> usize {
    let name = format!("application_name={name}");
    let begins = |line: &&str| {
        line.contains("connection authorized: ") && line.split(' ').any(|word| word == name)
    };
    node.log().lines().filter(begins).count()
}
