//! sqlx's `Executor` over whatever can run a statement: a handle, a lease or a transaction.

use futures_core::future::BoxFuture;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Execute, Executor, PgConnection, Postgres};

use super::rows::{Item, Rows};
use crate::statement::{Statement, ToSend};

type Result<T> = std::result::Result<T, sqlx::Error>;

/// Implements [`Executor`] for a type, given an expression that makes a [`Source`] for a statement.
///
/// With three arguments, the first closure takes out of the type what the futures keep, before they
/// are made. If that borrows nothing from the type, neither do they.
macro_rules! executor_through {
    ($target:ty, |$this:ident, $statement:pat_param| $source:expr) => {
        $crate::lease::executor::executor_through!($target, |$this| $this, |$this, $statement| {
            $source
        });
    };
    (
        $target:ty,
        |$this:ident| $kept:expr,
        |$owner:ident, $statement:pat_param| $source:expr
    ) => {
        impl<'c> ::sqlx::Executor<'c> for $target {
            type Database = ::sqlx::Postgres;

            $crate::lease::executor::collected! {
                |$this| $kept;
                |$owner, $statement| $source;
                execute -> ::sqlx::postgres::PgQueryResult,
                fetch_all -> Vec<::sqlx::postgres::PgRow>,
                fetch_optional -> Option<::sqlx::postgres::PgRow>
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
                let $this = self;
                let $owner = $kept;
                let items = async move {
                    let statement = statement?;
                    let source: Result<_, ::sqlx::Error> = {
                        let $statement = &statement;
                        $source
                    };
                    Ok($crate::lease::executor::Source::stream(source?, statement).await)
                };
                // Without a generator, through which each row would pass.
                Box::pin(::futures_util::TryFutureExt::try_flatten_stream(items))
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
                let statement = $crate::statement::Statement::text_of(sql, self.classifier());
                let $this = self;
                let $owner = $kept;
                Box::pin(async move {
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    $crate::lease::executor::prepare_with(source?, &statement, parameters).await
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
                let statement = $crate::statement::Statement::text_of(sql, self.classifier());
                let $this = self;
                let $owner = $kept;
                Box::pin(async move {
                    let $statement = &statement;
                    let source: Result<_, ::sqlx::Error> = $source;
                    $crate::lease::executor::describe(source?, &statement).await
                })
            }
        }
    };
}
pub(crate) use executor_through;

/// Those methods of [`Executor`] that read a result to its end.
macro_rules! collected {
    (
        |$this:ident| $kept:expr;
        |$owner:ident, $statement:pat_param| $source:expr;
        $($method:ident -> $answer:ty),+
    ) => {
        $(fn $method<'e, 'q: 'e, E>(
            self,
            query: E,
        ) -> ::futures_core::future::BoxFuture<'e, Result<$answer, ::sqlx::Error>>
        where
            'c: 'e,
            E: 'q + ::sqlx::Execute<'q, Self::Database>,
        {
            let statement = match $crate::statement::Statement::split(query, self.classifier()) {
                Ok(statement) => statement,
                Err(error) => return Box::pin(::std::future::ready(Err(error))),
            };
            let $this = self;
            let $owner = $kept;
            Box::pin(async move {
                let $statement = &statement;
                let source: Result<_, ::sqlx::Error> = $source;
                $crate::lease::executor::Source::run(&mut source?, &statement).await
            })
        })+
    };
}
pub(crate) use collected;

/// What runs statements: a lease, or a handle, which takes a lease on the node that the router chooses.
pub(crate) trait Source: Send {
    /// Runs a statement and reads its result to the end.
    fn run<T: Answer>(&mut self, statement: &Statement) -> impl Future<Output = Result<T>> + Send;

    /// Runs a statement whose result is read as a stream.
    fn stream<'a>(self, statement: Statement) -> impl Future<Output = Rows<'a>> + Send
    where
        Self: 'a;

    /// Prepares or describes a statement. `start` may be called more than once, each time on another
    /// connection.
    fn prepare<T: Send>(
        &mut self,
        statement: &Statement,
        start: impl Start<T>,
    ) -> impl Future<Output = Result<T>> + Send;
}

/// What a method of [`Executor`] collects from a result. The result is read to its end, because an error
/// may come after its rows.
pub(crate) trait Answer: Default + Send {
    fn add(&mut self, item: Item);

    /// sqlx's own way to such an answer, where it has one. It is shorter than reading the result item by
    /// item, and reads it to the end too, but tells neither how many rows there were nor whether the
    /// server had reported the end before an error.
    const FETCH: Option<Fetch<Self>> = None;
}

/// See [`Answer::FETCH`].
pub(crate) type Fetch<T> = fn(&mut PgConnection, ToSend) -> BoxFuture<'_, Result<T>>;

impl Answer for PgQueryResult {
    fn add(&mut self, item: Item) {
        self.extend(item.left());
    }
}

impl Answer for Vec<PgRow> {
    fn add(&mut self, item: Item) {
        self.extend(item.right());
    }
}

/// Keeps the first row.
impl Answer for Option<PgRow> {
    fn add(&mut self, item: Item) {
        *self = self.take().or(item.right());
    }

    const FETCH: Option<Fetch<Self>> =
        Some(|connection, statement| connection.fetch_optional(statement));
}

/// How a statement is prepared or described on a connection.
pub(crate) trait Start<T>:
    for<'a> Fn(&'a mut PgConnection, ToSend) -> BoxFuture<'a, Result<T>> + Send + Sync
{
}

impl<T, F> Start<T> for F where
    F: for<'a> Fn(&'a mut PgConnection, ToSend) -> BoxFuture<'a, Result<T>> + Send + Sync
{
}

pub(crate) async fn prepare_with(
    mut source: impl Source,
    statement: &Statement,
    parameters: &[PgTypeInfo],
) -> Result<PgStatement> {
    let parameters = parameters.to_vec();
    source
        .prepare(statement, |connection, statement| {
            prepare_on(connection, statement, parameters.clone())
        })
        .await
}

pub(crate) async fn describe(
    mut source: impl Source,
    statement: &Statement,
) -> Result<Describe<Postgres>> {
    source.prepare(statement, describe_on).await
}

fn prepare_on(
    connection: &mut PgConnection,
    statement: ToSend,
    parameters: Vec<PgTypeInfo>,
) -> BoxFuture<'_, Result<PgStatement>> {
    Box::pin(async move {
        let sql = Execute::<Postgres>::sql(statement);
        connection.prepare_with(sql, &parameters).await
    })
}

fn describe_on(
    connection: &mut PgConnection,
    statement: ToSend,
) -> BoxFuture<'_, Result<Describe<Postgres>>> {
    Box::pin(async move {
        let sql = Execute::<Postgres>::sql(statement);
        connection.describe(sql).await
    })
}
