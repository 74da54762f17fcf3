//! That one instance of an app migrates at a time.

use std::time::Duration;

use sqlx::{Executor, PgConnection};

/// The lock's key: `flautino`, as ASCII. PostgreSQL has it for each database apart.
const LOCK: &str = "SELECT pg_try_advisory_lock(7380370053103578735)";
/// How often the lock is asked for.
const INTERVAL: Duration = Duration::from_millis(200);

/// Waits until nobody else migrates, and sees to it that nobody else does for as long as the session lasts, or until
/// it is reset. It waits without a statement under way: that would have a snapshot, for which
/// `CREATE INDEX CONCURRENTLY` of another instance waits.
pub(crate) async fn lock_for_migrations(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    let mut is_told = false;
    while !sqlx::query_scalar::<_, bool>(LOCK).fetch_one(&mut *connection).await? {
        if !std::mem::replace(&mut is_told, true) {
            tracing::info!("another instance migrates the database; waiting for it");
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}
