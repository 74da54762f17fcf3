//! Which nodes an engine has beside the main one, and the settings of their pools.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::discovery::{Resolver, system_resolver};
use crate::config::{EngineConfig, NodeConfig, PoolConfig};

/// What errors call a configuration that was not read from a file but made in code.
pub(super) const ORIGIN: &str = "the configuration";

/// The nodes that an engine should have beside the main one.
#[derive(Clone)]
pub(super) struct Members {
    /// Those of the configuration, or of [`Engine::set_nodes`](super::Engine::set_nodes).
    pub(super) named: BTreeMap<String, NodeConfig>,
    /// The addresses of those that [`DiscoveryConfig`](crate::DiscoveryConfig) has found.
    pub(super) discovered: BTreeSet<SocketAddr>,
    pub(super) resolver: Resolver,
    /// The settings that the engine was opened with, for the pools of new nodes.
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
