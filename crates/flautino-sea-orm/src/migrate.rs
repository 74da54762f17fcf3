//! SeaORM's migrations, whose API takes SeaORM's own connection.

use std::time::Duration;

use flautino::{Engine, Lease};
use sea_orm::{DatabaseConnection, DbErr, SqlxPostgresConnector};

use crate::error::query_err;

/// The lock's key: the one of [`Engine`]'s own migrations, so that neither runs beside the other.
const LOCK: &str = "SELECT pg_try_advisory_lock(7380370053103578735)";
/// How often the lock is asked for.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs SeaORM's migrations on the primary, one instance of the app at a time. Then all handles that are made from
/// then on see them: no replica that has not replayed them serves their reads, as
/// [`Engine::observe`](flautino::Engine::observe) says.
///
/// `sea-orm-migration` takes nothing but SeaORM's own `DatabaseConnection` and `DatabaseTransaction`, so the closure is
/// given one over [`Engine::pool`] of the primary. It is good for whatever else takes only that, such as `schema-sync`.
/// What is sent there is not routed, and a `statement_timeout` of the node applies.
///
/// ```no_run
/// use sea_orm_migration::{MigrationTrait, MigratorTrait};
///
/// struct Migrator;
///
/// impl MigratorTrait for Migrator {
///     fn migrations() -> Vec<Box<dyn MigrationTrait>> {
///         vec![] // yours
///     }
/// }
///
/// # async fn f(engine: flautino::Engine) -> Result<(), Box<dyn std::error::Error>> {
/// engine.open().await?;
/// flautino_sea_orm::migrate(&engine, async |db| Migrator::up(db, None).await).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The closure's, those of [`Handle::acquire`](flautino::Handle::acquire), and
/// [`Error::SharedSession`](flautino::Error::SharedSession) behind PgBouncer, where a lock is nobody's.
///
/// # Cancellation
///
/// The closure's future is dropped: SeaORM rolls its migration back.
pub async fn migrate<T>(
    engine: &Engine,
    run: impl AsyncFnOnce(&DatabaseConnection) -> Result<T, DbErr>,
) -> Result<T, DbErr> {
    let db = engine.handle().primary();
    let mut lease = db.acquire().await.map_err(query_err)?;
    lock(&mut lease).await.map_err(query_err)?;
    let Some(pool) = engine.pool(lease.node()) else {
        let node = lease.node().to_owned();
        return Err(query_err(flautino::Error::Closed { node }.into()));
    };
    let result = run(&SqlxPostgresConnector::from_sqlx_postgres_pool(pool)).await;
    // Dropped, the lease gives up the lock, and its session asks for a position after all that was migrated.
    drop(lease);
    if let Some(token) = db.token().await {
        engine.observe(&token);
    }
    result
}

/// Waits without a statement under way, for whose snapshot `CREATE INDEX CONCURRENTLY` of another instance would
/// wait.
async fn lock(lease: &mut Lease) -> Result<(), sqlx::Error> {
    let mut is_told = false;
    while !sqlx::query_scalar::<_, bool>(LOCK).fetch_one(&mut *lease).await? {
        if !std::mem::replace(&mut is_told, true) {
            tracing::info!("another instance migrates the database; waiting for it");
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}
