//! `[routing]`: what the replica router does, and every threshold it goes by.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{SeqAccess, Visitor};

use super::de::{self, SecretString};
use super::{LONGEST, TOO_LONG};
use crate::router::{Consistency, ExcludedNodes};

/// The most statements that may be remembered.
const MOST_STATEMENTS: usize = 1_000_000;
/// HMAC keys shorter than this are guessed too easily.
const SHORTEST_KEY: usize = 16;
/// Probing faster would be a load of its own: at most 20 a second.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// The replica router's settings: the key `routing`. They matter only where there are
/// `extra_nodes`: an engine of one node neither probes nor classifies.
///
/// ```
/// # fn main() -> Result<(), flautino::ConfigError> {
/// use flautino::{EngineConfig, Fallback};
///
/// let config = EngineConfig::from_toml(
///     r#"
///     [routing]
///     max_lag = "5s"
///     fallback = "stale"
///     "#,
/// )?;
/// assert_eq!(config.routing.fallback, Fallback::Stale);
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingConfig {
    /// `"auto"`: reads go to replicas. `"primary"`: every statement goes to the primary, and
    /// tokens are handed out all the same, so that instances of both modes can run side by side.
    /// Default: `"auto"`.
    pub mode: RoutingMode,
    /// How fresh reads are where a handle does not say: `"eventual"`, `"read_your_writes"`,
    /// `"session"` or `"strong"`. Default: `"read_your_writes"`.
    pub consistency: Consistency,
    /// How far a replica may lag behind before it leaves the rotation. Default: 10 s: far more
    /// than replication takes, and no more than a reader without a token puts up with.
    #[serde(with = "de::duration")]
    pub max_lag: Duration,
    /// What a read does that no replica may serve, once the primary's connections for such reads
    /// are taken: `"wait"`, `"stale"` or `"refuse"`. Default: `"wait"`.
    pub fallback: Fallback,
    /// The part of the primary's connections that such reads may take, above 0 and up to 1; at least one
    /// connection. Default: 0.5, so that writes keep the other half when all replicas are gone.
    pub fallback_share: f64,
    /// How often a read is run again elsewhere: after a lost connection, a recovery conflict, a
    /// standby that is starting. 0 to 7. Default: 2, so that one read survives two nodes.
    pub retries: u32,
    /// How long what only a primary can do waits while there is none: writes, transactions, reads
    /// that no replica may serve. Then it fails with [`Error::NoPrimary`](crate::Error::NoPrimary).
    /// Also how long `open` waits for a primary once a replica answers. Default: 10 s: a replica
    /// that is promoted on request takes a few seconds, and clients are still there. 0 for no wait.
    #[serde(with = "de::duration")]
    pub failover_timeout: Duration,
    /// How often each node is probed, on a connection of its own; a tenth or two sooner, by chance.
    /// Default: 500 ms, so that a node that stops answering is out of use within 1.5 s. 50 ms at the
    /// least.
    #[serde(with = "de::duration")]
    pub probe_interval: Duration,
    /// How long a probe may take, connecting included. A token waits for its position twice as long
    /// at most, since a probe may be under way; and as long again for the primary's where it read from
    /// a node that does not tell. Default: 500 ms.
    #[serde(with = "de::duration")]
    pub probe_timeout: Duration,
    /// How many probes in a row must fail before a node is down; a refused connection is enough
    /// alone. Default: 2, since one may be lost to a pause of the network.
    pub failures_to_down: u32,
    /// How many probes in a row a node that was down must answer before it is used. Default: 2,
    /// so that one that starts and dies again and again stays out.
    pub answers_to_up: u32,
    /// How long a node that came back takes to reach its full share of the reads, from a tenth
    /// on: its caches are cold. Default: 10 s.
    #[serde(with = "de::duration")]
    pub slow_start: Duration,
    /// How long a session that wrote reads from the primary where no position can be had: the
    /// server does not tell, or did not answer in time. Default: 15 s, longer than `max_lag`, so
    /// that every replica in the rotation has the write by then; where the server never tells, lag
    /// is not known either, and the window is all there is.
    #[serde(with = "de::duration")]
    pub token_window: Duration,
    /// How long a client keeps its token: the cookie's `Max-Age`. Default: 10 min, longer than
    /// any replica in use may lag; a longer one costs nothing.
    #[serde(with = "de::duration")]
    pub token_max_age: Duration,
    /// Keys that sign tokens (HMAC-SHA-256): the first signs, all are accepted, so that keys can be
    /// changed without a break. At least 16 characters each. Default: none; tokens are not signed
    /// then, and one that is implausible means the primary.
    #[serde(deserialize_with = "secrets")]
    pub token_keys: Vec<String>,
    /// How many statements the classifier remembers; a text above 4 kB counts for several.
    /// Default: 1,000, some megabytes at the most.
    pub statement_cache: usize,
}

