//! Configuration: plain values with their defaults, found, read and checked before any I/O.
//!
//! ```
//! # fn main() -> Result<(), flautino::ConfigError> {
//! let config = flautino::EngineConfig::from_toml(
//!     r#"
//!     host = "localhost"
//!     database = "my_app"
//!     user = "postgres"
//!
//!     [pool]
//!     max_connections = 20
//!
//!     [extra_nodes.read_replica_1]
//!     host = "replica-1"
//!     database = "my_app"
//!     "#,
//! )?;
//! assert_eq!(config.pool.max_connections, 20);
//! assert!(config.extra_nodes.contains_key("read_replica_1"));
//! # Ok(()) }
//! ```

mod de;
mod discovery;
mod find;
mod node;
mod routing;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

pub use self::discovery::DiscoveryConfig;
pub use self::node::NodeConfig;
pub use self::routing::{Fallback, RoutingConfig, RoutingMode};
use crate::error::ConfigError;

/// The name of the node whose settings stand at the top level.
pub const MAIN: &str = "main";

/// The longest time that a setting may say; beyond, clocks overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const TOO_LONG: &str = "is longer than a year";

/// PostgreSQL's own upper limit for `max_connections`.
const MOST_CONNECTIONS: u32 = 262_143;

/// Everything an [`Engine`](crate::Engine) is made of.
///
/// In TOML the main node's settings stand at the top level, beside the engine's own. Durations
/// are strings with a unit (`"500ms"`, `"5s"`, `"10m"`) or a number of seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// The main node: the keys of [`NodeConfig`], at the top level.
    pub main: NodeConfig,
    /// Further nodes, each under the name that [`Handle::node`](crate::Handle::node) takes.
    /// Default: none.
    pub extra_nodes: BTreeMap<String, NodeConfig>,
    /// Further nodes that are found by a DNS name. Default: none.
    pub discovery: Option<DiscoveryConfig>,
    /// Extensions that `open` creates on the primary. Default:
    /// `["uuid-ossp"]`, as in Piccolo; `[]` for none. One that cannot be created is a warning.
    pub extensions: Vec<String>,
    /// The pool of each node.
    pub pool: PoolConfig,
    /// The replica router.
    pub routing: RoutingConfig,
    /// Whether each statement is an event of target `flautino::query`, before it is sent and
    /// after its result was read, the library's own included. Default: `false`. Bind values are
    /// never logged; what is sent over the bare connection of a lease or a transaction, such as
    /// a migration, is not seen.
    pub log_queries: bool,
    /// Whether each row is an event of target `flautino::response`. Default: `false`.
    pub log_responses: bool,
    /// How long `open` waits for a node to answer. Default: 30 s.
    pub startup_timeout: Duration,
    /// How long `close` lets running statements go on before it cancels them. Default: 20 s,
    /// which leaves room inside the 30 s that Kubernetes grants by default.
    pub drain_timeout: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            main: NodeConfig::default(),
            extra_nodes: BTreeMap::new(),
            discovery: None,
            extensions: vec!["uuid-ossp".to_owned()],
            pool: PoolConfig::default(),
            routing: RoutingConfig::default(),
            log_queries: false,
            log_responses: false,
            startup_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

impl EngineConfig {
    /// The keys of the top level that are not [`NodeConfig`]'s.
    const KEYS: [&'static str; 9] = [
        "extra_nodes",
        "discovery",
        "extensions",
        "pool",
        "routing",
        "log_queries",
        "log_responses",
        "startup_timeout",
        "drain_timeout",
    ];

    /// A main node at `url` (`postgres://user:password@host:port/database?sslmode=…`), and the
    /// defaults for all else.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`] when the URL is malformed or has an unknown parameter.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let main = NodeConfig { url: Some(url.to_owned()), ..NodeConfig::default() };
        let config = Self { main, ..Self::default() };
        config.validate("the URL")?;
        Ok(config)
    }

    /// Reads and checks TOML text.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Syntax`] or [`ConfigError::Key`], with the place of the mistake.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text, "the TOML text")
    }

    fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let document = toml::de::Deserializer::parse(text)
            .map_err(|err| de::syntax_error(text, origin, &err))?;
        let config: Self = serde_path_to_error::deserialize(document)
            .map_err(|err| de::key_error(text, origin, &err))?;
        config.validate(origin)?;
        Ok(config)
    }

    /// Checks what types cannot say: limits, names, URLs. [`Engine::new`](crate::Engine::new)
    /// does this too; no I/O happens but reading the password file, as libpq does.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`] with the path of the first key that is not acceptable.
    pub fn validate(&self, origin: &str) -> Result<(), ConfigError> {
        // Exhaustive, so that a new setting cannot be forgotten here.
        let Self {
            main,
            extra_nodes,
            discovery,
            extensions,
            pool,
            routing,
            log_queries: _,
            log_responses: _,
            startup_timeout,
            drain_timeout,
        } = self;
        let key_error = |key: &str, message: String| ConfigError::Key {
            origin: origin.to_owned(),
            key: key.to_owned(),
            message,
        };
        for (key, time) in [("startup_timeout", startup_timeout), ("drain_timeout", drain_timeout)]
        {
            if *time > LONGEST {
                return Err(key_error(key, TOO_LONG.to_owned()));
            }
        }
        let options = main.connect_options(origin, "")?;
        Self::check_nodes(extra_nodes, origin)?;
        if let Some(discovery) = discovery {
            let failed = |(key, message)| key_error(&format!("discovery.{key}"), message);
            discovery.check().map_err(failed)?;
            if options.get_socket().is_some() {
                let fix = "the main node is reached by a Unix socket, so that replicas elsewhere \
                           cannot be reached as it is; give it a host name";
                return Err(key_error("discovery", fix.to_owned()));
            }
        }
        for (index, extension) in extensions.iter().enumerate() {
            if extension.is_empty() || extension.contains('\0') {
                let key = format!("extensions[{index}]");
                return Err(key_error(&key, "is no name of an extension".to_owned()));
            }
        }
        pool.check().map_err(|(key, message)| key_error(&format!("pool.{key}"), message))?;
        routing.check().map_err(|(key, message)| key_error(&format!("routing.{key}"), message))
    }

    /// Names and settings of nodes beside the main one.
    pub(crate) fn check_nodes(
        nodes: &BTreeMap<String, NodeConfig>,
        origin: &str,
    ) -> Result<(), ConfigError> {
        for (name, node) in nodes {
            let key = format!("extra_nodes.{name}");
            let fix = if name == MAIN {
                "`main` is the node at the top level; give this one another name"
            } else if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                "a node's name is one word, without spaces and control characters"
            } else {
                node.connect_options(origin, &format!("{key}."))?;
                continue;
            };
            let (origin, message) = (origin.to_owned(), fix.to_owned());
            return Err(ConfigError::Key { origin, key, message });
        }
        Ok(())
    }
}

