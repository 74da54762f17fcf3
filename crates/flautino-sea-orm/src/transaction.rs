//! [`Transaction`]: SeaORM's way to use flautino's transactions.

use std::fmt::{Debug, Display};
use std::pin::Pin;

use async_trait::async_trait;
use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult,
    Statement, TransactionError, TransactionSession, TransactionTrait,
};

use crate::level::{Level, Source, TransactionGuard};
use crate::options::nested_mode;
use crate::statement;

/// A transaction that SeaORM's queries take, from [`Db::begin`](crate::Db::begin) or nested in another one.
///
/// Dropped, it is rolled back. [`commit`](Transaction::commit) returns `Ok` only when the server has committed; it
/// fails if a statement had failed, as PostgreSQL rolls back then.
///
/// SeaORM's `begin` on it begins a nested one, which is a savepoint. Until that is committed, rolled back or
/// dropped, statements through the outer one are refused: they would be undone with the nested one. To commit
/// the outer one before the nested one is an error, and rolls back both.
///
/// ```no_run
/// # async fn f(db: flautino_sea_orm::Db) -> Result<(), sea_orm::DbErr> {
/// use sea_orm::{ConnectionTrait, TransactionTrait};
///
/// let tx = db.begin().await?;
/// tx.execute_unprepared("INSERT INTO notes (title) VALUES ('a')").await?;
/// let attempt = tx.begin().await?;
/// match attempt.execute_unprepared("INSERT INTO notes (title) VALUES (NULL)").await {
///     Ok(_) => attempt.commit().await?,
///     Err(_) => attempt.rollback().await?, // the first row stays
/// }
/// tx.commit().await
/// # }
/// ```
///
/// It has one connection, so statements that are sent at a time wait for each other. While a stream of its rows or
/// a [`lock`](Transaction::lock) is held, other statements fail: in the same task they would wait for ever.
#[derive(Debug)]
#[must_use = "it is rolled back when it is dropped"]
pub struct Transaction {
    level: Level,
}

impl Transaction {
    pub(crate) fn nested(level: Level) -> Self {
        Self { level }
    }

    /// Commits. A nested one is kept then, and committed or rolled back with the one around it.
    ///
    /// # Errors
    ///
    /// As [`flautino::Transaction::commit`], or of a nested one as [`flautino::Savepoint::commit`]; an error of its
    /// own if a transaction that is nested in it is still open, and then nothing is kept.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half-way, the transaction may or may not be committed. If it is a nested one, the
    /// whole transaction is lost.
    pub async fn commit(self) -> Result<(), DbErr> {
        self.level.commit().await
    }

    /// Rolls back, with all that is nested in it.
    ///
    /// # Errors
    ///
    /// As [`flautino::Transaction::rollback`].
    ///
    /// # Cancellation
    ///
    /// Cancel safe: it is rolled back all the same.
    pub async fn rollback(self) -> Result<(), DbErr> {
        self.level.rollback().await
    }

    /// Lends the transaction's connection, for queries of sqlx among those of SeaORM: `&mut *tx.lock().await?` is an
    /// sqlx executor.
    ///
    /// # Errors
    ///
    /// Those of a statement that is not sent: the transaction is over, or not the innermost one.
    ///
    /// # Cancellation
    ///
    /// Cancel safe.
    pub async fn lock(&self) -> Result<TransactionGuard<'_>, DbErr> {
        self.level.hold().await
    }
}

/// For a transaction that sqlx's queries have used before.
impl From<flautino::Transaction> for Transaction {
    fn from(transaction: flautino::Transaction) -> Self {
        Self { level: Level::outermost(Source::Own(Box::new(transaction))) }
    }
}

#[async_trait]
impl TransactionSession for Transaction {
    async fn commit(self) -> Result<(), DbErr> {
        self.level.commit().await
    }

    async fn rollback(self) -> Result<(), DbErr> {
        self.level.rollback().await
    }
}

/// What SeaORM's `transaction` does: commits when the closure returns `Ok`, else rolls back.
pub(crate) async fn run<F, T, E>(
    transaction: Transaction,
    callback: F,
) -> Result<T, TransactionError<E>>
where
    F: for<'c> FnOnce(&'c Transaction) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
        + Send,
    T: Send,
    E: Display + Debug + Send,
{
    let result = callback(&transaction).await;
    conclude(transaction, result).await
}

