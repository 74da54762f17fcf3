//! `[discovery]`: replicas that are found by name.

use std::time::Duration;

use serde::Deserialize;

use super::de;
use super::{LONGEST, TOO_LONG};

/// Resolving faster would be a load of its own.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Replicas under one DNS name: the key `discovery`. Every address of the name is a node, called by
/// its address (with its port, where a resolver of your own gives one address several); one that is no longer there leaves. All else is as on the main node: user,
/// password, database, options.
///
/// One that is promoted stays a node, whether it leaves the name or not.
///
/// The name must answer with all addresses at once, each of which is one server: a headless service
/// of Kubernetes does, a load balancer does not. `verify-full` cannot be had so, since certificates
/// name hosts; see [`Engine::set_nodes`](crate::Engine::set_nodes) for what knows host names.
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
    #[serde(default, deserialize_with = "port")]
    pub port: Option<u16>,
    /// How often the name is resolved, a tenth more or less, so that many instances do not ask in
    /// step. Default: 30 s, a usual time for such records to live. 1 s at the least.
    #[serde(default = "thirty_seconds", with = "de::duration")]
    pub interval: Duration,
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    de::Port::deserialize(deserializer).map(|de::Port(port)| Some(port))
}

impl DiscoveryConfig {
    /// The name's addresses, looked up every 30 s, with the main node's port.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), port: None, interval: thirty_seconds() }
    }

    /// The key that is wrong and why, where the settings are not acceptable.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        // Exhaustive, so that a new setting cannot be forgotten here.
        let Self { host, port, interval } = self;
        if host.is_empty() || host.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/')
        {
            return Err(("host", "is no host name".to_owned()));
        }
        if *port == Some(0) {
            return Err(("port", "is 0; expected 1 to 65535".to_owned()));
        }
        if *interval < SHORTEST_INTERVAL {
            let message = format!("is {interval:?}; expected {SHORTEST_INTERVAL:?} or more");
            return Err(("interval", message));
        }
        if *interval > LONGEST {
            return Err(("interval", TOO_LONG.to_owned()));
        }
        Ok(())
    }
}
