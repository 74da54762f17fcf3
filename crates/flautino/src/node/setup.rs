//! What a session is set to when it is new, and how a used one is made as new again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use super::backend::Backend;
use super::sender::Sender;
use crate::config::NodeConfig;
use crate::error::timed_out;
use crate::router::Role;
use crate::sqlstate::{
    FEATURE_NOT_SUPPORTED, INVALID_PARAMETER_VALUE, UNDEFINED_OBJECT, server_keeps_session,
    sqlstate,
};

/// The oldest version that is supported.
const MIN_SUPPORTED_VERSION: i32 = 130_000;
/// How many statements a session may keep that sqlx does not know of, since their preparation was
/// dropped half-way.
const MAX_FORGOTTEN: i64 = 20;
/// How long the reset of a session may take.
const RESET_TIMEOUT: Duration = Duration::from_secs(1);

/// The first version with `client_connection_check_interval`.
const CLIENT_CHECK_SINCE: u32 = 140_000;

/// How a server refuses a setting that it does not know, or that its platform cannot do.
const SETTING_REFUSED: [&str; 3] =
    [UNDEFINED_OBJECT, INVALID_PARAMETER_VALUE, FEATURE_NOT_SUPPORTED];

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
    /// The server does not tell which process serves a session.
    process_untold: AtomicBool,
}

/// What a server says in a new session.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) role: Role,
    /// The process, and when the server was started, in microseconds since 1970. `None` where the
    /// server does not tell, and behind a pooler, where a process serves others too.
    pub(crate) process: Option<(Backend, i64)>,
    version: (i32, String),
}

/// When a server was started, in microseconds since 1970; a macro, for `concat!`.
macro_rules! server_start {
    () => {
        "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8"
    };
}
pub(crate) use server_start;

/// What every server tells.
const ROLE: &str = "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int4, \
                    current_setting('server_version')";
/// The same, and which process answers.
const PROCESS: &str = concat!(
    "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int4, \
     current_setting('server_version'), pid, \
     (extract(epoch FROM backend_start) * 1000000)::int8, ",
    server_start!(),
    " FROM pg_stat_get_activity(pg_backend_pid())"
);
/// A standby's sessions are read-only by default, so that one that outlives a promotion does not write.
const READ_ONLY_ON_STANDBY: &str =
    "SELECT set_config('default_transaction_read_only', 'on', false) WHERE pg_is_in_recovery()";

