//! `Tx` keeps what a successful request did, and nothing of any other.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flautino::Engine;
use flautino_axum::{DbError, EngineLayer, Tx};
use flautino_cluster::Cluster;
use flautino_lab::{App, Lab, wait_until};
use futures_util::FutureExt;

use crate::common::{NOTES, SOON, sessions_in, titles};

async fn insert(tx: &mut Tx, title: &str) -> Result<(), DbError> {
    let insert = sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title);
    insert.execute(tx).await?;
    Ok(())
}

/// Inserts its status, and answers it.
async fn with_status(mut tx: Tx, Path(status): Path<u16>) -> Result<StatusCode, DbError> {
    insert(&mut tx, &status.to_string()).await?;
    Ok(StatusCode::from_u16(status).unwrap())
}

async fn panicking(mut tx: Tx) -> Result<(), DbError> {
    insert(&mut tx, "panic").await?;
    panic!("as a handler may");
}

async fn catch_panic(request: Request, next: Next) -> Response {
    let caught = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    caught.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn routes() -> Router {
    Router::new().route("/status/{status}", post(with_status)).route("/panic", post(panicking))
}

#[tokio::test]
async fn a_status_below_400_commits_and_any_other_rolls_back() {
    let Lab { cluster, engine, .. } = Lab::named("outcome").table(NOTES).start().await;
    let app = routes().layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine).await;
    let client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let kept = [200, 201, 202, 204, 303, 304, 399];
    for status in kept.into_iter().chain([400, 404, 409, 422, 499, 500, 503]) {
        let url = format!("{}/status/{status}", app.url);
        let answer = client.post(url).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
    assert_eq!(titles(cluster.primary()).await, kept.map(|status| status.to_string()));
    app.stop().await;
}

/// The rolled-back row is gone, no transaction stays open, and the only connection serves on.
async fn nothing_stays(cluster: &Cluster, engine: &Engine, app: &App) {
    let over = wait_until("no transaction is open", async || {
        sessions_in(cluster.primary(), "outcome", "idle in transaction").await == 0
    });
    assert!(over.await < SOON);
    let next = reqwest::Client::new().post(format!("{}/status/200", app.url));
    assert_eq!(next.send().await.unwrap().status(), 200);
    assert_eq!(titles(cluster.primary()).await, ["200"]);
    assert_eq!(engine.status().nodes[0].in_flight, 0);
}

#[tokio::test]
async fn a_panic_that_nothing_catches_rolls_back() {
    let Lab { cluster, engine, .. } =
        Lab::named("outcome").table(NOTES).connections(1).start_closed().await;
    let app = routes().layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    let request = reqwest::Client::new().post(format!("{}/panic", app.url));
    assert_eq!(request.send().await.unwrap().status(), 500);
    nothing_stays(&cluster, &engine, &app).await;
    app.stop().await;
}

#[tokio::test]
async fn a_panic_that_a_layer_within_or_without_turns_into_a_500_rolls_back() {
    for inside in [true, false] {
        let Lab { cluster, engine, .. } =
            Lab::named("outcome").table(NOTES).connections(1).start_closed().await;
        let layer = EngineLayer::new(engine.clone());
        let app = if inside {
            routes().layer(from_fn(catch_panic)).layer(layer)
        } else {
            routes().layer(layer).layer(from_fn(catch_panic))
        };
        let app = App::start(app, engine.clone()).await;
        let request = reqwest::Client::new().post(format!("{}/panic", app.url));
        assert_eq!(request.send().await.unwrap().status(), 500);
        nothing_stays(&cluster, &engine, &app).await;
        app.stop().await;
    }
}
