//! An app's tests under `#[sqlx::test]`, each with a database of its own on a server that runs.

use std::process::Command;

use flautino_lab::{ask, cluster, wait_until};

/// Run by the test below, which starts a server for it.
#[sqlx::test]
#[ignore = "needs `DATABASE_URL`"]
async fn inner_over_a_pool(pool: sqlx::PgPool) -> sqlx::Result<()> {
    let engine = flautino::Engine::from_pool(pool);
    let db = engine.handle();
    sqlx::query("CREATE TABLE t (n int)").execute(&db).await?;
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await?;
    tx.commit().await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&db).await?;
    assert_eq!(count, 1);
    Ok(())
}

/// As above.
#[sqlx::test]
#[ignore = "needs `DATABASE_URL`"]
async fn inner_strict(pool: sqlx::PgPool) -> sqlx::Result<()> {
    let engine = flautino::Engine::for_tests(pool);
    let db = engine.handle();
    sqlx::query("CREATE TABLE t (n int)").execute(&db).await?;
    let other = engine.handle();
    sqlx::query("SELECT n FROM t").execute(&other).await?;
    assert_eq!(other.served_by().as_deref(), Some("replica"));
    sqlx::query("INSERT INTO t VALUES (1)").execute(&other.replica()).await.unwrap_err();
    Ok(())
}

#[tokio::test]
async fn engines_over_such_a_pool_work_and_their_databases_can_be_dropped() {
    let cluster = cluster(0).await;
    let url = cluster.primary().url();
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["--ignored", "sqlx_test::inner"]).env("DATABASE_URL", url);
    let ran = tokio::task::spawn_blocking(move || tests.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.contains("2 passed"), "{told}");
    assert!(!String::from_utf8_lossy(&ran.stderr).contains("failed to delete"), "{ran:?}");
    wait_until("no database of a test is left", async || {
        let sql = "SELECT count(*) FROM pg_database WHERE datname LIKE '\\_sqlx\\_test\\_%'";
        ask::<i64>(cluster.primary(), sql).await == 0
    })
    .await;
}
