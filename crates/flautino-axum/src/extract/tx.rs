//! `Tx`: the request's transaction.

use axum_core::extract::FromRequestParts;
use flautino::{Transaction, TransactionOptions};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::TryStreamExt;
use http::request::Parts;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr};

use super::rejection::{LayerMissing, TxRejection};
use crate::context::{RequestContext, ResponseMade, Unavailable};

/// One transaction for the whole request.
///
/// It begins with the first statement. When the handler's response is a success (a status below
/// 400), it is committed before the response leaves; a commit that fails turns the response into
/// a 500. It is rolled back after any other response, after a panic, and when the client goes away.
///
/// ```
/// use axum::Json;
/// use flautino_axum::{DbError, Tx};
///
/// async fn import(mut tx: Tx, Json(titles): Json<Vec<String>>) -> Result<(), DbError> {
///     for title in titles {
///         sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title).execute(&mut tx).await?;
///     }
///     Ok(())
/// }
/// ```
///
/// Drop it before the handler returns. If a spawned task or the response's own stream still holds it
/// when the response is made, the transaction is rolled back, and the response becomes a 500.
#[derive(Debug)]
pub struct Tx {
    context: RequestContext,
    /// `None` until it begins.
    transaction: Option<Box<Transaction>>,
}

impl Tx {
    /// Returns the transaction, and begins it if it has not begun yet.
    ///
    /// # Errors
    ///
    /// As [`Handle::begin`](flautino::Handle::begin), and where the response was made already.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: the next statement begins it then.
    pub async fn begin(&mut self) -> Result<&mut Transaction, sqlx::Error> {
        self.begin_with(TransactionOptions::default()).await
    }

    /// As [`begin`](Tx::begin), with options. They are ignored once the transaction has begun.
    ///
    /// # Errors
    ///
    /// As [`begin`](Tx::begin).
    ///
    /// # Cancellation
    ///
    /// As [`begin`](Tx::begin).
    pub async fn begin_with(
        &mut self,
        options: TransactionOptions,
    ) -> Result<&mut Transaction, sqlx::Error> {
        self.ensure_open()?;
        let transaction = match self.transaction.take() {
            Some(transaction) => transaction,
            None => {
                self.context.mark_begun()?;
                Box::new(self.context.handle.begin_with(options).await?)
            }
        };
        Ok(self.transaction.insert(transaction))
    }

    /// Commits now instead of after the handler.
    ///
    /// # Errors
    ///
    /// As [`Transaction::commit`].
    ///
    /// # Cancellation
    ///
    /// As [`Transaction::commit`].
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.ensure_open()?;
        match self.transaction.take() {
            Some(transaction) => transaction.commit().await,
            None => Ok(()),
        }
    }

    /// Rolls back, whatever the response will be.
    ///
    /// # Errors
    ///
    /// As [`Transaction::rollback`].
    ///
    /// # Cancellation
    ///
    /// As [`Transaction::rollback`].
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        match self.transaction.take() {
            Some(transaction) => transaction.rollback().await,
            None => Ok(()),
        }
    }

    /// Refuses, and rolls back, once the response was made, because the client may have been told by
    /// then that nothing was stored.
    fn ensure_open(&mut self) -> Result<(), ResponseMade> {
        if self.context.is_closed() {
            self.transaction = None;
            return Err(ResponseMade);
        }
        Ok(())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        self.context.release(self.transaction.take());
    }
}

impl<S: Sync> FromRequestParts<S> for Tx {
    type Rejection = TxRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, TxRejection> {
        let context: &RequestContext = parts.extensions.get().ok_or(LayerMissing(()))?;
        match context.take() {
            Ok(transaction) => Ok(Self { context: context.clone(), transaction }),
            Err(Unavailable) => Err(TxRejection::InUse),
        }
    }
}

impl<'c> Executor<'c> for &'c mut Tx {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async_stream::try_stream! {
            let mut items = self.begin().await?.fetch_many(query);
            while let Some(item) = items.try_next().await? {
                yield item;
            }
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.begin().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.begin().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.begin().await?.describe(sql).await })
    }
}
