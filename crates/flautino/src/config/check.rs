//! Checks of values, and the errors that name their keys.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::ConfigError;

/// Longer times overflow when they are added to a clock.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What `ssl_mode` may be.
pub(super) const SSL_MODES: &str = "disable, allow, prefer, require, verify-ca or verify-full";

/// Pairs values with their keys, which are the names of the variables that hold them.
macro_rules! keyed {
    ($($key:ident),+ $(,)?) => { &[$((stringify!($key), $key)),+] };
}
pub(super) use keyed;

/// Where a table of settings stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The file or text that the configuration came from.
    pub(super) origin: &'a str,
    /// What stands before each key in its path: empty, or such as `pool.`.
    pub(super) prefix: &'a str,
}

impl Place<'_> {
    /// The value of `key` is not acceptable.
    pub(super) fn error(self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::Key {
            origin: self.origin.to_owned(),
            key: format!("{}{key}", self.prefix),
            message: message.into(),
        }
    }

    /// Fails for the first value outside the range.
    pub(super) fn within<T: PartialOrd + Display>(
        self,
        range: RangeInclusive<T>,
        values: &[(&str, &T)],
    ) -> Result<(), ConfigError> {
        match values.iter().find(|(_, value)| !range.contains(value)) {
            Some((key, value)) => {
                let (min, max) = range.into_inner();
                Err(self.error(key, format!("is {value}; expected {min} to {max}")))
            }
            None => Ok(()),
        }
    }

    /// Fails for the first time that is 0.
    pub(super) fn not_zero(self, times: &[(&str, &Duration)]) -> Result<(), ConfigError> {
        match times.iter().find(|(_, time)| time.is_zero()) {
            Some((key, _)) => Err(self.error(key, "is 0; expected a time such as \"5s\"")),
            None => Ok(()),
        }
    }

    /// Fails for the first time that is shorter than `min`.
    pub(super) fn at_least(
        self,
        min: Duration,
        times: &[(&str, &Duration)],
    ) -> Result<(), ConfigError> {
        match times.iter().find(|(_, time)| **time < min) {
            Some((key, time)) => {
                Err(self.error(key, format!("is {time:?}; expected {min:?} or more")))
            }
            None => Ok(()),
        }
    }

    /// Fails for the first time that is longer than a year.
    pub(super) fn at_most_a_year(self, times: &[(&str, &Duration)]) -> Result<(), ConfigError> {
        match times.iter().find(|(_, time)| **time > MAX_DURATION) {
            Some((key, _)) => Err(self.error(key, "is longer than a year")),
            None => Ok(()),
        }
    }
}
