//! Which nodes an engine has beside the main one, and with what pools.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::discovery::{Resolver, system_resolver};
use crate::config::{EngineConfig, NodeConfig, PoolConfig};

/// Where a configuration that is a value comes from, for errors.
pub(super) const ORIGIN: &str = "the configuration";

#[derive(Clone)]
pub(super) struct Members {
    /// By configuration, or by [`Engine::set_nodes`](super::Engine::set_nodes).
    pub(super) named: BTreeMap<String, NodeConfig>,
    /// By [`DiscoveryConfig`](crate::DiscoveryConfig).
    pub(super) discovered: BTreeSet<SocketAddr>,
    pub(super) resolver: Resolver,
    /// What the engine was opened with.
    pub(super) pool: PoolConfig,
}

impl Members {
    pub(super) fn new(config: &EngineConfig) -> Self {
        Self {
            named: config.extra_nodes.clone(),
            discovered: BTreeSet::new(),
            resolver: system_resolver(),
            pool: config.pool.clone(),
        }
    }
}
