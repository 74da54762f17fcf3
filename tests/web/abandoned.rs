//! Statements whose client has gone (trap 18): ended at the server, their slots free at once.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_tests::{App, cluster, config, sessions_of, wait_until};
use futures_util::{StreamExt, stream};

use crate::common::{SOON, ask, engine_of, sessions_in};

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
    let cluster = cluster(0).await;
    let engine = engine_of(config(&cluster, "abandoned"), 1);
    let app = start(&engine).await;
    let active = async || sessions_in(cluster.primary(), "abandoned", "active").await;
    for path in ["/sleep/30", "/transaction", "/rows"] {
        let client = ask(&app.url, path).await;
        wait_until("the statement runs", async || active().await == 1).await;
        drop(client);
        let left = Instant::now();
        let answer = reqwest::get(format!("{}/sleep/0", app.url)).await.unwrap();
        let answered = left.elapsed();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answered < Duration::from_secs(1), "{path}: {answered:?}");
        wait_until("the statement has ended", async || active().await == 0).await;
        let ended = left.elapsed();
        println!("{path}: slot free after {answered:?}, statement gone after {ended:?}");
        assert!(ended < SOON, "{path}: {ended:?}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_disconnects_leave_the_pool_whole() {
    const MOST: u32 = 10;
    let cluster = cluster(0).await;
    let engine = engine_of(config(&cluster, "abandoned"), MOST);
    let app = start(&engine).await;
    let started = Instant::now();
    stream::iter(0..1000_u64)
        .for_each_concurrent(20, |n| {
            let url = &app.url;
            async move {
                let client = ask(url, "/sleep/30").await;
                // At all stages: before the request is read, in the queue, mid-statement.
                tokio::time::sleep(Duration::from_millis(n % 40)).await;
                drop(client);
            }
        })
        .await;
    println!("a thousand disconnects in {:?}", started.elapsed());

    let node = cluster.primary();
    let ended = wait_until("no statement runs, and no more sessions than allowed", async || {
        sessions_in(node, "abandoned", "active").await == 0
            && sessions_of(node, "abandoned").await <= i64::from(MOST)
    });
    let ended = ended.await;
    println!("the server is quiet after {ended:?}");
    assert!(ended < SOON, "{ended:?}");
    wait_until("nothing is checked out", async || engine.status().nodes[0].in_flight == 0).await;

    // All of the pool at once: each request holds a connection until all have one.
    let answers = (0..MOST).map(|_| tokio::spawn(reqwest::get(format!("{}/sleep/1", app.url))));
    let answers: Vec<_> = answers.collect();
    wait_until("all run at once", async || {
        sessions_in(node, "abandoned", "active").await == i64::from(MOST)
    })
    .await;
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(engine.status().nodes[0].in_flight, 0);
    assert_eq!(sessions_of(node, "abandoned").await, i64::from(MOST));
    app.stop().await;
}
