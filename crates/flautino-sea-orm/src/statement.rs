//! SeaORM's statements as queries of sqlx.

use sea_orm::{DbErr, ExecResult, QueryResult, Statement, Values};
use sea_query_sqlx::SqlxValues;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Executor, Postgres};

use crate::error::{exec_err, query_err};

/// The statement with its values bound.
pub(crate) fn query<'q>(statement: Statement) -> Query<'q, Postgres, SqlxValues> {
    let values = statement.values.unwrap_or(Values(Vec::new()));
    sqlx::query_with(AssertSqlSafe(statement.sql), SqlxValues(values))
}

pub(crate) async fn execute<'c, E>(executor: E, statement: Statement) -> Result<ExecResult, DbErr>
where
    E: Executor<'c, Database = Postgres>,
{
    executor.execute(query(statement)).await.map(ExecResult::from).map_err(exec_err)
}

/// Runs a text that may hold several commands, in one round trip.
pub(crate) async fn execute_unprepared<'c, E>(executor: E, sql: &str) -> Result<ExecResult, DbErr>
where
    E: Executor<'c, Database = Postgres>,
{
    let text = AssertSqlSafe(sql.to_owned());
    executor.execute(text).await.map(ExecResult::from).map_err(exec_err)
}

pub(crate) async fn query_one<'c, E>(
    executor: E,
    statement: Statement,
) -> Result<Option<QueryResult>, DbErr>
where
    E: Executor<'c, Database = Postgres>,
{
    let row = executor.fetch_optional(query(statement)).await.map_err(query_err)?;
    Ok(row.map(QueryResult::from))
}

pub(crate) async fn query_all<'c, E>(
    executor: E,
    statement: Statement,
) -> Result<Vec<QueryResult>, DbErr>
where
    E: Executor<'c, Database = Postgres>,
{
    let rows = executor.fetch_all(query(statement)).await.map_err(query_err)?;
    Ok(rows.into_iter().map(QueryResult::from).collect())
}
