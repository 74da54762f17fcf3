//! How the library sends its own SQL, which is logged as any other statement.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};

use crate::logging::{Logger, Values};
use crate::statement::ToSend;

/// Sends the library's own SQL to one server.
#[derive(Debug)]
pub(crate) struct Sender {
    /// The node's name, for the log.
    pub(crate) name: Arc<str>,
    pub(crate) logger: Arc<Logger>,
    /// Whether the server is a PgBouncer, which shares its sessions with other clients.
    pub(crate) is_pooler: bool,
    /// Whether sqlx may keep prepared statements on a connection.
    pub(crate) keeps_prepared: bool,
}

impl Sender {
    /// Sends the text, which may hold several commands, in one message of the simple query protocol.
    pub(crate) async fn send(
        &self,
        connection: &mut PgConnection,
        sql: String,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let log_entry = self.logger.sending(&self.name, &sql, Values::None, None);
        let statement = ToSend::simple(AssertSqlSafe(sql).into_sql_str());
        let result = connection.fetch_all(statement).await;
        log_entry.finish(&result);
        result
    }

    /// Sends a statement and keeps it prepared for the next time. Behind PgBouncer it is not prepared,
    /// because it would stay in a session that other clients use.
    pub(crate) async fn send_prepared(
        &self,
        connection: &mut PgConnection,
        sql: &'static str,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        if self.is_pooler {
            return self.send(connection, sql.to_owned()).await;
        }
        let log_entry = self.logger.sending(&self.name, sql, Values::None, None);
        let result = sqlx::query(sql).persistent(self.keeps_prepared).fetch_all(connection).await;
        log_entry.finish(&result);
        result
    }
}
