//! Tasks that outlive their request: they work while `serve` drains (trap 21).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use flautino::Error;
use flautino_axum::{Db, EngineLayer};
use flautino_lab::{App, Lab, sessions_of, wait_until};
use tokio::sync::{Notify, oneshot};

use crate::common::{NOTES, SOON, send_get, sessions_in, titles};

#[tokio::test]
async fn a_task_goes_on_querying_while_a_request_is_in_flight() {
    let Lab { cluster, engine, .. } = Lab::named("tasks").table(NOTES).start_closed().await;
    let [go, arrived, finish] = [(); 3].map(|()| Arc::new(Notify::new()));
    let (task_go, held) = (Arc::clone(&go), (Arc::clone(&arrived), Arc::clone(&finish)));
    let hold = async move || {
        held.0.notify_one();
        held.1.notified().await;
    };
    let (written, stored) = oneshot::channel();
    let written = Arc::new(std::sync::Mutex::new(Some(written)));
    let spawn = async move |db: Db| {
        let written = written.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            task_go.notified().await;
            let mut results = Vec::new();
            for title in ["one", "two", "three"] {
                let insert = sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title);
                results.push(insert.execute(&db).await.map(drop));
            }
            written.send(results).unwrap();
        });
    };
    let app = Router::new()
        .route("/spawn", get(spawn))
        .route("/held", get(hold))
        .layer(EngineLayer::new(engine.clone()));
    let mut app = App::start(app, engine.clone()).await;
    let answer = reqwest::get(format!("{}/spawn", app.url)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let in_flight = tokio::spawn(reqwest::get(format!("{}/held", app.url)));
    arrived.notified().await;

    app.signal();
    wait_until("it drains", async || !engine.is_ready()).await;
    go.notify_one();
    for result in stored.await.unwrap() {
        result.unwrap();
    }
    assert_eq!(titles(cluster.primary()).await, ["one", "two", "three"]);
    finish.notify_one();
    assert_eq!(in_flight.await.unwrap().unwrap().status(), 200);
    let report = app.stop().await;
    assert_eq!(report.requests_cut, 0, "{report:?}");
}

#[tokio::test]
async fn a_task_may_finish_its_transaction_after_the_last_response() {
    let Lab { cluster, engine, .. } = Lab::named("tasks").table(NOTES).start_closed().await;
    let go = Arc::new(Notify::new());
    let task_go = Arc::clone(&go);
    let spawn = async move |db: Db| {
        let mut tx = db.begin().await.unwrap();
        let insert = "INSERT INTO notes (title) VALUES ('before')";
        sqlx::query(insert).execute(&mut tx).await.unwrap();
        tokio::spawn(async move {
            task_go.notified().await;
            let insert = "INSERT INTO notes (title) VALUES ('after')";
            sqlx::query(insert).execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        });
    };
    let app = Router::new().route("/spawn", get(spawn)).layer(EngineLayer::new(engine.clone()));
    let mut app = App::start(app, engine.clone()).await;
    let answer = reqwest::get(format!("{}/spawn", app.url)).await.unwrap();
    assert_eq!(answer.status(), 200);

    app.signal();
    let stopping = tokio::spawn(app.stop());
    wait_until("the engine closes", async || !engine.status().open).await;
    let new = sqlx::query("SELECT 1").execute(&engine.handle()).await;
    let refused = new.unwrap_err();
    assert!(matches!(Error::of(&refused), Some(Error::Closed { .. })));
    assert!(!stopping.is_finished());
    go.notify_one();
    let report = stopping.await.unwrap();
    assert_eq!(titles(cluster.primary()).await, ["before", "after"]);
    assert_eq!(report.close.drained, 1, "{report:?}");
    assert_eq!(report.close.cancelled, 0, "{report:?}");
    assert!(report.elapsed < Duration::from_secs(20), "{report:?}");
}

#[tokio::test]
async fn a_task_s_statement_that_outlasts_the_drain_time_is_cancelled() {
    let Lab { cluster, engine, .. } = Lab::named("tasks").start_closed().await;
    let (ended, end) = oneshot::channel();
    let ended = Arc::new(std::sync::Mutex::new(Some(ended)));
    let spawn = async move |db: Db| {
        let ended = ended.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            let slept = sqlx::query("SELECT pg_sleep(60)").execute(&db).await;
            ended.send(slept.map(drop)).unwrap();
        });
    };
    let app = Router::new().route("/spawn", get(spawn)).layer(EngineLayer::new(engine.clone()));
    let drain = Duration::from_millis(300);
    let app = App::start_with_drain(app, engine, drain).await;
    let client = send_get(&app.url, "/spawn").await;
    wait_until("the task's statement runs", async || {
        sessions_in(cluster.primary(), "tasks", "active").await == 1
    })
    .await;
    let report = app.stop().await;
    assert!(report.elapsed < drain + Duration::from_secs(5), "{report:?}");
    assert_eq!(report.close.cancelled, 1, "{report:?}");
    assert_eq!(report.close.still_held, 0, "{report:?}");
    let error = end.await.unwrap().unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::Cut { .. })));
    let gone = wait_until("the statement has ended", async || {
        sessions_of(cluster.primary(), "tasks").await == 0
    });
    assert!(gone.await < SOON);
    drop(client);
}