/// See [`RoutingConfig::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RoutingMode {
    /// Reads go to replicas.
    #[default]
    Auto,
    /// Everything goes to the primary.
    Primary,
}

/// What a read does that no replica may serve, when the primary has no connection left for such
/// reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fallback {
    /// It waits for one, up to the pool's `acquire_timeout`; then it fails with
    /// [`Error::Overloaded`](crate::Error::Overloaded).
    #[default]
    Wait,
    /// A replica serves it that lags, but never one that has not what the session must see; where
    /// there is none, it waits.
    Stale,
    /// It fails with [`Error::Overloaded`](crate::Error::Overloaded) at once.
    Refuse,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            mode: RoutingMode::Auto,
            consistency: Consistency::ReadYourWrites,
            max_lag: Duration::from_secs(10),
            fallback: Fallback::Wait,
            fallback_share: 0.5,
            retries: 2,
            failover_timeout: Duration::from_secs(10),
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(500),
            failures_to_down: 2,
            answers_to_up: 2,
            slow_start: Duration::from_secs(10),
            token_window: Duration::from_secs(15),
            token_max_age: Duration::from_secs(600),
            token_keys: Vec::new(),
            statement_cache: 1000,
        }
    }
}

impl RoutingConfig {
    /// The key that is wrong and why, where the settings are not acceptable.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        // Exhaustive, so that a new setting cannot be forgotten here.
        let Self {
            mode: _,
            consistency: _,
            max_lag,
            fallback: _,
            fallback_share,
            retries,
            failover_timeout,
            probe_interval,
            probe_timeout,
            failures_to_down,
            answers_to_up,
            slow_start,
            token_window,
            token_max_age,
            token_keys,
            statement_cache,
        } = self;
        if !(*fallback_share > 0.0 && *fallback_share <= 1.0) {
            let message = format!("is {fallback_share}; expected a part above 0 and up to 1");
            return Err(("fallback_share", message));
        }
        let most = ExcludedNodes::MAX - 1;
        if usize::try_from(*retries).map_or(true, |retries| retries > most) {
            return Err(("retries", format!("is {retries}; expected 0 to {most}")));
        }
        if *probe_interval < SHORTEST_INTERVAL {
            let message = format!("is {probe_interval:?}; expected {SHORTEST_INTERVAL:?} or more");
            return Err(("probe_interval", message));
        }
        for (key, count) in
            [("failures_to_down", failures_to_down), ("answers_to_up", answers_to_up)]
        {
            if !(1..=1000).contains(count) {
                return Err((key, format!("is {count}; expected 1 to 1000")));
            }
        }
        if !(1..=MOST_STATEMENTS).contains(statement_cache) {
            let message = format!("is {statement_cache}; expected 1 to {MOST_STATEMENTS}");
            return Err(("statement_cache", message));
        }
        // The key itself must not turn up in an error.
        if token_keys.iter().any(|key| key.len() < SHORTEST_KEY) {
            let message = format!("has a key of less than {SHORTEST_KEY} characters");
            return Err(("token_keys", message));
        }
        let needed = [
            ("max_lag", max_lag),
            ("probe_timeout", probe_timeout),
            ("token_window", token_window),
        ];
        if let Some((key, _)) = needed.into_iter().find(|(_, time)| time.is_zero()) {
            return Err((key, "is 0; expected a time such as \"5s\"".to_owned()));
        }
        if token_window < max_lag {
            let message = format!(
                "is {token_window:?}, less than `max_lag` ({max_lag:?}): a replica in use could \
                 lack the session's writes"
            );
            return Err(("token_window", message));
        }
        let times = [
            ("max_lag", max_lag),
            ("failover_timeout", failover_timeout),
            ("probe_interval", probe_interval),
            ("probe_timeout", probe_timeout),
            ("slow_start", slow_start),
            ("token_window", token_window),
            ("token_max_age", token_max_age),
        ];
        match times.into_iter().find(|(_, time)| **time > LONGEST) {
            Some((key, _)) => Err((key, TOO_LONG.to_owned())),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RoutingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = format_args!("{} keys", self.token_keys.len());
        f.debug_struct("RoutingConfig")
            .field("mode", &self.mode)
            .field("consistency", &self.consistency)
            .field("max_lag", &self.max_lag)
            .field("fallback", &self.fallback)
            .field("token_keys", &format_args!("{keys}"))
            .finish_non_exhaustive()
    }
}

/// A list of strings of which no error shows a value.
fn secrets<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Secrets;

    impl<'de> Visitor<'de> for Secrets {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of strings")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut keys = Vec::new();
            while let Some(SecretString(key)) = list.next_element()? {
                keys.push(key);
            }
            Ok(keys)
        }

        // serde would quote what it did not expect.
        fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Vec<String>, E> {
            Err(E::custom("expected a list of strings, such as [\"…\"] (its value is not shown)"))
        }
    }
    deserializer.deserialize_any(Secrets)
}
