//! `[pool]`: how many connections each node has, and for how long.

use std::time::Duration;

use super::check::{Place, keyed};
use super::de::Time;
use super::settings::settings;
use crate::error::ConfigError;

/// PostgreSQL's own upper limit for `max_connections`.
const MAX_CONNECTIONS: u32 = 262_143;

settings! {
    /// The pool of a node.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct PoolConfig {
        /// The most connections to one node. Default: 10, as in sqlx.
        pub max_connections: u32 = 10,
        /// How many connections to one node are kept open, those in use counted too. Default: 0.
        /// `open` waits for the first; the others are opened in the background. What is missing
        /// later is opened within a second, and a second after an attempt that failed; not while
        /// the router knows that the node is down. One that the server ended while it was idle
        /// counts until it is used or another is lost in use.
        pub min_connections: u32 = 0,
        /// How long a statement waits for a connection, a new one's making included, before it
        /// fails with [`Error::AcquireTimeout`](crate::Error::AcquireTimeout). Default: 5 s, so
        /// that an overloaded app answers before its clients give up.
        pub acquire_timeout: Duration as Time = Duration::from_secs(5),
        /// How long a connection may lie idle before it is closed; 0 for ever. Default: 10 min.
        pub idle_timeout: Duration as Time = Duration::from_secs(10 * 60),
        /// How old a connection may grow before it is replaced; 0 for ever. Default: 30 min. Each
        /// ends up to a tenth earlier, by chance, so that those made together do not end together.
        pub max_lifetime: Duration as Time = Duration::from_secs(30 * 60),
        /// A connection that was used within this time is lent as it is; one that rested longer is
        /// pinged first, at one round trip more. 0 to ping at each use. Default: 1 s.
        pub warm_time: Duration as Time = Duration::from_secs(1),
        /// How long that ping may take before the connection counts as lost, such as one that a
        /// firewall forgot. Those that rested as long are closed with it. Default: 500 ms.
        ///
        /// sqlx 0.9 sets no TCP keepalive on its sockets, nor lets others set it. The server can
        /// send them instead, which keeps a firewall from forgetting:
        /// `ALTER ROLE app SET tcp_keepalives_idle = 60`.
        pub ping_timeout: Duration as Time = Duration::from_millis(500),
        /// How many connections to one node are made at a time, so that a cold start does not storm
        /// the server. Default: 4.
        pub connect_concurrency: u32 = 4,
        /// The most connections of the `PgPool` that [`Engine::pool`](crate::Engine::pool) makes
        /// when it is asked for one. They count beside `max_connections`. Default: 10, as in sqlx.
        pub sqlx_connections: u32 = 10,
        /// From which wait for a connection on a warning is logged. Default: 2 s.
        pub acquire_slow_threshold: Duration as Time = Duration::from_secs(2),
    }
}

impl PoolConfig {
    /// The same settings, checked; for [`Engine::open_with`](crate::Engine::open_with).
    pub(crate) fn checked(self, origin: &str) -> Result<Self, ConfigError> {
        self.check(origin)?;
        Ok(self)
    }

    pub(super) fn check(&self, origin: &str) -> Result<(), ConfigError> {
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
        let place = Place { origin, prefix: "pool." };
        place.within(
            1..=MAX_CONNECTIONS,
            keyed![max_connections, connect_concurrency, sqlx_connections],
        )?;
        if min_connections > max_connections {
            let message =
                format!("is {min_connections}, more than `max_connections` ({max_connections})");
            return Err(place.error("min_connections", message));
        }
        place.not_zero(keyed![acquire_timeout, ping_timeout])?;
        place.at_most_a_year(keyed![
            acquire_timeout,
            idle_timeout,
            max_lifetime,
            warm_time,
            ping_timeout,
            acquire_slow_threshold,
        ])
    }
}
