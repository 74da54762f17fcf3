//! Reading configuration: visitors that keep the path of a key, and errors that keep secrets.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::{EngineConfig, NodeConfig};
use crate::error::ConfigError;

/// One struct read from a map, key by key.
///
/// serde's `flatten` would do for the top level, but it loses the path of a wrong value and lets
/// unknown keys pass.
trait Keyed: Default {
    const NAME: &'static str;
    const KEYS: &'static [&'static str];
    /// Takes the value if the key is one of its own.
    fn visit<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error>;
}

impl Keyed for NodeConfig {
    const NAME: &'static str = "the settings of a node";
    const KEYS: &'static [&'static str] = &Self::KEYS;

    fn visit<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        self.visit_key(key, map)
    }
}

const ENGINE_KEYS: [&str; EngineConfig::KEYS.len() + NodeConfig::KEYS.len()] = {
    let mut keys = [""; EngineConfig::KEYS.len() + NodeConfig::KEYS.len()];
    let mut i = 0;
    while i < keys.len() {
        keys[i] = if i < NodeConfig::KEYS.len() {
            NodeConfig::KEYS[i]
        } else {
            EngineConfig::KEYS[i - NodeConfig::KEYS.len()]
        };
        i += 1;
    }
    keys
};

impl Keyed for EngineConfig {
    const NAME: &'static str = "the settings of an engine";
    const KEYS: &'static [&'static str] = &ENGINE_KEYS;

    fn visit<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        match key {
            "extra_nodes" => self.extra_nodes = map.next_value()?,
            "discovery" => self.discovery = Some(map.next_value()?),
            "extensions" => self.extensions = map.next_value()?,
            "pool" => self.pool = map.next_value()?,
            "routing" => self.routing = map.next_value()?,
            "log_queries" => self.log_queries = map.next_value()?,
            "log_responses" => self.log_responses = map.next_value()?,
            "startup_timeout" => self.startup_timeout = map.next_value::<Time>()?.0,
            "drain_timeout" => self.drain_timeout = map.next_value::<Time>()?.0,
            _ => return self.main.visit_key(key, map),
        }
        Ok(true)
    }
}

struct KeyedVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Keyed> Visitor<'de> for KeyedVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut value = T::default();
        while let Some(key) = map.next_key::<String>()? {
            if !value.visit(&key, &mut map)? {
                return Err(A::Error::unknown_field(&key, T::KEYS));
            }
        }
        Ok(value)
    }
}

impl<'de> Deserialize<'de> for NodeConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeyedVisitor(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for EngineConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeyedVisitor(std::marker::PhantomData))
    }
}

/// A duration: `"250ms"`, `"5s"`, `"1h 30m"`, or a number of seconds.
pub(super) struct Time(pub(super) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration::deserialize(deserializer).map(Self)
    }
}

/// [`Time`] for serde's `with`.
pub(super) mod duration {
    use super::{Deserializer, Duration, Visitor, fmt};

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a time with its unit, such as \"500ms\" or \"5s\", or a number of seconds",
                )
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
                humantime::parse_duration(text).map_err(|err| {
                    E::custom(format!(
                        "{err}; expected a time with its unit, such as \"500ms\" or \"5s\""
                    ))
                })
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Duration, E> {
                Ok(Duration::from_secs(seconds))
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Duration, E> {
                let seconds = u64::try_from(seconds);
                seconds.map(Duration::from_secs).map_err(|_| E::custom("a time cannot be negative"))
            }

            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Duration, E> {
                Duration::try_from_secs_f64(seconds).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(TimeVisitor)
    }
}

/// A string whose value must not turn up in an error.
pub(super) struct SecretString(pub(super) String);

impl<'de> Deserialize<'de> for SecretString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde would quote the value it did not expect.
        let text = String::deserialize(deserializer);
        text.map(Self).map_err(|_| D::Error::custom("expected a string (its value is not shown)"))
    }
}

/// A TCP port.
pub(super) struct Port(pub(super) u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(D::Error::custom(format!("{number} is no port; expected 1 to 65535"))),
        }
    }
}

pub(super) fn syntax_error(text: &str, origin: &str, err: &toml::de::Error) -> ConfigError {
    // `err`'s own text quotes the line, which may hold a password.
    let (line, column) = place(text, err);
    ConfigError::Syntax {
        origin: origin.to_owned(),
        line,
        column,
        message: err.message().replace('\n', ", "),
    }
}

pub(super) fn key_error(
    text: &str,
    origin: &str,
    err: &serde_path_to_error::Error<toml::de::Error>,
) -> ConfigError {
    let (line, _) = place(text, err.inner());
    let path = err.path().to_string();
    ConfigError::Key {
        origin: format!("{origin}, line {line}"),
        key: if path == "." { "top level".to_owned() } else { path },
        message: without_text(err.inner().message()),
    }
}

/// A text where none belongs may be a URL with its password, and serde quotes it.
fn without_text(message: &str) -> String {
    const BEFORE: &str = "string";
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(from), Some(to)) if from + BEFORE.len() < to => {
            format!("{}{}", &message[..from + BEFORE.len()], &message[to + 1..])
        }
        _ => message.to_owned(),
    }
}

/// Line and column of an error, counted from 1.
fn place(text: &str, err: &toml::de::Error) -> (usize, usize) {
    let offset = err.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}
