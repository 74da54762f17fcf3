//! Settings from environment variables, which win over the file: `FLAUTINO_POOL_MAX_CONNECTIONS` is
//! `pool.max_connections`.

use std::collections::BTreeMap;

use config::{Value, ValueKind};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Error as _, IntoDeserializer, MapAccess};
use serde::{Deserialize, Deserializer};

use super::de::{Port, Time, without_text};
use super::settings::Settings;
use super::{DiscoveryConfig, EngineConfig, NodeConfig, PoolConfig, RoutingConfig};
use crate::error::ConfigError;

/// What the names of all variables begin with.
pub(super) const PREFIX: &str = "FLAUTINO_";
/// The variable with the main node's URL, as other programs name it.
pub(super) const URL_VARIABLE: &str = "DATABASE_URL";
/// Variables that begin so and are no settings: those of `find`, of `flautino-cluster` and of the tests.
const OTHERS: [&str; 4] = ["CONF", "PG_BIN", "PG_MIRROR", "TEST_OWNER"];
/// Tables of the engine's, whose keys have variables of their own.
const TABLES: [&str; 5] = ["discovery", "extra_nodes", "options", "pool", "routing"];
/// Keys whose values are lists: in a variable, with commas.
const LISTS: [&str; 4] = ["extensions", "token_keys", "trusted_functions", "trusted_languages"];

/// Keys whose values are words of flautino's own.
const WORDS: [&str; 3] = ["consistency", "fallback", "mode"];

/// Variables and their values, by name.
pub(super) type Variables = BTreeMap<String, String>;

/// The process's variables that may be settings. One that is empty counts as unset.
pub(super) fn variables() -> Result<Variables, ConfigError> {
    let mut variables = Variables::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with(PREFIX) && name != URL_VARIABLE {
            continue;
        }
        let Ok(value) = value.into_string() else {
            let message = "is not Unicode (its value is not shown)".to_owned();
            return Err(ConfigError::Key { origin: origin(&name), key: name, message });
        };
        if !value.trim().is_empty() {
            variables.insert(name, value);
        }
    }
    Ok(variables)
}

fn origin(name: &str) -> String {
    format!("the environment variable `{name}`")
}

impl EngineConfig {
    /// Puts the settings of the environment in place of its own, as [`find`](Self::find) does: for a configuration
    /// that comes from elsewhere.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`], which names the variable and the key.
    pub fn with_environment(mut self) -> Result<Self, ConfigError> {
        self.apply(&variables()?)?;
        self.validate("the configuration with the environment")?;
        Ok(self)
    }

    /// Puts the settings in place that variables name.
    pub(super) fn apply(&mut self, variables: &Variables) -> Result<(), ConfigError> {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if OTHERS.contains(&rest) {
                continue;
            }
            let at = rest.to_ascii_lowercase();
            let variable = Variable { name, text };
            if let Some(key) = at.strip_prefix("pool_") {
                variable.read(&mut self.pool, "pool.", key, &PoolConfig::keys())?;
            } else if let Some(key) = at.strip_prefix("routing_") {
                variable.read(&mut self.routing, "routing.", key, &RoutingConfig::keys())?;
            } else if let Some(key) = at.strip_prefix("discovery_") {
                variable.read_discovery(&mut self.discovery, key)?;
            } else if let Some(rest) = at.strip_prefix("extra_nodes_") {
                variable.read_node(&mut self.extra_nodes, rest)?;
            } else if let Some(option) = at.strip_prefix("options_") {
                self.main.options.insert(option.to_owned(), text.clone());
            } else {
                let mut keys = Self::keys();
                keys.retain(|key| !TABLES.contains(key));
                variable.read(self, "", &at, &keys)?;
            }
        }
        Ok(())
    }
}

/// A variable that is set.
struct Variable<'a> {
    name: &'a str,
    text: &'a str,
}

