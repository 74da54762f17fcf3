//! The closure form inside a spawned task, as in an axum handler: its future is `Send`.
//!
//! With what it captures moved in: for a closure that borrows, rustc 1.94 says "implementation
//! of `Send` is not general enough".

use flautino_lab::{ask, cluster, engine};

#[tokio::test]
async fn the_closure_form_runs_in_a_spawned_task() {
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (a text)").await.unwrap();
    let engine = engine(&cluster, "spawned").await;
    let db = engine.handle();
    let title = "moved in".to_owned();
    let task = tokio::spawn(async move {
        db.transaction(async move |tx| {
            sqlx::query("INSERT INTO t VALUES ($1)").bind(&title).execute(&mut *tx).await?;
            let mut savepoint = tx.savepoint().await?;
            sqlx::query("DELETE FROM t").execute(&mut savepoint).await?;
            savepoint.rollback().await
        })
        .await
    });
    task.await.unwrap().unwrap();
    assert_eq!(ask::<String>(cluster.primary(), "SELECT a FROM t").await, "moved in");
    engine.close().await;
}
