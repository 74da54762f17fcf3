//! The transaction around a statement where others use the session too: behind PgBouncer a statement is several
//! messages, which reach one server only within a transaction; and what a handle has set must not outlast it.

use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr, SqlStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

use crate::node::{Extent, Settings};
use crate::sqlstate::server_keeps_session;
use crate::statement::{Sending, ToSend};

/// Begins the transaction, if the statement is sent in one, with these settings in force.
pub(super) async fn begin(
    sending: Sending,
    settings: Option<&Settings>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    // Boxed, so that it takes no room in the future of each statement.
    match (sending, settings) {
        (Sending::AsItIs | Sending::Unnamed | Sending::OneMessage, _) => Ok(()),
        (Sending::InTransaction, None) => {
            Box::pin(PgTransactionManager::begin(connection, None)).await
        }
        (Sending::InTransaction, Some(settings)) => {
            Box::pin(begin_with(settings, connection)).await
        }
    }
}

async fn begin_with(settings: &Settings, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = AssertSqlSafe(format!("BEGIN; {}", settings.sql(Extent::Transaction)));
    let begun = PgTransactionManager::begin(connection, Some(sql.into_sql_str())).await;
    if begun.is_err() {
        // sqlx does not know of a transaction whose settings were refused.
        let rollback = ToSend::simple(SqlStr::from_static("ROLLBACK"));
        sqlx::Executor::execute(connection, rollback).await?;
    }
    begun
}

/// Ends the transaction, if the statement was sent in one: commits it if the statement succeeded, else
/// rolls it back.
pub(super) async fn end<T>(
    sending: Sending,
    connection: &mut PgConnection,
    result: &mut Result<T, sqlx::Error>,
) {
    if sending != Sending::InTransaction {
        return;
    }
    if result.is_err() {
        // The statement's own error says more than an error of the rollback.
        let _ = Box::pin(PgTransactionManager::rollback(connection)).await;
    } else if let Err(error) = Box::pin(commit(connection)).await {
        *result = Err(error);
    }
}

async fn commit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let committed = PgTransactionManager::commit(connection).await;
    if committed.as_ref().is_err_and(server_keeps_session) {
        // The server has ended the transaction, but sqlx still counts it as open.
        PgTransactionManager::rollback(connection).await?;
    }
    committed
}

/// Ends the transaction after its statement was dropped half-way. If the statement had failed, the server
/// rolls back at the `COMMIT`.
pub(super) async fn end_abandoned(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if PgTransactionManager::get_transaction_depth(connection) > 0 {
        return commit(connection).await;
    }
    // sqlx does not know of a transaction whose `BEGIN` was dropped half-way.
    let commit = ToSend::simple(SqlStr::from_static("COMMIT"));
    sqlx::Executor::execute(connection, commit).await.map(drop)
}
