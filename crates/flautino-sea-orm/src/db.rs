//! [`Db`]: a handle that SeaORM's queries take.

mod executor;

use std::fmt::{Debug, Display};
use std::ops::Deref;
use std::pin::Pin;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flautino::{Consistency, Engine, Handle, Lease, TransactionOptions, UnknownNode};
use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult,
    Statement, TransactionError, TransactionTrait,
};

use crate::error::query_err;
use crate::options::options;
use crate::statement;
#[cfg(feature = "stream")]
use crate::stream::QueryStream;
use crate::transaction::{self, Transaction};

/// A [`Handle`] that SeaORM's queries take, and sqlx's too. With the feature `axum` it is an extractor.
///
/// ```
/// use flautino_sea_orm::Db;
/// use sea_orm::{ConnectionTrait, DbErr};
///
/// async fn size(db: &Db) -> Result<i64, DbErr> {
///     let sql = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, "SELECT count(*) FROM notes");
///     let row = db.query_one_raw(sql).await?; // a replica
///     row.map_or(Ok(0), |row| row.try_get_by_index(0))
/// }
/// ```
///
/// It has all methods of the handle. `begin`, `begin_with` and `transaction` are SeaORM's, whether or not its traits
/// are imported; flautino's own are those of `db.0`. [`transaction_with`](Handle::transaction_with), which runs its
/// closure again after a serialization failure, is flautino's own, and takes queries of sqlx.
#[derive(Debug, Clone)]
pub struct Db(pub Handle);

impl Db {
    /// As [`Handle::node`].
    ///
    /// # Errors
    ///
    /// As [`Handle::node`].
    pub fn node(&self, name: &str) -> Result<Self, UnknownNode> {
        self.0.node(name).map(Self)
    }

    /// As [`Handle::primary`].
    #[must_use]
    pub fn primary(&self) -> Self {
        Self(self.0.primary())
    }

    /// As [`Handle::replica`].
    #[must_use]
    pub fn replica(&self) -> Self {
        Self(self.0.replica())
    }

    /// As [`Handle::with_consistency`].
    #[must_use]
    pub fn with_consistency(&self, consistency: Consistency) -> Self {
        Self(self.0.with_consistency(consistency))
    }

    /// As [`Handle::with_deadline`].
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        Self(self.0.with_deadline(deadline))
    }

    /// As [`Handle::with_settings`].
    #[must_use]
    pub fn with_settings<I, N, V>(&self, settings: I) -> Self
    where
        I: IntoIterator<Item = (N, V)>,
        N: AsRef<str>,
        V: Into<String>,
    {
        Self(self.0.with_settings(settings))
    }

    /// As [`Handle::with_acquire_timeout`].
    #[must_use]
    pub fn with_acquire_timeout(&self, timeout: Duration) -> Self {
        Self(self.0.with_acquire_timeout(timeout))
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

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// As [`Handle::begin`].
    ///
    /// # Cancellation
    ///
    /// Cancel safe, as [`Handle::begin`].
    pub async fn begin(&self) -> Result<Transaction, DbErr> {
        self.begin_with(TransactionOptions::default()).await
    }

    /// As [`begin`](Db::begin), with flautino's options. A read-only one may run on a replica, as with
    /// [`Handle::begin_with`].
    ///
    /// # Errors
    ///
    /// As [`Handle::begin_with`].
    ///
    /// # Cancellation
    ///
    /// Cancel safe, as [`Handle::begin_with`].
    pub async fn begin_with(&self, options: TransactionOptions) -> Result<Transaction, DbErr> {
        self.0.begin_with(options).await.map(Transaction::from).map_err(query_err)
    }

    /// As SeaORM's `transaction`: commits when the closure returns `Ok`, rolls back when it returns `Err` or
    /// panics.
    ///
    /// # Errors
    ///
    /// The closure's error, or one of `begin` or `commit`.
    ///
    /// # Cancellation
    ///
    /// Rolls back, unless `COMMIT` was already sent.
    pub async fn transaction<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(
                &'c Transaction,
            ) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
            + Send,
        T: Send,
        E: Display + Debug + Send,
    {
        transaction::run(self.begin().await?, callback).await
    }

    /// As [`transaction`](Db::transaction), for a closure that is `async`.
    ///
    /// ```
    /// # use flautino_sea_orm::Db;
    /// # use sea_orm::{ConnectionTrait, DbErr, TransactionError};
    /// async fn move_all(db: Db) -> Result<(), TransactionError<DbErr>> {
    ///     db.transaction_async(async move |tx| {
    ///         tx.execute_unprepared("INSERT INTO archive SELECT * FROM notes").await?;
    ///         tx.execute_unprepared("DELETE FROM notes").await?;
    ///         Ok(())
    ///     })
    ///     .await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`transaction`](Db::transaction).
    ///
    /// # Cancellation
    ///
    /// As [`transaction`](Db::transaction).
    pub async fn transaction_async<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
    where
        F: for<'c> AsyncFnOnce(&'c Transaction) -> Result<T, E>,
    {
        self.transaction_with_config_async(callback, None, None).await
    }

    /// As SeaORM's `transaction_with_config`, for a closure that is `async`.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Db::transaction).
    ///
    /// # Cancellation
    ///
    /// As [`transaction`](Db::transaction).
    pub async fn transaction_with_config_async<F, T, E>(
        &self,
        callback: F,
        isolation: Option<IsolationLevel>,
        access: Option<AccessMode>,
    ) -> Result<T, TransactionError<E>>
    where
        F: for<'c> AsyncFnOnce(&'c Transaction) -> Result<T, E>,
    {
        let begun = self.begin_with_config(isolation, access).await;
        let transaction = begun.map_err(TransactionError::Connection)?;
        let result = callback(&transaction).await;
        transaction::conclude(transaction, result).await
    }

    /// PostgreSQL. SeaORM has a method of this name in two traits, so that it is ambiguous where both are imported.
    #[must_use]
    pub fn get_database_backend(&self) -> DbBackend {
        DbBackend::Postgres
    }
}