impl SessionSetup {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            client_check_interval: config.client_check_interval.unwrap_or(Duration::from_secs(1)),
            statement_timeout: config.statement_timeout,
            pooler: config.pgbouncer,
            foreign: false,
            client_check_refused: AtomicBool::new(false),
            process_untold: AtomicBool::new(false),
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
            process_untold: AtomicBool::new(false),
        }
    }

    /// Whether the sessions are this engine's own: to be reset when used, and ended when abandoned.
    pub(crate) fn owns_sessions(&self) -> bool {
        !self.pooler && !self.foreign
    }

    /// Sets up a new session and asks who answers, in one round trip.
    ///
    /// A setting that the server refuses is a warning and costs no connection.
    pub(crate) async fn hello(
        &self,
        connection: &mut PgConnection,
        sender: &Sender,
    ) -> Result<Hello, sqlx::Error> {
        loop {
            let asks_process = self.owns_sessions() && !self.process_untold.load(Ordering::Relaxed);
            let mut sql = self.commands(connection).unwrap_or_default();
            sql.push_str(if asks_process { PROCESS } else { ROLE });
            match sender.send(connection, sql).await {
                Ok(rows) => return Hello::read(rows.last().ok_or(sqlx::Error::RowNotFound)?),
                Err(err) if self.is_interval_refused(connection, &err) => {
                    self.client_check_refused.store(true, Ordering::Relaxed);
                    tracing::warn!(
                        node = %sender.name, error = %err,
                        "the server refuses client_connection_check_interval; it will run a \
                         statement whose client is gone to its end, unless it is cancelled"
                    );
                }
                // Not every relative of PostgreSQL knows its processes.
                Err(err) if asks_process && server_keeps_session(&err) => {
                    self.process_untold.store(true, Ordering::Relaxed);
                    tracing::debug!(node = %sender.name, error = %err, "the server does not tell its process");
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn is_interval_refused(&self, connection: &PgConnection, error: &sqlx::Error) -> bool {
        let is_refusal = sqlstate(error).is_some_and(|code| SETTING_REFUSED.contains(&&*code));
        self.checks_client(connection) && is_refusal
    }

    /// Resets a used session, in one round trip. `false` where that is not enough: a transaction
    /// is open on it that nobody told us of, or a statement was prepared in SQL.
    ///
    /// It is `DISCARD ALL` without the prepared statements, since sqlx counts on its own; and a new
    /// seed for `random()`.
    pub(crate) async fn reset(
        &self,
        connection: &mut PgConnection,
        sender: &Sender,
    ) -> Result<bool, sqlx::Error> {
        // Outside a transaction block `now()`, its start, is the statement's own start.
        let mut sql = String::from(
            "SELECT now() = statement_timestamp() AND coalesce(NOT bool_or(from_sql), true), \
                 count(*) FROM pg_prepared_statements; \
             CLOSE ALL; UNLISTEN *; \
             SELECT pg_advisory_unlock_all(); SET SESSION AUTHORIZATION DEFAULT; RESET ALL; \
             DISCARD TEMP; DISCARD SEQUENCES; \
             SELECT setseed(('x' || encode(substr(uuid_send(gen_random_uuid()), 1, 3), 'hex')) \
                 ::bit(24)::int / 16777216.0)",
        );
        if let Some(commands) = self.commands(connection) {
            sql = format!("{sql}; {commands}");
        }
        // sqlx's pool, which washes what it takes back, sets no bound, and keeps the place so long.
        let Ok(rows) = tokio::time::timeout(RESET_TIMEOUT, sender.send(connection, sql)).await
        else {
            return Err(timed_out("a used session was not reset in time"));
        };
        let rows = rows?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let (clean, prepared): (bool, i64) = (row.try_get(0)?, row.try_get(1)?);
        let known = i64::try_from(connection.cached_statements_size()).unwrap_or(i64::MAX);
        if prepared > known + MAX_FORGOTTEN {
            // Both sides begin anew.
            connection.clear_cached_statements().await?;
            sender.send(connection, "DEALLOCATE ALL".to_owned()).await?;
        }
        Ok(clean)
    }

    /// The settings, each ended by a semicolon, if there are any to make.
    fn commands(&self, connection: &PgConnection) -> Option<String> {
        if !self.owns_sessions() {
            return None;
        }
        let mut commands = String::new();
        if self.checks_client(connection) {
            let interval = self.client_check_interval.as_millis();
            commands = format!("SET client_connection_check_interval = {interval}; ");
        }
        if let Some(timeout) = self.statement_timeout {
            commands = format!("{commands}SET statement_timeout = {}; ", timeout.as_millis());
        }
        Some(format!("{commands}{READ_ONLY_ON_STANDBY}; "))
    }

    fn checks_client(&self, connection: &PgConnection) -> bool {
        let version = connection.server_version_num().unwrap_or(0);
        !self.pooler
            && version >= CLIENT_CHECK_SINCE
            && !self.client_check_interval.is_zero()
            && !self.client_check_refused.load(Ordering::Relaxed)
    }
}

impl Hello {
    fn read(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        let role = if row.try_get(0)? { Role::Replica } else { Role::Primary };
        let process = match row.len() {
            3 => None,
            _ => {
                Some((Backend { pid: row.try_get(3)?, started: row.try_get(4)? }, row.try_get(5)?))
            }
        };
        Ok(Self { role, process, version: (row.try_get(1)?, row.try_get(2)?) })
    }

    /// Warns if the server is older than what is supported.
    pub(crate) fn warn_if_too_old(&self, node: &str) {
        let (number, version) = &self.version;
        if *number < MIN_SUPPORTED_VERSION {
            tracing::warn!(
                node, %version,
                "PostgreSQL {version} is older than 13, the oldest version flautino supports"
            );
        }
    }
}
