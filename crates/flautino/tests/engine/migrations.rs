//! sqlx's migrations run through a handle.

use flautino_lab::{Lab, ask};
use futures_util::future::join_all;
use sqlx::migrate::Migrator;

async fn migrations(second: &str) -> (tempfile::TempDir, Migrator) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("1_notes.sql"), "CREATE TABLE notes (id int);").unwrap();
    std::fs::write(dir.path().join("2_more.sql"), second).unwrap();
    let migrator = Migrator::new(dir.path()).await.unwrap();
    (dir, migrator)
}

#[tokio::test]
async fn they_run_once_even_if_ten_start_together_and_leave_no_lock() {
    let Lab { cluster, engine, db, .. } = Lab::named("migrate").start().await;
    let (_dir, migrator) =
        migrations("INSERT INTO notes VALUES (1); INSERT INTO notes VALUES (2);").await;
    for result in join_all((0..10).map(|_| migrator.run(&db))).await {
        result.unwrap();
    }
    migrator.run(&db).await.unwrap();
    let node = cluster.primary();
    assert_eq!(ask::<i64>(node, "SELECT count(*) FROM notes").await, 2);
    assert_eq!(ask::<i64>(node, "SELECT count(*) FROM _sqlx_migrations").await, 2);
    flautino_lab::wait_until("no lock is left", async || {
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        ask::<i64>(node, locks).await == 0
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn one_that_fails_is_an_error_and_the_engine_goes_on() {
    let lab = Lab::named("migrate").start().await;
    let (_dir, migrator) = migrations("INSERT INTO notes VALUES (1); SELECT nothing;").await;
    let err = migrator.run(&lab.db).await.unwrap_err();
    assert!(err.to_string().contains('2'), "{err}");
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&lab.db).await.unwrap();
    assert_eq!(rows, 0);
    lab.engine.close().await;
}
