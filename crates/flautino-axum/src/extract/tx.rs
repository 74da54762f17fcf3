//! `Tx`: the request's transaction.

use std::io;

use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use flautino::{Transaction, TransactionOptions};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::TryStreamExt;
use http::StatusCode;
use http::request::Parts;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr};

use super::db::{LayerMissing, scope};
use crate::scope::{NotFree, Scope};

/// One transaction for the whole request.
///
/// It begins with the first statement. When the handler's response is a success (a status below
/// 400), it is committed before the response leaves; a commit that fails turns the response into
/// a 500. Any other response, a panic and a client that went away roll it back.
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
/// Hand it back: a `Tx` that something still holds when the response is made (a spawned task, the
/// response's own stream) is rolled back, and the response becomes a 500.
#[derive(Debug)]
pub struct Tx {
    scope: Scope,
    transaction: Option<Box<Transaction>>,
    /// Whether the request's transaction is still with this value.
    holds: bool,
}

impl Tx {
    /// The transaction, begun if it was not yet.
    ///
    /// # Errors
    ///
    /// As [`Handle::begin`](flautino::Handle::begin), and where the response was made already.
    ///
    /// # Cancellation
    ///
    /// Safe: it is begun by the next statement then.
    pub async fn begin(&mut self) -> Result<&mut Transaction, sqlx::Error> {
        self.begin_with(TransactionOptions::default()).await
    }

    /// As [`begin`](Tx::begin), with options. They count only where it has not begun.
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
        self.not_over()?;
        if self.transaction.is_none() {
            if !self.scope.begins() {
                return Err(over());
            }
            self.transaction = Some(Box::new(self.scope.handle.begin_with(options).await?));
        }
        self.transaction.as_deref_mut().ok_or(sqlx::Error::WorkerCrashed)
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
        self.not_over()?;
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

    /// Once the response is made, the client may have been told that nothing was stored.
    fn not_over(&mut self) -> Result<(), sqlx::Error> {
        if self.scope.is_over() {
            self.transaction = None; // rolls back
            return Err(over());
        }
        Ok(())
    }
}

fn over() -> sqlx::Error {
    sqlx::Error::Io(io::Error::other(
        "the request's transaction is over, since its response was made; \
         use `Db` in what outlives the request",
    ))
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.holds {
            self.scope.give_back(self.transaction.take());
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Tx {
    type Rejection = TxRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, TxRejection> {
        let scope = scope(&parts.extensions)?.clone();
        match scope.take() {
            Ok(transaction) => Ok(Self { scope, transaction, holds: true }),
            Err(NotFree::Held | NotFree::Over) => Err(TxRejection::InUse),
        }
    }
}

/// Why a [`Tx`] cannot be had: 500.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TxRejection {
    /// The layer is missing.
    #[error(transparent)]
    LayerMissing(#[from] LayerMissing),
    /// Another extractor of the same request holds it; two would be one transaction.
    #[error(
        "the request's transaction is already extracted elsewhere, in another argument of the \
         handler or in a middleware that still holds it; extract `Tx` once and pass it on"
    )]
    InUse,
}

impl IntoResponse for TxRejection {
    fn into_response(self) -> Response {
        match self {
            Self::LayerMissing(missing) => missing.into_response(),
            Self::InUse => {
                tracing::error!("{self}");
                (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
            }
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
