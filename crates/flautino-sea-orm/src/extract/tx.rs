//! [`Tx`]: the request's transaction.

use std::fmt::{Debug, Display};
use std::pin::Pin;

use async_trait::async_trait;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use flautino::TransactionOptions;
use flautino_axum::TxRejection;
use http::request::Parts;
use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult,
    Statement, TransactionError, TransactionTrait,
};

use crate::level::{Level, Source, TransactionGuard};
use crate::options::nested_mode;
use crate::statement;
use crate::transaction::{Transaction, through_level};

/// One transaction for the whole request, as [`flautino_axum::Tx`] is: it begins with the first statement, and is
/// committed before the response leaves, if that is a success (a status below 400). Else it is rolled back.
///
/// ```
/// use flautino_sea_orm::{DbError, Tx};
/// use sea_orm::ConnectionTrait;
///
/// async fn clear(tx: Tx) -> Result<(), DbError> {
///     tx.execute_unprepared("INSERT INTO archive SELECT * FROM notes").await?;
///     tx.execute_unprepared("DELETE FROM notes").await?;
///     Ok(())
/// }
/// # let _: axum::Router = axum::Router::new().route("/", axum::routing::delete(clear));
/// ```
///
/// SeaORM's `begin` on it begins a nested [`Transaction`]. One that is neither committed nor dropped when the
/// response is made, such as one in a spawned task, makes the response an error, as `Tx` itself does.
#[derive(Debug)]
pub struct Tx {
    level: Level,
}

impl Tx {
    /// Begins the transaction now, with options. They are ignored once it has begun.
    ///
    /// # Errors
    ///
    /// As [`Handle::begin_with`](flautino::Handle::begin_with).
    ///
    /// # Cancellation
    ///
    /// Cancel safe: the next statement begins it then.
    pub async fn start_with(&self, options: TransactionOptions) -> Result<(), DbErr> {
        self.level.start_with(options).await
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
    pub async fn commit(self) -> Result<(), DbErr> {
        self.level.commit().await
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
    pub async fn rollback(self) -> Result<(), DbErr> {
        self.level.rollback().await
    }

    /// As [`Transaction::lock`]. Begins the transaction if it has not begun yet.
    ///
    /// # Errors
    ///
    /// As [`Transaction::lock`], and as [`Handle::begin`](flautino::Handle::begin).
    ///
    /// # Cancellation
    ///
    /// Cancel safe.
    pub async fn lock(&self) -> Result<TransactionGuard<'_>, DbErr> {
        self.level.hold().await
    }
}

through_level!(Tx);

impl From<flautino_axum::Tx> for Tx {
    fn from(tx: flautino_axum::Tx) -> Self {
        Self { level: Level::outermost(Source::Request(tx)) }
    }
}

impl<S: Sync> FromRequestParts<S> for Tx {
    type Rejection = TxRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, TxRejection> {
        let tx = <flautino_axum::Tx as FromRequestParts<S>>::from_request_parts(parts, state);
        tx.await.map(Self::from)
    }
}

/// `Option<Tx>` is `None` on a route without an [`EngineLayer`](flautino_axum::EngineLayer).
impl<S: Sync> OptionalFromRequestParts<S> for Tx {
    type Rejection = TxRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, TxRejection> {
        let tx =
            <flautino_axum::Tx as OptionalFromRequestParts<S>>::from_request_parts(parts, state);
        Ok(tx.await?.map(Self::from))
    }
}
