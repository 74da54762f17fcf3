//! The statements that the handlers run, the same for every variant, and sqlx's way of running them.

use sqlx::PgExecutor;

use crate::error::BoxError;
use crate::world::ROWS;

/// One row by its primary key.
pub(crate) const READ: &str = "SELECT n FROM counters WHERE id = $1";
/// [`LISTED`] rows by their primary key.
pub(super) const LIST: &str =
    "SELECT id, n FROM counters WHERE id >= $1 AND id < $1 + 100 ORDER BY id";
/// One row by its primary key.
pub(super) const WRITE: &str = "UPDATE counters SET n = n + 1 WHERE id = $1";
/// The last statement of a transaction.
pub(super) const STORE: &str = "INSERT INTO totals (id, n) VALUES ($1, $2) \
                                ON CONFLICT (id) DO UPDATE SET n = excluded.n";
/// Takes longer than the clients that request it stay.
pub(super) const SLEEP: &str = "SELECT pg_sleep(2)";

/// The rows that one request reads, one after the other.
pub(super) fn three(id: i32) -> [i32; 3] {
    [id, (id + 1) % ROWS, (id + 2) % ROWS]
}

/// Runs [`READ`].
pub(crate) async fn read(executor: impl PgExecutor<'_>, id: i32) -> Result<i32, BoxError> {
    Ok(sqlx::query_scalar(READ).bind(id).fetch_one(executor).await?)
}

/// Runs [`LIST`].
pub(super) async fn list(
    executor: impl PgExecutor<'_>,
    from: i32,
) -> Result<Vec<(i32, i32)>, BoxError> {
    Ok(sqlx::query_as(LIST).bind(from).fetch_all(executor).await?)
}

/// Runs [`WRITE`].
pub(super) async fn write(executor: impl PgExecutor<'_>, id: i32) -> Result<(), BoxError> {
    sqlx::query(WRITE).bind(id).execute(executor).await?;
    Ok(())
}

/// Runs [`STORE`].
pub(super) async fn store(executor: impl PgExecutor<'_>, id: i32, n: i32) -> Result<(), BoxError> {
    sqlx::query(STORE).bind(id).bind(n).execute(executor).await?;
    Ok(())
}

/// Runs [`SLEEP`].
pub(super) async fn sleep(executor: impl PgExecutor<'_>) -> Result<(), BoxError> {
    sqlx::query(SLEEP).execute(executor).await?;
    Ok(())
}
