//! How the handlers reach their statements in each variant but flautino's and axum-sqlx-tx's, which have
//! extractors. Each is used as its documentation shows: a pool of sqlx's is itself an executor; whoever
//! takes a connection out of a pool takes one a request.

use deadpool_postgres::Pool;
use flautino::Engine;
use sqlx::{Connection, PgConnection, PgPool};

use super::dedicated::Dedicated;
use super::statements::{self, LIST, READ, SLEEP, STORE, WRITE};
use crate::error::BoxError;

/// Something that can read a row.
pub(crate) trait Reader: Clone + Send + Sync + 'static {
    /// One row.
    fn read(&self, id: i32) -> impl Future<Output = Result<i32, BoxError>> + Send;
}

/// Something that can do what the app's routes need.
pub(crate) trait Source: Reader {
    /// Three rows, one after the other. Returns their sum.
    fn three(&self, id: i32) -> impl Future<Output = Result<i32, BoxError>> + Send;

    /// 100 rows.
    fn list(&self, from: i32) -> impl Future<Output = Result<Vec<(i32, i32)>, BoxError>> + Send;

    /// Counts a row up.
    fn write(&self, id: i32) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Reads a row, counts it up and stores what it was, in one transaction.
    fn transact(&self, id: i32) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// A statement that takes two seconds.
    fn sleep(&self) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl Reader for PgPool {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        statements::read(self, id).await
    }
}

impl Source for PgPool {
    async fn three(&self, id: i32) -> Result<i32, BoxError> {
        let mut sum = 0;
        for id in statements::three(id) {
            sum += statements::read(self, id).await?;
        }
        Ok(sum)
    }

    async fn list(&self, from: i32) -> Result<Vec<(i32, i32)>, BoxError> {
        statements::list(self, from).await
    }

    async fn write(&self, id: i32) -> Result<(), BoxError> {
        statements::write(self, id).await
    }

    async fn transact(&self, id: i32) -> Result<(), BoxError> {
        transact(self.begin().await?, id).await
    }

    async fn sleep(&self) -> Result<(), BoxError> {
        statements::sleep(self).await
    }
}

impl Reader for Dedicated {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        statements::read(self.take().await?.connection()?, id).await
    }
}

impl Source for Dedicated {
    async fn three(&self, id: i32) -> Result<i32, BoxError> {
        let mut pooled = self.take().await?;
        let connection = pooled.connection()?;
        let mut sum = 0;
        for id in statements::three(id) {
            sum += statements::read(&mut *connection, id).await?;
        }
        Ok(sum)
    }

    async fn list(&self, from: i32) -> Result<Vec<(i32, i32)>, BoxError> {
        statements::list(self.take().await?.connection()?, from).await
    }

    async fn write(&self, id: i32) -> Result<(), BoxError> {
        statements::write(self.take().await?.connection()?, id).await
    }

    async fn transact(&self, id: i32) -> Result<(), BoxError> {
        let mut pooled = self.take().await?;
        transact(pooled.connection()?.begin().await?, id).await
    }

    async fn sleep(&self) -> Result<(), BoxError> {
        statements::sleep(self.take().await?.connection()?).await
    }
}

impl Reader for Pool {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        let client = self.get().await?;
        let statement = client.prepare_cached(READ).await?;
        Ok(client.query_one(&statement, &[&id]).await?.try_get(0)?)
    }
}

impl Source for Pool {
    async fn three(&self, id: i32) -> Result<i32, BoxError> {
        let client = self.get().await?;
        let statement = client.prepare_cached(READ).await?;
        let mut sum = 0;
        for id in statements::three(id) {
            sum += client.query_one(&statement, &[&id]).await?.try_get::<_, i32>(0)?;
        }
        Ok(sum)
    }

    async fn list(&self, from: i32) -> Result<Vec<(i32, i32)>, BoxError> {
        let client = self.get().await?;
        let statement = client.prepare_cached(LIST).await?;
        let rows = client.query(&statement, &[&from]).await?;
        let rows = rows.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        rows.collect()
    }

    async fn write(&self, id: i32) -> Result<(), BoxError> {
        let client = self.get().await?;
        let statement = client.prepare_cached(WRITE).await?;
        client.execute(&statement, &[&id]).await?;
        Ok(())
    }

    async fn transact(&self, id: i32) -> Result<(), BoxError> {
        let mut client = self.get().await?;
        let transaction = client.transaction().await?;
        let read = transaction.prepare_cached(READ).await?;
        let n: i32 = transaction.query_one(&read, &[&id]).await?.try_get(0)?;
        let write = transaction.prepare_cached(WRITE).await?;
        transaction.execute(&write, &[&id]).await?;
        let store = transaction.prepare_cached(STORE).await?;
        transaction.execute(&store, &[&id, &n]).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn sleep(&self) -> Result<(), BoxError> {
        let client = self.get().await?;
        let statement = client.prepare_cached(SLEEP).await?;
        client.execute(&statement, &[]).await?;
        Ok(())
    }
}

/// With a handle of its own for each read, as each request has one.
impl Reader for Engine {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        statements::read(&self.handle(), id).await
    }
}

/// [`Source::transact`] in a transaction of sqlx.
async fn transact(
    mut transaction: sqlx::Transaction<'_, sqlx::Postgres>,
    id: i32,
) -> Result<(), BoxError> {
    steps(&mut transaction, id).await?;
    transaction.commit().await?;
    Ok(())
}

/// The three statements of a transaction.
pub(super) async fn steps(connection: &mut PgConnection, id: i32) -> Result<(), BoxError> {
    let n = statements::read(&mut *connection, id).await?;
    statements::write(&mut *connection, id).await?;
    statements::store(connection, id, n).await
}