impl Deref for Db {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0
    }
}

impl From<Handle> for Db {
    fn from(handle: Handle) -> Self {
        Self(handle)
    }
}

/// Begins a session.
impl From<&Engine> for Db {
    fn from(engine: &Engine) -> Self {
        Self(engine.handle())
    }
}

#[async_trait]
impl ConnectionTrait for Db {
    fn get_database_backend(&self) -> DbBackend {
        DbBackend::Postgres
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        statement::execute(&self.0, statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        statement::execute_unprepared(&self.0, sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        statement::query_one(&self.0, statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        statement::query_all(&self.0, statement).await
    }
}

#[cfg(feature = "stream")]
impl sea_orm::StreamTrait for Db {
    type Stream<'a> = QueryStream<'a>;

    fn get_database_backend(&self) -> DbBackend {
        DbBackend::Postgres
    }

    fn stream_raw<'a>(
        &'a self,
        statement: Statement,
    ) -> Pin<Box<dyn Future<Output = Result<Self::Stream<'a>, DbErr>> + 'a + Send>> {
        let rows = statement::query(statement).fetch(&self.0);
        Box::pin(std::future::ready(Ok(QueryStream::new(rows))))
    }
}

#[async_trait]
impl TransactionTrait for Db {
    type Transaction = Transaction;

    async fn begin(&self) -> Result<Transaction, DbErr> {
        Db::begin(self).await
    }

    async fn begin_with_config(
        &self,
        isolation: Option<IsolationLevel>,
        access: Option<AccessMode>,
    ) -> Result<Transaction, DbErr> {
        self.begin_with(options(isolation, access)).await
    }

    async fn begin_with_options(
        &self,
        options: sea_orm::TransactionOptions,
    ) -> Result<Transaction, DbErr> {
        self.begin_with_config(options.isolation_level, options.access_mode).await
    }

    async fn transaction<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(
                &'c Transaction,
            ) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
            + Send,
        T: Send,
        E: Display + Debug + Send,
    {
        Db::transaction(self, callback).await
    }

    async fn transaction_with_config<F, T, E>(
        &self,
        callback: F,
        isolation: Option<IsolationLevel>,
        access: Option<AccessMode>,
    ) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(
                &'c Transaction,
            ) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
            + Send,
        T: Send,
        E: Display + Debug + Send,
    {
        transaction::run(self.begin_with_config(isolation, access).await?, callback).await
    }
}
