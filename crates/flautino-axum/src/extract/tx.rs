//! `Tx`: the request's transaction.

use std::fmt;
use std::marker::PhantomData;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use flautino::{Handle, Transaction, TransactionOptions};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::TryFutureExt;
use http::request::Parts;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Acquire, Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr};

use super::rejection::{LayerMissing, TxRejection};
use crate::context::{Begun, RequestContext, ResponseMade, Unavailable};
use crate::name::Main;

/// One transaction for the whole request.
///
/// It begins with the first statement. When the handler's response is a success (a status below
/// 400), it is committed before the response leaves; a commit that fails turns the response into
/// an error ([`EngineLayer::on_error`](crate::EngineLayer::on_error), else an empty 500). It is rolled back after any other response, after a panic, and when the client goes away.
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
/// when the response is made, the transaction is rolled back, and the response becomes an error likewise.
///
/// In an app with several engines, `Tx<Reports>` is the transaction of the one that is
/// [named](crate::EngineLayer::named) so. Each commits on its own: if one of them fails, those that were committed
/// before it stay.
pub struct Tx<N = Main> {
    context: RequestContext,
    handle: Handle,
    /// `None` until it begins.
    transaction: Option<Box<Transaction>>,
    name: PhantomData<fn() -> N>,
}

impl Tx {
    /// As axum's [`FromRequestParts`], for extractors of the app's own: `Tx::from_request_parts(…)` is the transaction
    /// of the engine without a name.
    ///
    /// # Errors
    ///
    /// [`TxRejection`].
    ///
    /// # Cancellation
    ///
    /// Cancel safe.
    pub async fn from_request_parts<S: Sync>(
        parts: &mut Parts,
        state: &S,
    ) -> Result<Self, TxRejection> {
        <Self as FromRequestParts<S>>::from_request_parts(parts, state).await
    }
}

impl<N> Tx<N> {
    /// Returns the transaction, and begins it if it has not begun yet. It does not nest: for a part that
    /// can be undone on its own, write `tx.begin().await?.savepoint().await?`.
    ///
    /// This method comes first also where sqlx's `Acquire` is imported, whose `begin` sets a savepoint.
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
        let this = match self.begun() {
            Ok(transaction) => return Ok(transaction),
            Err(this) => this,
        };
        this.ensure_open()?;
        this.context.mark_begun()?;
        let transaction = this.handle.begin_with(options).await?;
        Ok(this.transaction.insert(Box::new(transaction)))
    }

    /// Returns the transaction if it has begun, and the response was not made yet.
    pub fn get_mut(&mut self) -> Option<&mut Transaction> {
        self.begun().ok()
    }

    /// Returns the connection itself, for functions that take `&mut PgConnection`. Begins the transaction
    /// if it has not begun yet.
    ///
    /// ```
    /// use flautino_axum::{DbError, Tx};
    /// use sqlx::PgConnection;
    ///
    /// async fn store(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    ///     sqlx::query("INSERT INTO notes DEFAULT VALUES").execute(connection).await.map(drop)
    /// }
    ///
    /// async fn handler(mut tx: Tx) -> Result<(), DbError> {
    ///     store(tx.connection().await?).await?;
    ///     Ok(())
    /// }
    /// # let _: axum::Router = axum::Router::new().route("/", axum::routing::post(handler));
    /// ```
    ///
    /// # Errors
    ///
    /// As [`begin`](Tx::begin) and [`Transaction::connection`].
    ///
    /// # Cancellation
    ///
    /// As [`begin`](Tx::begin).
    pub async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        Ok(self.begin().await?.connection()?)
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

    /// The transaction, if it has begun and may go on; else itself again.
    fn begun(&mut self) -> Result<&mut Transaction, &mut Self> {
        if self.context.is_closed() {
            return Err(self);
        }
        match self.transaction {
            Some(ref mut transaction) => Ok(transaction),
            None => Err(self),
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

impl<N> Drop for Tx<N> {
    fn drop(&mut self) {
        let Self { context, handle, transaction, .. } = self;
        let begun = transaction.take();
        context.release(begun.map(|transaction| Begun { transaction, handle: handle.clone() }));
    }
}

impl<S: Sync, N: 'static> FromRequestParts<S> for Tx<N> {
    type Rejection = TxRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, TxRejection> {
        let found = RequestContext::find::<N>(&parts.extensions);
        let context = found.ok_or_else(LayerMissing::of::<N>)?.clone();
        let handle = context.handle_for(parts);
        match context.take() {
            Ok(None) => Ok(Self { context, handle, transaction: None, name: PhantomData }),
            Ok(Some(begun)) if begun.handle.settings() != handle.settings() => {
                context.release(Some(begun));
                Err(TxRejection::OtherSettings)
            }
            Ok(Some(Begun { transaction, .. })) => {
                Ok(Self { context, handle, transaction: Some(transaction), name: PhantomData })
            }
            Err(Unavailable) => Err(TxRejection::InUse),
        }
    }
}

/// `Option<Tx>` is `None` on a route without an [`EngineLayer`](crate::EngineLayer). Where there is one,
/// it is `Some`, or rejected as `Tx` is: a transaction that somebody else holds is not an absent one.
impl<S: Sync, N: 'static> OptionalFromRequestParts<S> for Tx<N> {
    type Rejection = TxRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, TxRejection> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(tx) => Ok(Some(tx)),
            Err(TxRejection::LayerMissing(_)) => Ok(None),
            Err(rejection) => Err(rejection),
        }
    }
}

/// For code that is generic over sqlx's `Acquire`; see that of [`Transaction`]. It begins the transaction
/// if that has not begun yet.
impl<'c, N> Acquire<'c> for &'c mut Tx<N> {
    type Database = Postgres;
    type Connection = &'c mut PgConnection;

    fn acquire(self) -> BoxFuture<'c, Result<&'c mut PgConnection, sqlx::Error>> {
        Box::pin(self.connection())
    }

    fn begin(self) -> BoxFuture<'c, Result<sqlx::Transaction<'c, Postgres>, sqlx::Error>> {
        Box::pin(async move { Acquire::begin(Tx::begin(self).await?).await })
    }
}

/// Does something in the transaction, which is begun first if it has not begun yet. Once it has, the future
/// is the transaction's own. It may be made before the response and polled after that; what it does then is
/// rolled back.
macro_rules! in_transaction {
    ($tx:expr, |$transaction:ident| $work:expr) => {
        match $tx.begun() {
            Ok($transaction) => $work,
            Err(tx) => Box::pin(async move {
                let $transaction = tx.begin().await?;
                $work.await
            }),
        }
    };
}

impl<N> fmt::Debug for Tx<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

impl<'c, N> Executor<'c> for &'c mut Tx<N> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        // Whether the response was made is asked when the stream is first polled.
        let items = async move { Ok(self.begin().await?.fetch_many(query)) };
        Box::pin(items.try_flatten_stream())
    }

    // Not by sqlx's own way, which goes through the stream.
    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        in_transaction!(self, |transaction| transaction.execute(query))
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        in_transaction!(self, |transaction| transaction.fetch_all(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        in_transaction!(self, |transaction| transaction.fetch_optional(query))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        in_transaction!(self, |transaction| transaction.prepare_with(sql, parameters))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        in_transaction!(self, |transaction| transaction.describe(sql))
    }
}
