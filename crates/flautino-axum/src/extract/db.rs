//! `Db`: the request's handle.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
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
use crate::name::Main;

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
///
/// In an app with several engines, `Db<Reports>` is the handle of the one that is
/// [named](crate::EngineLayer::named) so.
pub struct Db<N = Main> {
    handle: Handle,
    name: PhantomData<fn() -> N>,
}

impl<S: Sync, N: 'static> FromRequestParts<S> for Db<N> {
    type Rejection = LayerMissing;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, LayerMissing> {
        let context = RequestContext::find::<N>(&parts.extensions);
        Ok(context.ok_or_else(LayerMissing::of::<N>)?.handle_for(parts).into())
    }
}

/// `Option<Db>` is `None` on a route without an [`EngineLayer`](crate::EngineLayer).
impl<S: Sync, N: 'static> OptionalFromRequestParts<S> for Db<N> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Infallible> {
        Ok(<Self as FromRequestParts<S>>::from_request_parts(parts, state).await.ok())
    }
}

impl Db {
    /// Returns the request's handle from its extensions, for services that have no extractors.
    ///
    /// # Errors
    ///
    /// [`LayerMissing`], where the request did not pass an [`EngineLayer`](crate::EngineLayer).
    pub fn from_extensions(extensions: &Extensions) -> Result<Self, LayerMissing> {
        Self::named_from_extensions(extensions)
    }

    /// As axum's [`FromRequestParts`], for extractors of the app's own: `Db::from_request_parts(…)` is the handle of
    /// the engine without a name.
    ///
    /// # Errors
    ///
    /// [`LayerMissing`], where the request did not pass an [`EngineLayer`](crate::EngineLayer).
    ///
    /// # Cancellation
    ///
    /// Cancel safe.
    pub async fn from_request_parts<S: Sync>(
        parts: &mut Parts,
        state: &S,
    ) -> Result<Self, LayerMissing> {
        <Self as FromRequestParts<S>>::from_request_parts(parts, state).await
    }
}

// `begin` and `acquire` would be reached by `Deref` too, but where sqlx's `Acquire` is imported, its
// methods for `&Db` would come first.
impl<N> Db<N> {
    /// As [`from_extensions`](Db::from_extensions), for the engine of this name:
    /// `Db::<Reports>::named_from_extensions(…)`.
    ///
    /// # Errors
    ///
    /// [`LayerMissing`], where the request did not pass an [`EngineLayer`](crate::EngineLayer) of this name.
    pub fn named_from_extensions(extensions: &Extensions) -> Result<Self, LayerMissing>
    where
        N: 'static,
    {
        let context = RequestContext::find::<N>(extensions).ok_or_else(LayerMissing::of::<N>)?;
        Ok(context.handle_among(extensions).into())
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
    pub fn begin(&self) -> impl Future<Output = Result<Transaction, sqlx::Error>> + Send + use<N> {
        self.handle.begin()
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
    pub fn acquire(&self) -> impl Future<Output = Result<Lease, sqlx::Error>> + Send + use<N> {
        self.handle.acquire()
    }
}

impl<N> Deref for Db<N> {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl<N> From<Handle> for Db<N> {
    fn from(handle: Handle) -> Self {
        Self { handle, name: PhantomData }
    }
}

impl<N> From<Db<N>> for Handle {
    fn from(db: Db<N>) -> Self {
        db.handle
    }
}

impl<N> Clone for Db<N> {
    fn clone(&self) -> Self {
        self.handle.clone().into()
    }
}

impl<N> fmt::Debug for Db<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.handle).finish()
    }
}

impl<'c, N> Executor<'c> for &'_ Db<N> {
    type Database = Postgres;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.handle).execute(query)
    }

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.handle).fetch_many(query)
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.handle).fetch_all(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&self.handle).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        (&self.handle).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        (&self.handle).describe(sql)
    }
}

/// For code that is generic over sqlx's `Acquire`; see that of [`Handle`].
impl<'c, N> Acquire<'c> for &'_ Db<N> {
    type Database = Postgres;
    type Connection = Lease;

    fn acquire(self) -> BoxFuture<'c, Result<Lease, sqlx::Error>> {
        Acquire::acquire(&self.handle)
    }

    fn begin(self) -> BoxFuture<'c, Result<sqlx::Transaction<'c, Postgres>, sqlx::Error>> {
        Acquire::begin(&self.handle)
    }
}
