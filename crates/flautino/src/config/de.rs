//! Reading values: times, ports and secrets, and errors that tell the place and no secret.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::error::ConfigError;

/// Reads an `R` and converts it, for serde's `deserialize_with`.
pub(super) fn read_as<'de, R, T, D>(deserializer: D) -> Result<T, D::Error>
where
    R: Deserialize<'de> + Into<T>,
    D: Deserializer<'de>,
{
    R::deserialize(deserializer).map(Into::into)
}

/// A duration: `"250ms"`, `"5s"`, `"1h 30m"`, or a number of seconds.
pub(super) struct Time(Duration);

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        time.0
    }
}

impl From<Time> for Option<Duration> {
    fn from(time: Time) -> Self {
        Some(time.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor).map(Self)
    }
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time with its unit, such as \"500ms\" or \"5s\", or a number of seconds")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        let expected = "expected a time with its unit, such as \"500ms\" or \"5s\"";
        // An environment variable has no numbers.
        if let Ok(seconds) = text.parse() {
            return self.visit_f64(seconds);
        }
        humantime::parse_duration(text).map_err(|err| E::custom(format!("{err}; {expected}")))
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

/// A string whose value must not turn up in an error.
pub(super) struct SecretString(String);

impl From<SecretString> for Option<String> {
    fn from(secret: SecretString) -> Self {
        Some(secret.0)
    }
}

impl<'de> Deserialize<'de> for SecretString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde would quote the value it did not expect.
        let text = String::deserialize(deserializer);
        text.map(Self).map_err(|_| D::Error::custom("expected a string (its value is not shown)"))
    }
}

/// A list of strings whose values must not turn up in an error.
pub(super) struct SecretStrings(Vec<String>);

impl From<SecretStrings> for Vec<String> {
    fn from(secrets: SecretStrings) -> Self {
        secrets.0
    }
}

impl<'de> Deserialize<'de> for SecretStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretsVisitor).map(Self)
    }
}

struct SecretsVisitor;

impl<'de> Visitor<'de> for SecretsVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
        let mut secrets = Vec::new();
        while let Some(SecretString(secret)) = list.next_element()? {
            secrets.push(secret);
        }
        Ok(secrets)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Vec<String>, E> {
        // serde would quote the value it did not expect.
        Err(E::custom("expected a list of strings, such as [\"…\"] (its value is not shown)"))
    }
}

/// A TCP port.
pub(super) struct Port(u16);

impl From<Port> for Option<u16> {
    fn from(port: Port) -> Self {
        Some(port.0)
    }
}

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
    // `err.to_string()` would quote the line, which may hold a password.
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
    ConfigError::Key {
        origin: format!("{origin}, line {line}"),
        key: err.path().to_string(),
        message: without_text(err.inner().message()),
    }
}

/// The message without the text that serde quotes where it expected none: it may be a URL with a
/// password.
pub(super) fn without_text(message: &str) -> String {
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
