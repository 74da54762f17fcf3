//! Statements whose client has gone (trap 18): ended at the server, their slots free at once.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_lab::{App, Lab, wait_until};
use futures_util::StreamExt;

use crate::common::{send_get, sessions_in};

/// How long the server may go on with it; it takes 30 to 80 ms.
const PROMISED: Duration = Duration::from_secs(2);

async fn sleep(db: Db, Path(seconds): Path<f64>) -> Result<(), DbError> {
    let sleep = sqlx::query("SELECT pg_sleep($1)").bind(seconds);
    sleep.execute(&db).await?;
    Ok(())
}

/// The same in a transaction of the handler's own.
async fn sleep_in_transaction(db: Db) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    sqlx::query("SELECT pg_sleep(30)").execute(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// The statement's rows are half read when the client goes.
async fn half_read(db: Db) -> Result<(), DbError> {
    let sql =
        "SELECT n, pg_sleep(CASE WHEN n < 10 THEN 0 ELSE 30 END) FROM generate_series(1, 20) n";
    let mut rows = sqlx::query(sql).fetch(&db);
    while let Some(row) = rows.next().await {
        row?;
    }
    Ok(())
}

async fn start(engine: &Engine) -> App {
    let app = Router::new()
        .route("/sleep/{seconds}", get(sleep))
        .route("/transaction", get(sleep_in_transaction))
        .route("/rows", get(half_read))
        .layer(EngineLayer::new(engine.clone()));
    App::start(app, engine.clone()).await
}

#[tokio::test]
async fn an_abandoned_statement_ends_within_two_seconds_and_frees_its_slot_at_once() {
    let Lab { cluster, engine, .. } = Lab::named("abandoned").connections(1).start_closed().await;
    let app = start(&engine).await;
    let active = async || sessions_in(cluster.primary(), "abandoned", "active").await;
    for path in ["/sleep/30", "/transaction", "/rows"] {
        let client = send_get(&app.url, path).await;
        wait_until("the statement runs", async || active().await == 1).await;
        drop(client);
        let left = Instant::now();
        let answer = reqwest::get(format!("{}/sleep/0", app.url)).await.unwrap();
        let answered = left.elapsed();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answered < PROMISED, "{path}: {answered:?}");
        wait_until("the statement has ended", async || active().await == 0).await;
        let ended = left.elapsed();
        println!("{path}: slot free after {answered:?}, statement gone after {ended:?}");
        assert!(ended < PROMISED, "{path}: {ended:?}");
    }
    app.stop().await;
}
