//! How a new session is set up, and how a used one is reset.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use super::backend::Backend;
use super::sender::Sender;
use crate::config::NodeConfig;
use crate::error::Error;
use crate::router::Role;
use crate::sqlstate::{
    FEATURE_NOT_SUPPORTED, INVALID_PARAMETER_VALUE, UNDEFINED_OBJECT, said_by,
    server_keeps_session, sqlstate,
};

/// The oldest version that is supported.
const MIN_SUPPORTED_VERSION: i32 = 130_000;
/// How many prepared statements a session may have that sqlx does not know of, because the future that
/// prepared them was dropped half-way.
const MAX_UNKNOWN_PREPARED: i64 = 20;
/// How long the reset of a session may take.
const RESET_TIMEOUT: Duration = Duration::from_secs(1);

/// The first version with `client_connection_check_interval`.
const CLIENT_CHECK_SINCE: u32 = 140_000;

/// The codes with which a server refuses a setting that it does not know or its platform lacks.
const SETTING_REFUSED: [&str; 3] =
    [UNDEFINED_OBJECT, INVALID_PARAMETER_VALUE, FEATURE_NOT_SUPPORTED];

/// How the sessions on a node are set up.
#[derive(Debug)]
pub(crate) struct SessionSetup {
    client_check_interval: Duration,
    statement_timeout: Option<Duration>,
    /// The node is a PgBouncer, which shares sessions with other clients.
    pooler: bool,
    /// Connections come from an external pool, whose own hooks set up its sessions.
    external: bool,
    /// It is the node of a test that stands in for a replica, over the primary's own pool.
    stands_in: bool,
    /// The server refused `client_connection_check_interval`, so it is not set any more.
    client_check_refused: AtomicBool,
    /// The server is a standby whose default isolation level is serializable, which it does not accept.
    /// Set by the first session that it refuses; what is done for it asks the server again each time.
    lowers_isolation: AtomicBool,
    /// The server does not tell which process serves a session, so it is not asked any more.
    hides_backend: AtomicBool,
}

/// What a server says of itself when a session is set up.
#[derive(Debug)]
pub(crate) struct ServerInfo {
    pub(crate) role: Role,
    /// The process that serves the session, and when the server was started, in microseconds since
    /// 1970. `None` where the server does not tell, and behind PgBouncer, where the process serves other
    /// clients too.
    pub(crate) backend: Option<(Backend, i64)>,
    version: (i32, String),
}

/// When a server was started, in microseconds since 1970; a macro, for `concat!`.
macro_rules! server_start {
    () => {
        "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8"
    };
}
pub(crate) use server_start;

/// Asks for what every server tells.
const ROLE: &str = "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int4, \
                    current_setting('server_version')";
/// Asks for the same, and for the process that answers.
const ROLE_AND_BACKEND: &str = concat!(
    "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int4, \
     current_setting('server_version'), pid, \
     (extract(epoch FROM backend_start) * 1000000)::int8, ",
    server_start!(),
    " FROM pg_stat_get_activity(pg_backend_pid())"
);
/// Makes a standby's sessions read-only by default, so that a session that outlives a promotion does not
/// write.
const READ_ONLY_ON_STANDBY: &str =
    "SELECT set_config('default_transaction_read_only', 'on', false) WHERE pg_is_in_recovery()";
/// For the transaction of the set-up alone, which cannot read anything at the default level.
const READ_AT_ALL: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; ";
/// Gives a standby's sessions the highest default level that a standby accepts.
const LOWER_ISOLATION_ON_STANDBY: &str = "SELECT set_config('default_transaction_isolation', 'repeatable read', false) \
     WHERE pg_is_in_recovery() AND current_setting('default_transaction_isolation') = 'serializable'";

