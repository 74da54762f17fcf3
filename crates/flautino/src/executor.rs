//! sqlx's `Executor` over whatever can come by a lease: a handle, a lease, a transaction.

use std::borrow::BorrowMut;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres};

use crate::lease::{Lease, NoRows};
use crate::statement::Statement;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// Implements [`Executor`] for a type, given how it comes by a lease for a statement.
macro_rules! executor_through_lease {
    ($target:ty, |$this:ident, $statement:pat_param| $checkout:expr) => {
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
                let statement = $crate::statement::Statement::split(query);
                Box::pin(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let lease: Result<_, ::sqlx::Error> = $checkout;
                    $crate::executor::execute(lease?, statement).await
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
                let statement = $crate::statement::Statement::split(query);
                $crate::executor::fetch_many(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let lease: Result<_, ::sqlx::Error> = $checkout;
                    Ok((lease?, statement))
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
                let statement = $crate::statement::Statement::split(query);
                Box::pin(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let lease: Result<_, ::sqlx::Error> = $checkout;
                    $crate::executor::fetch_all(lease?, statement).await
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
                let statement = $crate::statement::Statement::split(query);
                Box::pin(async move {
                    let ($this, statement) = (self, statement?);
                    let $statement = &statement;
                    let lease: Result<_, ::sqlx::Error> = $checkout;
                    $crate::executor::fetch_optional(lease?, statement).await
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
                    let ($this, statement) = (self, $crate::statement::Statement::simple(sql));
                    let $statement = &statement;
                    let lease: Result<_, ::sqlx::Error> = $checkout;
                    $crate::executor::prepare_with(lease?, statement, parameters).await
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
                    let ($this, statement) = (self, $crate::statement::Statement::simple(sql));
                    let $statement = &statement;
                    let lease: Result<_, ::sqlx::Error> = $checkout;
                    $crate::executor::describe(lease?, statement).await
                })
            }
        }
    };
}
pub(crate) use executor_through_lease;

pub(crate) async fn execute(
    mut lease: impl BorrowMut<Lease> + Send,
    statement: Statement,
) -> Result<PgQueryResult> {
    lease.borrow_mut().run(statement, |connection, statement| connection.execute(statement)).await
}

pub(crate) async fn fetch_all(
    mut lease: impl BorrowMut<Lease> + Send,
    statement: Statement,
) -> Result<Vec<PgRow>> {
    lease.borrow_mut().run(statement, |connection, statement| connection.fetch_all(statement)).await
}

pub(crate) async fn fetch_optional(
    mut lease: impl BorrowMut<Lease> + Send,
    statement: Statement,
) -> Result<Option<PgRow>> {
    lease
        .borrow_mut()
        .run(statement, |connection, statement| connection.fetch_optional(statement))
        .await
}

pub(crate) fn fetch_many<'e, L>(
    checkout: impl Future<Output = Result<(L, Statement)>> + Send + 'e,
) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>>>
where
    L: BorrowMut<Lease> + Send + 'e,
{
    Box::pin(async_stream::try_stream! {
        let (mut lease, statement) = checkout.await?;
        let mut items = std::pin::pin!(lease.borrow_mut().stream(statement));
        while let Some(item) = items.next().await {
            yield item?;
        }
    })
}

pub(crate) async fn prepare_with(
    mut lease: impl BorrowMut<Lease> + Send,
    statement: Statement,
    parameters: &[PgTypeInfo],
) -> Result<PgStatement> {
    let parameters = parameters.to_vec();
    lease
        .borrow_mut()
        .run(statement, |connection, statement| prepare_on(connection, statement, parameters))
        .await
        .map(|NoRows(statement)| statement)
}

pub(crate) async fn describe(
    mut lease: impl BorrowMut<Lease> + Send,
    statement: Statement,
) -> Result<Describe<Postgres>> {
    lease.borrow_mut().run(statement, describe_on).await.map(|NoRows(description)| description)
}

fn prepare_on(
    connection: &mut sqlx::PgConnection,
    statement: Statement,
    parameters: Vec<PgTypeInfo>,
) -> BoxFuture<'_, Result<NoRows<PgStatement>>> {
    Box::pin(async move {
        let sql = Execute::<Postgres>::sql(statement);
        connection.prepare_with(sql, &parameters).await.map(NoRows)
    })
}

fn describe_on(
    connection: &mut sqlx::PgConnection,
    statement: Statement,
) -> BoxFuture<'_, Result<NoRows<Describe<Postgres>>>> {
    Box::pin(async move {
        let sql = Execute::<Postgres>::sql(statement);
        connection.describe(sql).await.map(NoRows)
    })
}
