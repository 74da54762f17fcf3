//! What the handlers run: the same two statements for every variant.

use deadpool_postgres::Pool;
use flautino::Engine;
use sqlx::{PgExecutor, PgPool};

use super::dedicated::Dedicated;
use crate::error::BoxError;

/// One row by its primary key.
const READ: &str = "SELECT n FROM counters WHERE id = $1";
/// Takes longer than the clients that request it stay.
const SLEEP: &str = "SELECT pg_sleep(2)";

/// Something that can run the statements.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// One row.
    fn read(&self, id: i32) -> impl Future<Output = Result<i32, BoxError>> + Send;

    /// A statement that takes two seconds.
    fn sleep(&self) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// [`Source::read`] by any executor of sqlx.
pub(super) async fn read(executor: impl PgExecutor<'_>, id: i32) -> Result<i32, BoxError> {
    Ok(sqlx::query_scalar(READ).bind(id).fetch_one(executor).await?)
}

/// [`Source::sleep`] by any executor of sqlx.
pub(super) async fn sleep(executor: impl PgExecutor<'_>) -> Result<(), BoxError> {
    sqlx::query(SLEEP).execute(executor).await?;
    Ok(())
}

impl Source for PgPool {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        read(self, id).await
    }

    async fn sleep(&self) -> Result<(), BoxError> {
        sleep(self).await
    }
}

impl Source for Dedicated {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        read(self.take().await?.connection()?, id).await
    }

    async fn sleep(&self) -> Result<(), BoxError> {
        sleep(self.take().await?.connection()?).await
    }
}

impl Source for Pool {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        let client = self.get().await?;
        let statement = client.prepare_cached(READ).await?;
        Ok(client.query_one(&statement, &[&id]).await?.try_get(0)?)
    }

    async fn sleep(&self) -> Result<(), BoxError> {
        let client = self.get().await?;
        let statement = client.prepare_cached(SLEEP).await?;
        client.execute(&statement, &[]).await?;
        Ok(())
    }
}

/// Each with a handle of its own, as each request has one.
impl Source for Engine {
    async fn read(&self, id: i32) -> Result<i32, BoxError> {
        read(&self.handle(), id).await
    }

    async fn sleep(&self) -> Result<(), BoxError> {
        sleep(&self.handle()).await
    }
}