impl SessionSetup {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            client_check_interval: config.client_check_interval.unwrap_or(Duration::from_secs(1)),
            statement_timeout: config.statement_timeout,
            pooler: config.pgbouncer,
            external: false,
            stands_in: false,
            client_check_refused: AtomicBool::new(false),
            lowers_isolation: AtomicBool::new(false),
            hides_backend: AtomicBool::new(false),
        }
    }

    /// For an external pool, which sets up its own sessions.
    pub(crate) fn none(stands_in: bool) -> Self {
        Self {
            client_check_interval: Duration::ZERO,
            statement_timeout: None,
            pooler: false,
            external: true,
            stands_in,
            client_check_refused: AtomicBool::new(false),
            lowers_isolation: AtomicBool::new(false),
            hides_backend: AtomicBool::new(false),
        }
    }

    /// Whether the sessions are this engine's own, so that it may set, reset and end them.
    pub(crate) fn owns_sessions(&self) -> bool {
        !self.pooler && !self.external
    }

    /// Whether it stands in for a replica, so that what a standby refuses is refused.
    pub(crate) fn stands_in(&self) -> bool {
        self.stands_in
    }

    /// Whether connections come from an external pool.
    pub(crate) fn is_external(&self) -> bool {
        self.external
    }

    /// Sets up a new session and asks the server what it is, in one round trip. If the server refuses
    /// a setting or a question, tries again without it.
    pub(crate) async fn set_up(
        &self,
        connection: &mut PgConnection,
        sender: &Sender,
    ) -> Result<ServerInfo, sqlx::Error> {
        loop {
            let asks_backend = self.owns_sessions() && !self.hides_backend.load(Ordering::Relaxed);
            let lowers_isolation = self.lowers_isolation.load(Ordering::Relaxed);
            let mut sql = String::from(if lowers_isolation { READ_AT_ALL } else { "" });
            sql.push_str(&self.commands(connection).unwrap_or_default());
            sql.push_str(if asks_backend { ROLE_AND_BACKEND } else { ROLE });
            match sender.send(connection, sql).await {
                Ok(rows) => return ServerInfo::read(rows.last().ok_or(sqlx::Error::RowNotFound)?),
                Err(err) if !lowers_isolation && is_isolation_refused(&err) => {
                    self.lowers_isolation.store(true, Ordering::Relaxed);
                    tracing::debug!(node = %sender.name, error = %err, "sessions get a lower default isolation level");
                }
                Err(err) if self.is_interval_refused(connection, &err) => {
                    self.client_check_refused.store(true, Ordering::Relaxed);
                    tracing::warn!(
                        node = %sender.name, error = %err,
                        "the server refuses client_connection_check_interval: it will go on with a \
                         statement whose client is gone, unless the statement is cancelled"
                    );
                }
                // Some databases that speak PostgreSQL's protocol have no such function.
                Err(err) if asks_backend && server_keeps_session(&err) => {
                    self.hides_backend.store(true, Ordering::Relaxed);
                    tracing::debug!(node = %sender.name, error = %err, "the server does not tell which process serves a session");
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn is_interval_refused(&self, connection: &PgConnection, error: &sqlx::Error) -> bool {
        let is_refusal = sqlstate(error).is_some_and(|code| SETTING_REFUSED.contains(&&*code));
        self.checks_client(connection) && is_refusal
    }

    /// Resets a used session, in one round trip. Returns `false` if that is not enough, because a
    /// transaction is open, a statement was prepared in SQL, or there is a temporary slot.
    ///
    /// It does what `DISCARD ALL` does, but keeps the prepared statements, which sqlx relies on, and
    /// sets a new seed for `random()`. A session with a temporary replication slot cannot be reset: the
    /// slot lasts as long as the session.
    pub(crate) async fn reset(
        &self,
        connection: &mut PgConnection,
        sender: &Sender,
    ) -> Result<bool, sqlx::Error> {
        // `now()` is the start of the transaction, and so differs from the start of the statement only
        // inside a transaction block.
        let mut sql = String::from(
            "SELECT now() = statement_timestamp() AND coalesce(NOT bool_or(from_sql), true) \
                 AND NOT EXISTS (SELECT FROM pg_replication_slots \
                     WHERE temporary AND active_pid = pg_backend_pid()), \
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
        // sqlx's pool has no timeout for its `after_release`, which calls this, and the connection
        // counts until it returns.
        let Ok(rows) = tokio::time::timeout(RESET_TIMEOUT, sender.send(connection, sql)).await
        else {
            return Err(Error::NotEnded { node: sender.name.to_string() }.into());
        };
        let rows = rows?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let (clean, prepared): (bool, i64) = (row.try_get(0)?, row.try_get(1)?);
        let known = i64::try_from(connection.cached_statements_size()).unwrap_or(i64::MAX);
        // Fewer: somebody dropped statements that sqlx counts on.
        if prepared < known || prepared > known + MAX_UNKNOWN_PREPARED {
            connection.clear_cached_statements().await?;
            sender.send(connection, "DEALLOCATE ALL".to_owned()).await?;
        }
        Ok(clean)
    }

    /// The SQL that sets up a session, each command ended by a semicolon. `None` where sessions are not
    /// the engine's own.
    pub(crate) fn commands(&self, connection: &PgConnection) -> Option<String> {
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
        commands = format!("{commands}{READ_ONLY_ON_STANDBY}; ");
        if self.lowers_isolation.load(Ordering::Relaxed) {
            commands = format!("{commands}{LOWER_ISOLATION_ON_STANDBY}; ");
        }
        Some(commands)
    }

    /// Whether to set `client_connection_check_interval`.
    fn checks_client(&self, connection: &PgConnection) -> bool {
        let version = connection.server_version_num().unwrap_or(0);
        !self.pooler
            && version >= CLIENT_CHECK_SINCE
            && !self.client_check_interval.is_zero()
            && !self.client_check_refused.load(Ordering::Relaxed)
    }
}

/// Whether a standby refuses to read at the default isolation level, which is serializable.
fn is_isolation_refused(error: &sqlx::Error) -> bool {
    said_by(error, FEATURE_NOT_SUPPORTED, "GetSerializableTransactionSnapshot")
}

impl ServerInfo {
    fn read(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        let role = if row.try_get(0)? { Role::Replica } else { Role::Primary };
        let backend = match row.len() {
            3 => None,
            _ => {
                Some((Backend { pid: row.try_get(3)?, started: row.try_get(4)? }, row.try_get(5)?))
            }
        };
        Ok(Self { role, backend, version: (row.try_get(1)?, row.try_get(2)?) })
    }

    /// Warns if the server's version is older than the oldest one that is supported.
    pub(crate) fn warn_if_too_old(&self, node: &str) {
        let (number, version) = &self.version;
        if *number < MIN_SUPPORTED_VERSION {
            tracing::warn!(
                %node, %version,
                "PostgreSQL {version} is older than 13, the oldest version flautino supports"
            );
        }
    }
}
