//! sqlx's `Executor` over whatever can run a statement: a handle, a lease, a transaction.

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, PgConnection, Postgres};

use crate::lease::Lease;
use crate::logging::Entry;
use crate::statement::Statement;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// Implements [`Executor`] for a type, given how it comes by a [`Source`] for a statement.
macro_rules! executor_through {
    ($target:ty, |$this:ident, $statement:pat_param| $source:expr) => {
        impl<'c> ::sqlx::Executor<'c> for $target {
            type Database = ::sqlx::Postgres;

            fn execute<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> ::futures_core::future::BoxFuture<
                'e,
                Result<::sqlx::postgres::PgQueryResult, ::sqlx::Error>,
            >
            where
                'c: 'e,
                E: 'q + ::sqlx::Execute<'q, Self::Database>,
            {
                let statement = $crate::statement::Statement::split(query, self.classifier());
                Box::pin(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    $crate::executor::execute(source?, statement).await
                })
            }

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> ::futures_core::stream::BoxStream<
                'e,
                Result<
                    ::sqlx::Either<::sqlx::postgres::PgQueryResult, ::sqlx::postgres::PgRow>,
                    ::sqlx::Error,
                >,
            >
            where
                'c: 'e,
                E: 'q + ::sqlx::Execute<'q, Self::Database>,
            {
                let statement = $crate::statement::Statement::split(query, self.classifier());
                $crate::executor::fetch_many(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    Ok((source?, statement))
                })
            }

            fn fetch_all<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> ::futures_core::future::BoxFuture<
                'e,
                Result<Vec<::sqlx::postgres::PgRow>, ::sqlx::Error>,
            >
            where
                'c: 'e,
                E: 'q + ::sqlx::Execute<'q, Self::Database>,
            {
                let statement = $crate::statement::Statement::split(query, self.classifier());
                Box::pin(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    $crate::executor::fetch_all(source?, statement).await
                })
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> ::futures_core::future::BoxFuture<
                'e,
                Result<Option<::sqlx::postgres::PgRow>, ::sqlx::Error>,
            >
            where
                'c: 'e,
                E: 'q + ::sqlx::Execute<'q, Self::Database>,
            {
                let statement = $crate::statement::Statement::split(query, self.classifier());
                Box::pin(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    $crate::executor::fetch_optional(source?, statement).await
                })
            }

            fn prepare_with<'e>(
                self,
                sql: ::sqlx::SqlStr,
                parameters: &'e [::sqlx::postgres::PgTypeInfo],
            ) -> ::futures_core::future::BoxFuture<
                'e,
                Result<::sqlx::postgres::PgStatement, ::sqlx::Error>,
            >
            where
                'c: 'e,
            {
                Box::pin(async move {
                    let statement = $crate::statement::Statement::text_of(sql, self.classifier());
                    let $this = self;
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    $crate::executor::prepare_with(source?, statement, parameters).await
                })
            }

            fn describe<'e>(
                self,
                sql: ::sqlx::SqlStr,
            ) -> ::futures_core::future::BoxFuture<
                'e,
                Result<::sqlx::Describe<Self::Database>, ::sqlx::Error>,
            >
            where
                'c: 'e,
            {
                Box::pin(async move {
                    let statement = $crate::statement::Statement::text_of(sql, self.classifier());
                    let $this = self;
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    $crate::executor::describe(source?, statement).await
                })
            }
        }
    };
}
pub(crate) use executor_through;

/// Runs a statement to its end: over one lease, or wherever the router sends it.
pub(crate) trait Source: Send {
    /// `start` may be called again where the statement is run again elsewhere.
    fn run<T: Answer + Send>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> impl Future<Output = Result<T>> + Send;

    /// What comes back is a stream, and only its end settles the lease.
    fn stream(&mut self, statement: Statement) -> impl Stream<Item = Result<Item>> + Send;
}

