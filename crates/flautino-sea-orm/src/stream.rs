//! [`QueryStream`]: rows as they come.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_core::stream::BoxStream;
use sea_orm::{DbErr, QueryResult, Statement};
use sqlx::postgres::PgRow;

use crate::error::query_err;
use crate::level::TransactionGuard;
use crate::statement::query;

/// The rows of a statement, as they come from the server: what SeaORM's `stream` reads.
///
/// Dropped before its end, the statement is cancelled at the server. One of a transaction has the
/// transaction's connection until it is dropped.
#[must_use = "nothing is sent before the stream is polled"]
pub struct QueryStream<'a> {
    rows: BoxStream<'a, Result<PgRow, sqlx::Error>>,
}

impl<'a> QueryStream<'a> {
    pub(crate) fn new(rows: BoxStream<'a, Result<PgRow, sqlx::Error>>) -> Self {
        Self { rows }
    }

    /// Those of a statement in a transaction, whose connection the stream has until it is dropped.
    pub(crate) fn of_transaction(mut guard: TransactionGuard<'a>, statement: Statement) -> Self {
        Self::new(Box::pin(async_stream::try_stream! {
            let mut rows = query(statement).fetch(&mut **guard);
            while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
                yield row?;
            }
        }))
    }
}

impl Stream for QueryStream<'_> {
    type Item = Result<QueryResult, DbErr>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let row = self.get_mut().rows.as_mut().poll_next(context);
        row.map(|row| row.map(|row| row.map(QueryResult::from).map_err(query_err)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl fmt::Debug for QueryStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryStream").finish_non_exhaustive()
    }
}
