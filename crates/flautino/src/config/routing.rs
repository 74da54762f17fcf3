//! `[routing]`: what the replica router does, and every threshold it goes by.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::check::{Place, keyed};
use super::de::{SecretStrings, Time};
use super::settings::settings;
use crate::error::ConfigError;
use crate::router::{Consistency, ExcludedNodes};

/// The most statements that may be remembered.
const MAX_STATEMENTS: usize = 1_000_000;
/// Shorter HMAC keys are guessed too easily.
const MIN_KEY_LENGTH: usize = 16;
/// Timers do not tell shorter times apart.
const MAX_POSITION_RATE: u32 = 1000;
/// More than 20 probes a second would be a load of their own.
const MIN_PROBE_INTERVAL: Duration = Duration::from_millis(50);

settings! {
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
    #[derive(Clone, PartialEq)]
    pub struct RoutingConfig {
        /// `"auto"`: reads go to replicas. `"primary"`: every statement goes to the primary, and
        /// tokens are handed out all the same, so that instances of both modes can run side by
        /// side. Default: `"auto"`.
        pub mode: RoutingMode = RoutingMode::Auto,
        /// How fresh reads are where a handle does not say: `"eventual"`, `"read_your_writes"`,
        /// `"session"` or `"strong"`. Default: `"read_your_writes"`.
        pub consistency: Consistency = Consistency::ReadYourWrites,
        /// How far a replica may lag behind before it leaves the rotation. Default: 10 s: far more
        /// than replication takes, and no more than a reader without a token puts up with.
        pub max_lag: Duration as Time = Duration::from_secs(10),
        /// What a read does that no replica may serve, once the primary's connections for such
        /// reads are taken: `"wait"`, `"stale"` or `"refuse"`. Default: `"wait"`.
        pub fallback: Fallback = Fallback::Wait,
        /// The part of the primary's connections that such reads may take, above 0 and up to 1; at
        /// least one connection. Default: 0.5, so that writes keep the other half when all replicas
        /// are gone.
        pub fallback_share: f64 = 0.5,
        /// How often a read is run again elsewhere: after a lost connection, a recovery conflict, a
        /// standby that is starting. 0 to 7. Default: 2, so that one read survives two nodes.
        pub retries: u32 = 2,
        /// How long what only a primary can do waits while there is none: writes, transactions,
        /// reads that no replica may serve. Then it fails with
        /// [`Error::NoPrimary`](crate::Error::NoPrimary). Also how long `open` waits for a primary
        /// once a replica answers. Default: 10 s: a replica that is promoted on request takes a few
        /// seconds, and clients are still there. 0 for no wait.
        pub failover_timeout: Duration as Time = Duration::from_secs(10),
        /// How often each node is probed, on a connection of its own; a tenth or two sooner, by
        /// chance. Default: 500 ms, so that a node that stops answering is out of use within 1.5 s.
        /// 50 ms at the least. The primary's catalogue is looked at as often, at most once a second:
        /// so long after another program has made a view over a volatile function, or the like, it may
        /// be read on a replica.
        pub probe_interval: Duration as Time = Duration::from_millis(500),
        /// How long a probe may take, connecting included. A token waits for its position twice as
        /// long at most, since a probe may be under way; and as long again for the primary's where
        /// it read from a node that does not tell. Default: 500 ms.
        pub probe_timeout: Duration as Time = Duration::from_millis(500),
        /// How many probes in a row must fail before a node is down; a refused connection is enough
        /// alone. Default: 2, since one may be lost to a pause of the network.
        pub failures_to_down: u32 = 2,
        /// How many probes in a row a node that was down must answer before it is used. Default: 2,
        /// so that one that starts and dies again and again stays out.
        pub answers_to_up: u32 = 2,
        /// How long a node that came back takes to reach its full share of the reads, from a tenth
        /// on: its caches are cold. Default: 10 s.
        pub slow_start: Duration as Time = Duration::from_secs(10),
        /// How long a session that wrote reads from the primary where no position can be had: the
        /// server does not tell, or did not answer in time. Default: 15 s, longer than `max_lag`,
        /// so that every replica in the rotation has the write by then; where the server never
        /// tells, lag is not known either, and the window is all there is.
        pub token_window: Duration as Time = Duration::from_secs(15),
        /// How many times a second replicas may be asked for their positions because of reads, all of
        /// them together, so no replica more often than that; each instance of the app counts for
        /// itself. Up to 1,000. Default: 200, one each 5 ms; 0 for none.
        ///
        /// A read that must see more than any replica is known to have has one of them asked, in turn;
        /// all reads profit from the answer. The rule: a replica is asked for a write when the write is
        /// as old as this replica lately took to replay one. So one that is seconds behind is not asked
        /// in vain. When a token is handed out, and such a read came within the last minute, a replica is
        /// asked without waiting for the next read. Where replay takes a few milliseconds, replicas then
        /// serve nearly all reads that come 10 ms after their session's write. With 0 what is known of
        /// replicas is as old as the probes.
        ///
        /// All this takes a role with `pg_read_all_stats`. Without it a replica's own answer does not
        /// prove where it is, so there are hardly any questions, and probes have to do.
        pub position_rate: u32 = 200,
        /// How long a read, all its attempts together, may wait for replicas that are asked because of it;
        /// see `position_rate`. Then the primary serves it. Default: 0: the primary serves it at once,
        /// and later reads profit. Some milliseconds, more than replay takes, relieve the primary of
        /// reads right after their write too. What no replica will have in time, by how long replay took
        /// lately, is not waited for. A token that is forged to be a little ahead of the primary waits
        /// as long.
        ///
        /// PostgreSQL 19's `WAIT FOR LSN` is not used: each read that waits would hold a session of the
        /// replica, and it does not tell timelines apart.
        pub token_wait: Duration as Time = Duration::ZERO,
        /// How long a client keeps its token: the cookie's `Max-Age`. Default: 10 min, longer than
        /// any replica in use may lag; a longer one costs nothing.
        pub token_max_age: Duration as Time = Duration::from_secs(600),
        /// Keys that sign tokens (HMAC-SHA-256): the first signs, all are accepted, so that keys
        /// can be changed without a break. At least 16 characters each. Default: none; tokens are
        /// not signed then, and one that is implausible means the primary.
        pub token_keys: Vec<String> as SecretStrings,
        /// How many statements the classifier remembers; a text above 4 kB counts for several.
        /// Default: 1,000, some megabytes at the most.
        pub statement_cache: usize = 1000,
    }
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

impl RoutingConfig {
    pub(super) fn check(&self, origin: &str) -> Result<(), ConfigError> {
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
            position_rate,
            token_wait,
            token_max_age,
            token_keys,
            statement_cache,
        } = self;
        let place = Place { origin, prefix: "routing." };
        if !(*fallback_share > 0.0 && *fallback_share <= 1.0) {
            let message = format!("is {fallback_share}; expected a part above 0 and up to 1");
            return Err(place.error("fallback_share", message));
        }
        let retries = &usize::try_from(*retries).unwrap_or(usize::MAX);
        place.within(0..=ExcludedNodes::MAX - 1, keyed![retries])?;
        place.at_least(MIN_PROBE_INTERVAL, keyed![probe_interval])?;
        place.within(1..=1000, keyed![failures_to_down, answers_to_up])?;
        place.within(1..=MAX_STATEMENTS, keyed![statement_cache])?;
        place.within(0..=MAX_POSITION_RATE, keyed![position_rate])?;
        if token_keys.iter().any(|key| key.len() < MIN_KEY_LENGTH) {
            // The key itself must not turn up in an error.
            let message = format!("has a key of less than {MIN_KEY_LENGTH} characters");
            return Err(place.error("token_keys", message));
        }
        place.not_zero(keyed![max_lag, probe_timeout, token_window])?;
        if token_window < max_lag {
            let message = format!(
                "is {token_window:?}, less than `max_lag` ({max_lag:?}): a replica in use could \
                 lack the session's writes"
            );
            return Err(place.error("token_window", message));
        }
        place.at_most_a_year(keyed![
            max_lag,
            failover_timeout,
            probe_interval,
            probe_timeout,
            slow_start,
            token_window,
            token_wait,
            token_max_age,
        ])
    }
}

impl fmt::Debug for RoutingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutingConfig")
            .field("mode", &self.mode)
            .field("consistency", &self.consistency)
            .field("max_lag", &self.max_lag)
            .field("fallback", &self.fallback)
            .field("token_keys", &format_args!("{} keys", self.token_keys.len()))
            .finish_non_exhaustive()
    }
}
