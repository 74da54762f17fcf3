//! What the handlers ask: the same two statements, whatever is underneath.

use deadpool_postgres::Pool;
use flautino::Engine;
use sqlx::{PgExecutor, PgPool};

use super::dedicated::Dedicated;
use crate::Broken;

/// One row by its primary key.
const READ: &str = "SELECT n FROM counters WHERE id = $1";
/// Longer than those who ask for it stay.
const SLEEP: &str = "SELECT pg_sleep(2)";

/// Something that can be asked.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// One row.
    fn read(&self, id: i32) -> impl Future<Output = Result<i32, Broken>> + Send;

    /// A statement that takes two seconds.
    fn sleep(&self) -> impl Future<Output = Result<(), Broken>> + Send;
}

/// [`Source::read`] by any executor of sqlx.
pub(super) async fn read(executor: impl PgExecutor<'_>, id: i32) -> Result<i32, Broken> {
    Ok(sqlx::query_scalar(READ).bind(id).fetch_one(executor).await?)
}

/// [`Source::sleep`] by any executor of sqlx.
pub(super) async fn sleep(executor: impl PgExecutor<'_>) -> Result<(), Broken> {
    sqlx::query(SLEEP).execute(executor).await?;
    Ok(())
}

impl Source for PgPool {
    async fn read(&self, id: i32) -> Result<i32, Broken> {
        read(self, id).await
    }

    async fn sleep(&self) -> Result<(), Broken> {
        sleep(self).await
    }
}

impl Source for Dedicated {
    async fn read(&self, id: i32) -> Result<i32, Broken> {
        read(self.take().await?.connection()?, id).await
    }

    async fn sleep(&self) -> Result<(), Broken> {
        sleep(self.take().await?.connection()?).await
    }
}

impl Source for Pool {
    async fn read(&self, id: i32) -> Result<i32, Broken> {
        let client = self.get().await?;
        let statement = client.prepare_cached(READ).await?;
        Ok(client.query_one(&statement, &[&id]).await?.try_get(0)?)
    }

    async fn sleep(&self) -> Result<(), Broken> {
        let client = self.get().await?;
        let statement = client.prepare_cached(SLEEP).await?;
        client.execute(&statement, &[]).await?;
        Ok(())
    }
}

/// Each with a handle of its own, as each request has one.
impl Source for Engine {
    async fn read(&self, id: i32) -> Result<i32, Broken> {
        read(&self.handle(), id).await
    }

    async fn sleep(&self) -> Result<(), Broken> {
        sleep(&self.handle()).await
    }
}
