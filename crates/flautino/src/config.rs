//! Configuration: plain values with their defaults. It is found, read and checked before any
//! connection is made.
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

mod certificates;
mod check;
mod de;
mod discovery;
mod endpoint;
mod environment;
mod find;
mod libpq;
mod libpq_environment;
mod node;
mod pool;
mod routing;
mod settings;
#[cfg(test)]
mod tests;
mod url;

use std::collections::BTreeMap;
use std::time::Duration;

use self::check::{Place, keyed};
use self::de::Time;
pub use self::discovery::DiscoveryConfig;
pub use self::node::NodeConfig;
pub use self::pool::PoolConfig;
pub use self::routing::{Fallback, RoutingConfig, RoutingMode};
use self::settings::{Settings, settings};
use crate::error::ConfigError;

/// The name of the node whose settings stand at the top level.
pub const MAIN: &str = "main";

settings! {
    /// Everything an [`Engine`](crate::Engine) is made of.
    ///
    /// In TOML the main node's settings stand at the top level, beside the engine's own. Durations
    /// are strings with a unit (`"500ms"`, `"5s"`, `"10m"`) or a number of seconds.
    #[derive(Debug, Clone, PartialEq)]
    pub struct EngineConfig {
        flatten {
            /// The main node: the keys of [`NodeConfig`], at the top level.
            pub main: NodeConfig
        }
        /// Further nodes, each under the name that [`Handle::node`](crate::Handle::node) takes.
        /// Default: none.
        pub extra_nodes: BTreeMap<String, NodeConfig>,
        /// Further nodes that are found by a DNS name. Default: none.
        pub discovery: Option<DiscoveryConfig>,
        /// What the engine is called in metrics (the feature `metrics`). Default: `default`. Where an app has
        /// several engines, each needs a name of its own.
        pub name: String = "default".to_owned(),
        /// Extensions that `open` creates on the primary. Default:
        /// `["uuid-ossp"]`, as in Piccolo; `[]` for none. One that cannot be created is a warning.
        pub extensions: Vec<String> = vec!["uuid-ossp".to_owned()],
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
        /// How long a statement may take before a warning of target `flautino::slow` tells its text, without
        /// values, its node and why it went there, once it has ended or was given up. Default: 1 s. `0` for no
        /// such warning. The time goes from sending it to the end of its result; that of a stream includes what
        /// the app does between its rows.
        pub log_slow: Duration as Time = Duration::from_secs(1),
        /// How often a request may send one and the same statement before a warning of target
        /// `flautino::repeated` tells of it, with the route: mostly one statement with a list of keys could
        /// take the place of them all. `0` for no such warning. Default: 20 in a debug build, else 0. It is the
        /// layer of `flautino-axum` that warns.
        pub log_repeated: u32 = if cfg!(debug_assertions) { 20 } else { 0 },
        /// Functions that leave nothing in the session that calls them, by name and without schema, also
        /// as triggers. Default: none.
        ///
        /// Of a function in SQL or PL/pgSQL the engine reads the body. If that may set something in the
        /// session (`SET`, `set_config(…, false)`, a temporary table, a session-level lock), the
        /// connection is reset after each use of the function, of a table that has it as a trigger, of a
        /// view over it. `EXECUTE` counts as well, since it cannot be read; name the function here if it
        /// leaves nothing.
        pub trusted_functions: Vec<String>,
        /// Languages whose functions leave nothing in the session that calls them, such as `plv8`.
        /// Default: none. Functions in SQL, PL/pgSQL and C are judged by themselves; the connection is
        /// reset after each use of one in any other language.
        pub trusted_languages: Vec<String>,
        /// How long `open` waits for a node to answer. Default: 30 s.
        pub startup_timeout: Duration as Time = Duration::from_secs(30),
        /// How long `close` lets running statements go on before it cancels them. Default: 20 s,
        /// which leaves room inside the 30 s that Kubernetes grants by default.
        pub drain_timeout: Duration as Time = Duration::from_secs(20),
    }
}

impl EngineConfig {
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
        let config = Self::parse_unchecked(text, origin)?;
        config.validate(origin)?;
        Ok(config)
    }

    /// Limits and names are not checked yet.
    fn parse_unchecked(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let document = toml::de::Deserializer::parse(text)
            .map_err(|err| de::syntax_error(text, origin, &err))?;
        serde_path_to_error::deserialize(document).map_err(|err| de::key_error(text, origin, &err))
    }

    /// Checks limits, names and URLs, which the types cannot. [`Engine::new`](crate::Engine::new)
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
            name: _,
            extensions,
            pool,
            routing,
            log_queries: _,
            log_responses: _,
            log_slow,
            log_repeated: _,
            trusted_functions: _,
            trusted_languages: _,
            startup_timeout,
            drain_timeout,
        } = self;
        let place = Place { origin, prefix: "" };
        place.at_most_a_year(keyed![startup_timeout, drain_timeout, log_slow])?;
        let options = main.connect_options(origin, "")?;
        Self::check_nodes(extra_nodes, origin)?;
        if let Some(discovery) = discovery {
            discovery.check(origin)?;
            if options.get_socket().is_some() {
                let fix = "the main node is reached by a Unix socket, so that replicas elsewhere \
                           cannot be reached as it is; give it a host name";
                return Err(place.error("discovery", fix));
            }
        }
        for (index, extension) in extensions.iter().enumerate() {
            if extension.is_empty() || extension.contains('\0') {
                let key = format!("extensions[{index}]");
                return Err(place.error(&key, "is no name of an extension"));
            }
        }
        pool.check(origin)?;
        routing.check(origin)
    }

    /// Settings that may be shown, by their paths. Those of nodes, some of which are secret, are not among
    /// them, nor those of the log, which may be switched.
    pub(crate) fn told(&self) -> BTreeMap<String, String> {
        let own = [
            ("name", self.name.clone()),
            ("extensions", format!("{:?}", self.extensions)),
            ("trusted_functions", format!("{:?}", self.trusted_functions)),
            ("trusted_languages", format!("{:?}", self.trusted_languages)),
            ("startup_timeout", format!("{:?}", self.startup_timeout)),
            ("drain_timeout", format!("{:?}", self.drain_timeout)),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        let routing = RoutingConfig { token_keys: Vec::new(), ..self.routing.clone() };
        let tables = [("pool", self.pool.values()), ("routing", routing.values())];
        let tables = tables.into_iter().flat_map(|(table, values)| {
            values.into_iter().map(move |(key, value)| (format!("{table}.{key}"), value))
        });
        let mut told: BTreeMap<_, _> = own.chain(tables).collect();
        let keys = format!("{} keys", self.routing.token_keys.len());
        told.insert("routing.token_keys".to_owned(), keys);
        told
    }

    /// Checks the names and the settings of the nodes beside the main one.
    pub(crate) fn check_nodes(
        nodes: &BTreeMap<String, NodeConfig>,
        origin: &str,
    ) -> Result<(), ConfigError> {
        let place = Place { origin, prefix: "extra_nodes." };
        for (name, node) in nodes {
            if name == MAIN {
                let fix = "`main` is the node at the top level; give this one another name";
                return Err(place.error(name, fix));
            }
            if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                let fix = "a node's name is one word, without spaces and control characters";
                return Err(place.error(name, fix));
            }
            node.connect_options(origin, &format!("extra_nodes.{name}."))?;
        }
        Ok(())
    }
}
