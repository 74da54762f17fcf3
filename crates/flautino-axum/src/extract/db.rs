//! `Db`: the request's handle.

use std::convert::Infallible;
use std::ops::Deref;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use flautino::{Handle, Lease, Transaction};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use http::Extensions;
use http::request::Parts;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Acquire, Describe, Either, Execute, Executor, Postgres, SqlStr};

use super::rejection::LayerMissing;
use crate::context::RequestContext;

/// The request's [`Handle`]: an extractor, and an sqlx executor.
///
/// `&db` runs queries, and so does `db.execute("…")` with `sqlx::Executor` imported. Extracting it costs
/// no I/O. Clones may go into spawned tasks. It has all methods of a [`Handle`],
/// such as [`node`](Handle::node), [`begin`](Handle::begin) and [`acquire`](Handle::acquire).
///
/// ```
/// use flautino_axum::{Db, DbError};
///
/// async fn handler(db: Db) -> Result<String, DbError> {
///     let (text,): (String,) = sqlx::query_as("SELECT version()").fetch_one(&db).await?;
///     Ok(text)
/// }
/// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(handler));
/// ```
#[derive(Debug, Clone)]
pub struct Db(pub Handle);

impl<S: Sync> FromRequestParts<S> for Db {
    type Rejection = LayerMissing;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, LayerMissing> {
        Self::from_extensions(&parts.extensions)
    }
}

/// `Option<Db>` is `None` on a route without an [`EngineLayer`](crate::EngineLayer).
impl<S: Sync> OptionalFromRequestParts<S> for Db {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::from_extensions(&parts.extensions).ok())
    }
}

// `begin` and `acquire` would be reached by `Deref` too, but where sqlx's `Acquire` is imported, its
// methods for `&Db` would come first.
impl Db {
    /// Returns the request's handle from its extensions, for services that have no extractors.
    ///
    /// # Errors
    ///
    /// [`LayerMissing`], where the request did not pass an [`EngineLayer`](crate::EngineLayer).
    pub fn from_extensions(extensions: &Extensions) -> Result<Self, LayerMissing> {
        let context: &RequestContext = extensions.get().ok_or(LayerMissing(()))?;
        Ok(Self(context.handle().clone()))
    }

    /// As [`Handle::begin`].
    ///
    /// # Errors
    ///
    /// As [`Handle::begin`].
    ///
    /// # Cancellation
    ///
    /// As [`Handle::begin`].
    pub fn begin(&self) -> impl Future<Output = Result<Transaction, sqlx::Error>> + Send + use<> {
        self.0.begin()
    }

    /// As [`Handle::acquire`].
    ///
    /// # Errors
    ///
    /// As [`Handle::acquire`].
    ///
    /// # Cancellation
    ///
    /// As [`Handle::acquire`].
    pub fn acquire(&self) -> impl Future<Output = Result<Lease, sqlx::Error>> + Send + use<> {
        self.0.acquire()
    }
}

impl Deref for Db {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0
    }
}

impl<'c> Executor<'c> for &'_ Db {
    type Database = Postgres;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.0).execute(query)
    }

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.0).fetch_many(query)
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.0).fetch_all(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.0).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        (&self.0).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        (&self.0).describe(sql)
    }
}

/// For code that is generic over sqlx's `Acquire`; see that of [`Handle`].
impl<'c> Acquire<'c> for &'_ Db {
    type Database = Postgres;
    type Connection = Lease;

    fn acquire(self) -> BoxFuture<'c, Result<Lease, sqlx::Error>> {
        Acquire::acquire(&self.0)
    }

    fn begin(self) -> BoxFuture<'c, Result<sqlx::Transaction<'c, Postgres>, sqlx::Error>> {
        Acquire::begin(&self.0)
    }
}
