//! What a request leaves behind or does before its handler: its session goes along.

use axum::Router;
use axum::extract::{Path, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_lab::{App, settings};
use tokio::sync::{mpsc, watch};

use crate::browser::Browser;
use crate::common::{app, engine, prepared, read, replicas, write};

#[tokio::test]
async fn a_spawned_task_sees_what_its_request_wrote_or_brought_along() {
    let cluster = prepared().await;
    let engine = engine(&cluster, settings::frozen).await;
    let (go, gate) = watch::channel(0);
    let (results, mut seen) = mpsc::unbounded_channel();
    let later = move |db: Db| {
        let (mut gate, results) = (gate.clone(), results.clone());
        tokio::spawn(async move {
            gate.wait_for(|open| *open > 0).await.unwrap();
            let value = read(&db, "a").await.unwrap();
            results.send((value, db.served_by().unwrap().to_string())).unwrap();
        });
    };
    let of_reader = later.clone();
    let router = Router::new()
        .route(
            "/set-later/{value}",
            get(async move |db: Db, Path(value): Path<i64>| -> Result<(), DbError> {
                write(&db, "a", value).await?;
                later(db.clone());
                Ok(())
            }),
        )
        .route("/read-later", get(async move |db: Db| of_reader(db.clone())))
        .layer(EngineLayer::new(engine.clone()));
    for replica in replicas(&cluster) {
        replica.pause_replay().await.unwrap();
    }
    let app = App::start(router, engine.clone()).await;
    let mut browser = Browser::default();
    let answer = browser.get(&format!("{}/set-later/7", app.url)).await;
    assert!(answer.token().is_some());
    let answer = browser.get(&format!("{}/read-later", app.url)).await;
    assert_eq!((answer.status, answer.token()), (200, None));
    // Both responses are with the client.
    assert!(seen.try_recv().is_err());
    go.send(1).unwrap();
    for _ in 0..2 {
        assert_eq!(seen.recv().await.unwrap(), (7, "main".to_owned()));
    }
    // A session of its own may be served the past.
    let stranger = engine.handle();
    assert_eq!(read(&stranger, "a").await.unwrap(), 0);
    app.stop().await;
}

#[tokio::test]
async fn what_a_task_writes_before_the_response_is_in_its_token() {
    let cluster = prepared().await;
    let engine = engine(&cluster, settings::frozen).await;
    let in_task = async |db: Db, Path(value): Path<i64>| {
        tokio::spawn(async move { write(&db, "a", value).await.unwrap() }).await.unwrap();
    };
    let router = Router::new()
        .route("/set-in-task/{value}", get(in_task))
        .layer(EngineLayer::new(engine.clone()))
        .merge(app(&engine));
    for replica in replicas(&cluster) {
        replica.pause_replay().await.unwrap();
    }
    let app = App::start(router, engine).await;
    let mut browser = Browser::default();
    let answer = browser.get(&format!("{}/set-in-task/3", app.url)).await;
    assert!(answer.token().is_some());
    browser.get(&format!("{}/value/a", app.url)).await.assert_value(3);
    app.stop().await;
}

/// Counts the request before the handler runs, and once more after it.
async fn count(db: Db, request: Request, next: Next) -> Result<Response, DbError> {
    write(&db, "before", 1).await?;
    let response = next.run(request).await;
    write(&db, "after", 1).await?;
    Ok(response)
}

#[tokio::test]
async fn what_middleware_writes_is_seen_by_the_handler_and_the_next_request() {
    let cluster = prepared().await;
    let engine = engine(&cluster, settings::frozen).await;
    let both = async |db: Db| -> Result<String, DbError> {
        Ok(format!("{} {}", read(&db, "before").await?, read(&db, "after").await?))
    };
    let router = Router::new()
        .route("/counted", get(both).layer(from_fn(count)))
        .route("/both", get(both))
        .layer(EngineLayer::new(engine.clone()).server_timing(true));
    for replica in replicas(&cluster) {
        replica.pause_replay().await.unwrap();
    }
    let app = App::start(router, engine).await;
    let mut browser = Browser::default();
    let answer = browser.get(&format!("{}/counted", app.url)).await;
    assert_eq!((answer.status, &*answer.body), (200, "1 0"));
    assert!(answer.token().is_some());
    let nodes: Vec<_> = answer.statements().into_iter().map(|(node, _)| node).collect();
    assert_eq!(nodes, ["main", "main", "main", "main"]);
    let answer = browser.get(&format!("{}/both", app.url)).await;
    assert_eq!((answer.status, &*answer.body), (200, "1 1"));
    let stranger = Browser::default().get(&format!("{}/both", app.url)).await;
    assert_eq!((stranger.status, &*stranger.body), (200, "0 0"));
    app.stop().await;
}