/// The pool of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// The most connections to one node. Default: 10, as in sqlx.
    pub max_connections: u32,
    /// How many connections to one node are kept open, those in use counted too. Default: 0.
    /// `open` waits for the first; the others are opened in the background. What is missing later is
    /// opened within a second, and a second after an attempt that failed; not while the router knows
    /// that the node is down. One that the server ended while it was idle counts until it is used or
    /// another is lost in use.
    pub min_connections: u32,
    /// How long a statement waits for a connection, a new one's making included, before it fails
    /// with [`Error::AcquireTimeout`](crate::Error::AcquireTimeout). Default: 5 s, so that an
    /// overloaded app answers before its clients give up.
    #[serde(with = "de::duration")]
    pub acquire_timeout: Duration,
    /// How long a connection may lie idle before it is closed; 0 for ever. Default: 10 min.
    #[serde(with = "de::duration")]
    pub idle_timeout: Duration,
    /// How old a connection may grow before it is replaced; 0 for ever. Default: 30 min. Each ends up to
    /// a tenth earlier, by chance, so that those made together do not end together.
    #[serde(with = "de::duration")]
    pub max_lifetime: Duration,
    /// A connection that was used within this time is lent as it is; one that rested longer is pinged
    /// first, at one round trip more. 0 to ping at each use. Default: 1 s.
    #[serde(with = "de::duration")]
    pub warm_time: Duration,
    /// How long that ping may take before the connection counts as lost, such as one that a firewall
    /// forgot. Default: 500 ms.
    #[serde(with = "de::duration")]
    pub ping_timeout: Duration,
    /// How many connections to one node are made at a time, so that a cold start does not storm the
    /// server. Default: 4.
    pub connect_concurrency: u32,
    /// The most connections of the `PgPool` that [`Engine::pool`](crate::Engine::pool) makes when it is
    /// asked for one. They count beside `max_connections`. Default: 10, as in sqlx.
    pub sqlx_connections: u32,
    /// From which wait for a connection on a warning is logged. Default: 2 s.
    #[serde(with = "de::duration")]
    pub acquire_slow_threshold: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 10,
            min_connections: 0,
            acquire_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10 * 60),
            max_lifetime: Duration::from_secs(30 * 60),
            warm_time: Duration::from_secs(1),
            ping_timeout: Duration::from_millis(500),
            connect_concurrency: 4,
            sqlx_connections: 10,
            acquire_slow_threshold: Duration::from_secs(2),
        }
    }
}

impl PoolConfig {
    /// The key that is wrong and why, where the settings are not acceptable.
    fn check(&self) -> Result<(), (&'static str, String)> {
        // Exhaustive, so that a new setting cannot be forgotten here.
        let Self {
            max_connections,
            min_connections,
            acquire_timeout,
            idle_timeout,
            max_lifetime,
            warm_time,
            ping_timeout,
            connect_concurrency,
            sqlx_connections,
            acquire_slow_threshold,
        } = self;
        let counts = [
            ("max_connections", max_connections),
            ("connect_concurrency", connect_concurrency),
            ("sqlx_connections", sqlx_connections),
        ];
        for (key, count) in counts {
            if !(1..=MOST_CONNECTIONS).contains(count) {
                return Err((key, format!("is {count}; expected 1 to {MOST_CONNECTIONS}")));
            }
        }
        if min_connections > max_connections {
            let message =
                format!("is {min_connections}, more than `max_connections` ({max_connections})");
            return Err(("min_connections", message));
        }
        for (key, time) in [("acquire_timeout", acquire_timeout), ("ping_timeout", ping_timeout)] {
            if time.is_zero() {
                return Err((key, "is 0; expected a time such as \"5s\"".to_owned()));
            }
        }
        let times = [
            ("acquire_timeout", acquire_timeout),
            ("idle_timeout", idle_timeout),
            ("max_lifetime", max_lifetime),
            ("warm_time", warm_time),
            ("ping_timeout", ping_timeout),
            ("acquire_slow_threshold", acquire_slow_threshold),
        ];
        match times.into_iter().find(|(_, time)| **time > LONGEST) {
            Some((key, _)) => Err((key, TOO_LONG.to_owned())),
            None => Ok(()),
        }
    }

    /// The same settings, checked; for [`Engine::open_with`](crate::Engine::open_with).
    pub(crate) fn checked(self, origin: &str) -> Result<Self, ConfigError> {
        match self.check() {
            Ok(()) => Ok(self),
            Err((key, message)) => Err(ConfigError::Key {
                origin: origin.to_owned(),
                key: format!("pool.{key}"),
                message,
            }),
        }
    }
}
