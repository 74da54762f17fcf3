//! What a strict engine finds in an app's tests, on one server and without a cluster.
//!
//! Run with `cargo run -p flautino --example strict_tests`. It starts a throwaway server; under `#[sqlx::test]` the pool
//! comes from there.

use std::error::Error;

use flautino::{Engine, Handle};
use flautino_cluster::Cluster;
use sqlx::PgPool;

/// A report that was moved to a replica, and counts how often it is read. Nobody noticed on the one server of the
/// tests, where it works.
async fn report(db: &Handle) -> Result<i64, sqlx::Error> {
    let replica = db.replica();
    let update = sqlx::query_scalar("UPDATE reads SET n = n + 1 RETURNING n");
    update.fetch_one(&replica).await
}

/// What it should have been.
async fn mended(db: &Handle) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("UPDATE reads SET n = n + 1 RETURNING n").fetch_one(db).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().start().await?;
    cluster
        .primary()
        .execute("CREATE TABLE reads (n bigint); INSERT INTO reads VALUES (0)")
        .await?;
    let pool = PgPool::connect_with(cluster.primary().connect_options()).await?;

    let lenient = Engine::from_pool(pool.clone());
    println!("one node: {:?}", report(&lenient.handle()).await);

    let strict = Engine::for_tests(pool);
    match report(&strict.handle()).await {
        Ok(count) => return Err(format!("a replica counted to {count}").into()),
        Err(error) => println!("strict: {error}"),
    }
    println!("mended: {:?}", mended(&strict.handle()).await);

    // A read goes to the replica, and one after a write of the same session to the primary.
    let db = strict.handle();
    sqlx::query("SELECT n FROM reads").execute(&db).await?;
    println!("a read is served by {:?}", db.served_by());
    mended(&db).await?;
    sqlx::query("SELECT n FROM reads").execute(&db).await?;
    println!("after a write by {:?}", db.served_by());

    strict.close().await;
    cluster.stop().await;
    Ok(())
}
