//! `[discovery]`: replicas that are found by name.

use std::time::Duration;

use serde::Deserialize;

use super::check::{Place, keyed};
use super::de::{self, Port, Time};
use crate::error::ConfigError;

/// Resolving more often would be a load of its own.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Replicas under one DNS name: the key `discovery`. Every address of the name is a node, called by
/// its address (with its port, where a resolver of your own gives one address several); one that is
/// no longer there leaves. All else is as on the main node: user, password, database, options.
///
/// One that is promoted stays a node, whether it leaves the name or not.
///
/// The name must answer with all addresses at once, each of which is one server: a headless service
/// of Kubernetes does, a load balancer does not. With `verify-full` each server's certificate must name its
/// address (an IP address among its alternative names), since sqlx compares what it connects to, and
/// that is the address and not the name it was found by. Where certificates name hosts only, give the
/// nodes by their names, to [`Engine::set_nodes`](crate::Engine::set_nodes) for instance.
///
/// ```
/// # fn main() -> Result<(), flautino::ConfigError> {
/// let config = flautino::EngineConfig::from_toml(
///     r#"
///     host = "primary.internal"
///     [discovery]
///     host = "replicas.internal"
///     "#,
/// )?;
/// assert_eq!(config.discovery.unwrap().interval.as_secs(), 30);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DiscoveryConfig {
    /// The name to resolve.
    pub host: String,
    /// TCP port of the replicas. Default: the main node's.
    #[serde(default, deserialize_with = "de::read_as::<Port, _, _>")]
    pub port: Option<u16>,
    /// How often the name is resolved, a tenth more or less, so that many instances do not ask in
    /// step. Default: 30 s, a usual time for such records to live. 1 s at the least.
    #[serde(default = "thirty_seconds", deserialize_with = "de::read_as::<Time, _, _>")]
    pub interval: Duration,
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

impl DiscoveryConfig {
    /// The name's addresses, looked up every 30 s, with the main node's port.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), port: None, interval: thirty_seconds() }
    }

    pub(super) fn check(&self, origin: &str) -> Result<(), ConfigError> {
        // Exhaustive, so that a new setting cannot be forgotten here.
        let Self { host, port, interval } = self;
        let place = Place { origin, prefix: "discovery." };
        if host.is_empty() || host.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/')
        {
            return Err(place.error("host", "is no host name"));
        }
        if *port == Some(0) {
            return Err(place.error("port", "is 0; expected 1 to 65535"));
        }
        place.at_least(MIN_INTERVAL, keyed![interval])?;
        place.at_most_a_year(keyed![interval])
    }
}
