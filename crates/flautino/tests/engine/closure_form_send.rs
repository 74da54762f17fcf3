//! The closure form inside a spawned task, as in an axum handler: its future is `Send`.
//!
//! With what it captures moved in: for a closure that borrows, rustc 1.94 says "implementation
//! of `Send` is not general enough".

use flautino_lab::{Lab, ask};

#[tokio::test]
async fn the_closure_form_runs_in_a_spawned_task() {
    let Lab { cluster, engine, db, .. } = Lab::named("spawned").table("t (a text)").start().await;
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