impl Variable<'_> {
    /// Reads it into the setting of this key, which must be one of `keys`. `prefix` is what stands before the key
    /// in its path.
    fn read<T: Settings>(
        &self,
        settings: &mut T,
        prefix: &str,
        key: &str,
        keys: &[&'static str],
    ) -> Result<(), ConfigError> {
        if !keys.contains(&key) {
            return Err(self.unknown(prefix, key, keys));
        }
        let read = if WORDS.contains(&key) {
            // Its error lists the words that there are.
            let word: StrDeserializer<'_, config::ConfigError> =
                self.text.trim().into_deserializer();
            settings.read(key, &mut Given(Some(word)))
        } else {
            settings.read(key, &mut Given(Some(self.value(key))))
        };
        read.map_err(|error| self.error(format!("{prefix}{key}"), &error.to_string()))
    }

    fn read_discovery(
        &self,
        discovery: &mut Option<DiscoveryConfig>,
        key: &str,
    ) -> Result<(), ConfigError> {
        let discovery = discovery.get_or_insert_with(|| DiscoveryConfig::new(""));
        let value = self.value(key);
        let read = match key {
            "host" => String::deserialize(value).map(|host| discovery.host = host),
            "port" => Port::deserialize(value).map(|port| discovery.port = port.into()),
            "interval" => Time::deserialize(value).map(|time| discovery.interval = time.into()),
            _ => return Err(self.unknown("discovery.", key, &["host", "port", "interval"])),
        };
        read.map_err(|error| self.error(format!("discovery.{key}"), &error.to_string()))
    }

    /// `rest` is the name of the node, `_` and the key: `replica_1_host`.
    fn read_node(
        &self,
        nodes: &mut BTreeMap<String, NodeConfig>,
        rest: &str,
    ) -> Result<(), ConfigError> {
        if let Some((name, option)) = rest.split_once("_options_") {
            let node = node(nodes, name);
            node.options.insert(option.to_owned(), self.text.to_owned());
            return Ok(());
        }
        let mut keys = NodeConfig::keys();
        keys.retain(|key| !TABLES.contains(key));
        // The longest, since a key may end like another.
        let ends = |key: &&&str| rest.ends_with(&format!("_{key}"));
        let Some(key) = keys.iter().filter(ends).max_by_key(|key| key.len()) else {
            return Err(self.unknown("extra_nodes.", rest, &keys));
        };
        let name = &rest[..rest.len() - key.len() - 1];
        self.read(node(nodes, name), &format!("extra_nodes.{name}."), key, &keys)
    }

    fn value(&self, key: &str) -> Value {
        let kind = if LISTS.contains(&key) {
            let items = self.text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(None, item)).collect())
        } else {
            ValueKind::String(self.text.trim().to_owned())
        };
        Value::new(None, kind)
    }

    fn unknown(&self, prefix: &str, key: &str, keys: &[&str]) -> ConfigError {
        let message = format!("is no key; expected one of `{}`", keys.join("`, `"));
        let (origin, key) = (origin(self.name), format!("{prefix}{key}"));
        ConfigError::Key { origin, key, message }
    }

    fn error(&self, key: String, message: &str) -> ConfigError {
        let (origin, message) = (origin(self.name), without_text(message));
        ConfigError::Key { origin, key, message }
    }
}

/// The node of this name, written as in a variable: `read_replica_1` for `read-replica-1` too.
fn node<'a>(nodes: &'a mut BTreeMap<String, NodeConfig>, name: &str) -> &'a mut NodeConfig {
    let as_in_variable = |known: &str| {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        known.chars().map(plain).eq(name.chars())
    };
    let known = nodes.keys().find(|known| as_in_variable(known)).cloned();
    nodes.entry(known.unwrap_or_else(|| name.to_owned())).or_default()
}

/// A map of one value, whose key is known already.
struct Given<D>(Option<D>);

impl<'de, D: Deserializer<'de>> MapAccess<'de> for Given<D> {
    type Error = D::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        _: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        let value = self.0.take().ok_or_else(|| D::Error::custom("the value was read already"))?;
        seed.deserialize(value)
    }
}