pub(crate) async fn conclude<T, E>(
    transaction: Transaction,
    result: Result<T, E>,
) -> Result<T, TransactionError<E>> {
    match result {
        Ok(value) => {
            transaction.commit().await.map_err(TransactionError::Connection)?;
            Ok(value)
        }
        Err(error) => {
            // What the closure returned says more than that its undoing failed.
            if let Err(failed) = transaction.rollback().await {
                tracing::debug!(
                    error = %failed,
                    "ROLLBACK failed; the server rolls back when the connection closes"
                );
            }
            Err(TransactionError::Transaction(error))
        }
    }
}

/// SeaORM's traits for what has a field `level`.
macro_rules! through_level {
    ($target:ty) => {
        #[async_trait]
        impl ConnectionTrait for $target {
            fn get_database_backend(&self) -> DbBackend {
                DbBackend::Postgres
            }

            async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
                statement::execute(&mut *self.level.lock().await?, statement).await
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                statement::execute_unprepared(&mut *self.level.lock().await?, sql).await
            }

            async fn query_one_raw(
                &self,
                statement: Statement,
            ) -> Result<Option<QueryResult>, DbErr> {
                statement::query_one(&mut *self.level.lock().await?, statement).await
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                statement::query_all(&mut *self.level.lock().await?, statement).await
            }
        }

        /// The stream has the transaction's connection until it is dropped.
        #[cfg(feature = "stream")]
        impl sea_orm::StreamTrait for $target {
            type Stream<'a> = $crate::stream::QueryStream<'a>;

            fn get_database_backend(&self) -> DbBackend {
                DbBackend::Postgres
            }

            fn stream_raw<'a>(
                &'a self,
                statement: Statement,
            ) -> Pin<Box<dyn Future<Output = Result<Self::Stream<'a>, DbErr>> + 'a + Send>> {
                Box::pin(async move {
                    let guard = self.level.hold().await?;
                    Ok($crate::stream::QueryStream::of_transaction(guard, statement))
                })
            }
        }

        /// A transaction that begins here is nested: a savepoint.
        #[async_trait]
        impl TransactionTrait for $target {
            type Transaction = Transaction;

            async fn begin(&self) -> Result<Transaction, DbErr> {
                self.level.begin(None).await.map(Transaction::nested)
            }

            /// Fails for any isolation level: PostgreSQL has none for a part of a transaction.
            async fn begin_with_config(
                &self,
                isolation: Option<IsolationLevel>,
                access: Option<AccessMode>,
            ) -> Result<Transaction, DbErr> {
                let mode = nested_mode(isolation, access)?;
                self.level.begin(mode).await.map(Transaction::nested)
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
                    )
                        -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
                    + Send,
                T: Send,
                E: Display + Debug + Send,
            {
                $crate::transaction::run(TransactionTrait::begin(self).await?, callback).await
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
                    )
                        -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
                    + Send,
                T: Send,
                E: Display + Debug + Send,
            {
                let nested = self.begin_with_config(isolation, access).await?;
                $crate::transaction::run(nested, callback).await
            }
        }

        // Those that SeaORM's own types have beside the traits.
        impl $target {
            /// PostgreSQL. SeaORM has a method of this name in two traits, so that it is ambiguous where both are
            /// imported.
            #[must_use]
            pub fn get_database_backend(&self) -> DbBackend {
                DbBackend::Postgres
            }

            /// As SeaORM's `transaction`, for a closure that is `async`. The transaction is nested: a savepoint.
            ///
            /// # Errors
            ///
            /// The closure's error, or one of `begin` or `commit`.
            ///
            /// # Cancellation
            ///
            /// Rolls back.
            pub async fn transaction_async<F, T, E>(
                &self,
                callback: F,
            ) -> Result<T, TransactionError<E>>
            where
                F: for<'c> AsyncFnOnce(&'c Transaction) -> Result<T, E>,
            {
                self.transaction_with_config_async(callback, None, None).await
            }

            /// As SeaORM's `transaction_with_config`, for a closure that is `async`. The transaction is nested.
            ///
            /// # Errors
            ///
            /// As `transaction_async`, and for any isolation level: PostgreSQL has none for a part of a transaction.
            ///
            /// # Cancellation
            ///
            /// Rolls back.
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
                let nested = begun.map_err(TransactionError::Connection)?;
                let result = callback(&nested).await;
                $crate::transaction::conclude(nested, result).await
            }
        }
    };
}
#[cfg(feature = "axum")]
pub(crate) use through_level;

through_level!(Transaction);