/// How a statement is started on a connection.
pub(crate) trait Start<T>:
    for<'a> Fn(&'a mut PgConnection, Statement) -> BoxFuture<'a, Result<T>> + Send + Sync
{
}

impl<T, F> Start<T> for F where
    F: for<'a> Fn(&'a mut PgConnection, Statement) -> BoxFuture<'a, Result<T>> + Send + Sync
{
}

/// What a statement answers when it is read to the end, as the log sees it.
pub(crate) trait Answer {
    fn log(&self, entry: &mut Entry<'_>);
}

impl Answer for PgQueryResult {
    fn log(&self, entry: &mut Entry<'_>) {
        entry.rows_affected(self.rows_affected());
    }
}

impl Answer for Vec<PgRow> {
    fn log(&self, entry: &mut Entry<'_>) {
        self.iter().for_each(|row| entry.row(row));
    }
}

impl Answer for Option<PgRow> {
    fn log(&self, entry: &mut Entry<'_>) {
        self.iter().for_each(|row| entry.row(row));
    }
}

/// For what answers no rows: `prepare`, `describe`.
pub(crate) struct NoRows<T>(pub(crate) T);

impl<T> Answer for NoRows<T> {
    fn log(&self, _: &mut Entry<'_>) {}
}

pub(crate) type Item = Either<PgQueryResult, PgRow>;

impl Source for &mut Lease {
    fn run<T: Answer + Send>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> impl Future<Output = Result<T>> + Send {
        Lease::run(self, statement, start)
    }

    fn stream(&mut self, statement: Statement) -> impl Stream<Item = Result<Item>> + Send {
        Lease::stream(self, statement)
    }
}

pub(crate) async fn execute(
    mut source: impl Source,
    statement: Statement,
) -> Result<PgQueryResult> {
    source.run(statement, |connection, statement| connection.execute(statement)).await
}

pub(crate) async fn fetch_all(mut source: impl Source, statement: Statement) -> Result<Vec<PgRow>> {
    source.run(statement, |connection, statement| connection.fetch_all(statement)).await
}

pub(crate) async fn fetch_optional(
    mut source: impl Source,
    statement: Statement,
) -> Result<Option<PgRow>> {
    source.run(statement, |connection, statement| connection.fetch_optional(statement)).await
}

pub(crate) fn fetch_many<'e, S: Source + 'e>(
    source: impl Future<Output = Result<(S, Statement)>> + Send + 'e,
) -> BoxStream<'e, Result<Item>> {
    Box::pin(async_stream::try_stream! {
        let (mut source, statement) = source.await?;
        let mut items = std::pin::pin!(source.stream(statement));
        while let Some(item) = items.next().await {
            yield item?;
        }
    })
}

pub(crate) async fn prepare_with(
    mut source: impl Source,
    statement: Statement,
    parameters: &[PgTypeInfo],
) -> Result<PgStatement> {
    let parameters = parameters.to_vec();
    source
        .run(statement, |connection, statement| {
            prepare_on(connection, statement, parameters.clone())
        })
        .await
        .map(|NoRows(statement)| statement)
}

pub(crate) async fn describe(
    mut source: impl Source,
    statement: Statement,
) -> Result<Describe<Postgres>> {
    source.run(statement, describe_on).await.map(|NoRows(description)| description)
}

fn prepare_on(
    connection: &mut PgConnection,
    statement: Statement,
    parameters: Vec<PgTypeInfo>,
) -> BoxFuture<'_, Result<NoRows<PgStatement>>> {
    Box::pin(async move {
        let sql = Execute::<Postgres>::sql(statement);
        connection.prepare_with(sql, &parameters).await.map(NoRows)
    })
}

fn describe_on(
    connection: &mut PgConnection,
    statement: Statement,
) -> BoxFuture<'_, Result<NoRows<Describe<Postgres>>>> {
    Box::pin(async move {
        let sql = Execute::<Postgres>::sql(statement);
        connection.describe(sql).await.map(NoRows)
    })
}
