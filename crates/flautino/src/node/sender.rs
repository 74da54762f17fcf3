//! How the library sends SQL of its own: logged as any other statement.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};

use crate::logging::{Logger, Values};
use crate::statement::Statement;

/// Sends the library's own SQL to one server.
#[derive(Debug)]
pub(crate) struct Sender {
    /// The node's name, for the log.
    pub(crate) name: Arc<str>,
    pub(crate) logger: Arc<Logger>,
    /// Whether its sessions are shared with other clients, by PgBouncer.
    pub(crate) is_pooler: bool,
    /// Whether sqlx keeps statements prepared on a connection.
    pub(crate) keeps_prepared: bool,
}

impl Sender {
    /// Sends a text as one message.
    pub(crate) async fn send(
        &self,
        connection: &mut PgConnection,
        sql: String,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let entry = self.logger.sending(&self.name, &sql, Values::None, None);
        let statement = Statement::simple(AssertSqlSafe(sql).into_sql_str());
        let result = connection.fetch_all(statement).await;
        entry.finish(&result);
        result
    }

    /// Sends a statement, and keeps it prepared for the next time; but not behind PgBouncer, where
    /// it would stay in the sessions of other clients.
    pub(crate) async fn send_prepared(
        &self,
        connection: &mut PgConnection,
        sql: &'static str,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        if self.is_pooler {
            return self.send(connection, sql.to_owned()).await;
        }
        let entry = self.logger.sending(&self.name, sql, Values::None, None);
        let result = sqlx::query(sql).persistent(self.keeps_prepared).fetch_all(connection).await;
        entry.finish(&result);
        result
    }
}
