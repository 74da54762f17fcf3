//! What a session is set to when it is new, and how a used one is made as new again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::WASH_TIMEOUT;
use crate::config::NodeConfig;
use crate::node::Node;
use crate::server_error::server_keeps_session;

/// The first version with `client_connection_check_interval`.
const CLIENT_CHECK_SINCE: u32 = 140_000;

/// Unknown parameter, invalid value, feature not supported.
const REFUSED: [&str; 3] = ["42704", "22023", "0A000"];

/// The settings of each session on a node.
#[derive(Debug)]
pub(crate) struct SessionSetup {
    client_check_interval: Duration,
    statement_timeout: Option<Duration>,
    pooler: bool,
    /// The pool was made elsewhere, with hooks of its own.
    foreign: bool,
    /// The server refused the interval: unknown, or not possible on its platform.
    client_check_refused: AtomicBool,
}

impl SessionSetup {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            client_check_interval: config.client_check_interval.unwrap_or(Duration::from_secs(1)),
            statement_timeout: config.statement_timeout,
            pooler: config.pgbouncer,
            foreign: false,
            client_check_refused: AtomicBool::new(false),
        }
    }

    /// A pool made elsewhere has its own set-up.
    pub(crate) fn none() -> Self {
        Self {
            client_check_interval: Duration::ZERO,
            statement_timeout: None,
            pooler: false,
            foreign: true,
            client_check_refused: AtomicBool::new(false),
        }
    }

    /// Whether the sessions are this engine's own: to be reset when used, and ended when abandoned.
    pub(crate) fn owns_sessions(&self) -> bool {
        !self.pooler && !self.foreign
    }

    /// Sets up a new session, in one round trip.
    ///
    /// A setting that the server refuses is a warning and costs no connection.
    pub(crate) async fn apply(
        &self,
        connection: &mut PgConnection,
        node: &Node,
    ) -> Result<(), sqlx::Error> {
        let Some(commands) = self.commands(connection, node) else {
            return Ok(());
        };
        match node.send(connection, commands).await {
            Err(sqlx::Error::Database(err))
                if self.checks_client(connection)
                    && err.code().is_some_and(|code| REFUSED.contains(&&*code)) =>
            {
                self.client_check_refused.store(true, Ordering::Relaxed);
                tracing::warn!(
                    node = %node.name, error = %err,
                    "the server refuses client_connection_check_interval; it will run an \
                     abandoned statement to its end"
                );
                match self.commands(connection, node) {
                    Some(rest) => node.send(connection, rest).await.map(drop),
                    None => Ok(()),
                }
            }
            result => result.map(drop),
        }
    }

    /// Resets a used session, in one round trip. `false` where that is not enough: a transaction
    /// is open on it that nobody told us of, or a statement was prepared in SQL.
    ///
    /// It is `DISCARD ALL` without the prepared statements, since sqlx counts on its own; and a new
    /// seed for `random()`.
    pub(crate) async fn wash(
        &self,
        connection: &mut PgConnection,
        node: &Node,
    ) -> Result<bool, sqlx::Error> {
        // Outside a transaction block `now()`, its start, is the statement's own start.
        let mut sql = String::from(
            "SELECT now() = statement_timestamp() \
             AND NOT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql); \
             CLOSE ALL; UNLISTEN *; \
             SELECT pg_advisory_unlock_all(); SET SESSION AUTHORIZATION DEFAULT; RESET ALL; \
             DISCARD TEMP; DISCARD SEQUENCES; \
             SELECT setseed(('x' || encode(substr(uuid_send(gen_random_uuid()), 1, 3), 'hex')) \
                 ::bit(24)::int / 16777216.0)",
        );
        if let Some(commands) = self.commands(connection, node) {
            sql = format!("{sql}; {commands}");
        }
        // sqlx's pool, which washes what it takes back, sets no bound, and keeps the place so long.
        let Ok(rows) = tokio::time::timeout(WASH_TIMEOUT, node.send(connection, sql)).await else {
            return Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
        };
        rows?.first().map_or(Ok(false), |row| row.try_get(0))
    }

    /// The settings as one message, if there are any to make.
    fn commands(&self, connection: &PgConnection, node: &Node) -> Option<String> {
        if self.pooler {
            return None;
        }
        let mut commands = Vec::new();
        if self.checks_client(connection) {
            let interval = self.client_check_interval.as_millis();
            commands.push(format!("SET client_connection_check_interval = {interval}"));
        }
        if let Some(timeout) = self.statement_timeout {
            commands.push(format!("SET statement_timeout = {}", timeout.as_millis()));
        }
        if node.is_replica() {
            commands.push("SET default_transaction_read_only = on".to_owned());
        }
        (!commands.is_empty()).then(|| commands.join("; "))
    }

    fn checks_client(&self, connection: &PgConnection) -> bool {
        let version = connection.server_version_num().unwrap_or(0);
        !self.pooler
            && version >= CLIENT_CHECK_SINCE
            && !self.client_check_interval.is_zero()
            && !self.client_check_refused.load(Ordering::Relaxed)
    }
}

/// A server process, told apart from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pid: i32,
    /// Microseconds since 1970.
    started: i64,
}

impl Backend {
    /// Asks which process serves the connection. `None` behind a pooler, where the process serves
    /// others too, in a pool made elsewhere, which may lead to a pooler, and where the server does
    /// not tell.
    pub(crate) async fn of(
        connection: &mut PgConnection,
        node: &Node,
    ) -> Result<Option<Self>, sqlx::Error> {
        const ASK: &str = "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::int8 \
                           FROM pg_stat_get_activity(pg_backend_pid())";
        if !node.setup.owns_sessions() {
            return Ok(None);
        }
        let row = match node.send(connection, ASK.to_owned()).await {
            Ok(rows) => rows.into_iter().next(),
            // A server's last word is not to be swallowed: the connection is dead.
            Err(err) if server_keeps_session(&err) => None,
            Err(err) => return Err(err),
        };
        let read = |row: sqlx::postgres::PgRow| {
            Some(Self { pid: row.try_get(0).ok()?, started: row.try_get(1).ok()? })
        };
        Ok(row.and_then(read))
    }

    /// Ends that process, over another connection of the same role, if it is at work still: one
    /// that rests sees by itself that its client is gone.
    pub(crate) async fn end(
        self,
        connection: &mut PgConnection,
        node: &Node,
    ) -> Result<(), sqlx::Error> {
        let Self { pid, started } = self;
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity({pid}) \
             WHERE (extract(epoch FROM backend_start) * 1000000)::int8 = {started} \
             AND state = 'active'"
        );
        node.send(connection, sql).await.map(drop)
    }
}
