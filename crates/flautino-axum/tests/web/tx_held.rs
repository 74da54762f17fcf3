//! A transaction that something still holds when the response is made (trap 22).

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use flautino_axum::{DbError, EngineLayer, Tx};
use flautino_cluster::Cluster;
use flautino_lab::{App, Capture, Lab, cluster, engine, wait_until};
use futures_util::{TryStreamExt, stream};
use tokio::sync::oneshot;

use crate::common::{NOTES, SOON, sessions_in, titles};

const INSERT: &str = "INSERT INTO notes (title) VALUES ('held')";

/// Where a handler leaves its transaction, as a task of its own would keep it.
type Shelf = Arc<Mutex<Option<Tx>>>;

async fn app_that_keeps(cluster: &Cluster, shelf: &Shelf, begun: bool, status: u16) -> App {
    cluster.primary().execute(&format!("CREATE TABLE {NOTES}")).await.unwrap();
    let engine = engine(cluster, "held").await;
    let shelf = Arc::clone(shelf);
    let keep = async move |mut tx: Tx| -> Result<StatusCode, DbError> {
        if begun {
            sqlx::query(INSERT).execute(&mut tx).await?;
        }
        *shelf.lock().unwrap() = Some(tx);
        Ok(StatusCode::from_u16(status).unwrap())
    };
    let app = Router::new().route("/", post(keep)).layer(EngineLayer::new(engine.clone()));
    App::start(app, engine).await
}

async fn post_to(app: &App) -> u16 {
    let request = reqwest::Client::new().post(&app.url);
    request.send().await.unwrap().status().as_u16()
}

async fn all_is_rolled_back(cluster: &Cluster) {
    let over = wait_until("no transaction is open", async || {
        sessions_in(cluster.primary(), "held", "idle in transaction").await == 0
    });
    assert!(over.await < SOON);
    assert_eq!(titles(cluster.primary()).await, [""; 0]);
}

#[tokio::test]
async fn a_transaction_held_elsewhere_is_a_500_and_rolled_back() {
    let cluster = cluster(0).await;
    let shelf = Shelf::default();
    let app = app_that_keeps(&cluster, &shelf, true, 201).await;
    let log = Capture::start();
    assert_eq!(post_to(&app).await, 500);
    let said = |event: &flautino_lab::Event| event.field("message").contains("still held");
    assert!(log.all().iter().any(said));
    drop(shelf.lock().unwrap().take());
    all_is_rolled_back(&cluster).await;
    app.stop().await;
}

#[tokio::test]
async fn a_held_transaction_runs_no_statement_after_the_response() {
    for status in [201, 422] {
        let cluster = cluster(0).await;
        let shelf = Shelf::default();
        let app = app_that_keeps(&cluster, &shelf, true, status).await;
        post_to(&app).await;
        let mut tx = shelf.lock().unwrap().take().unwrap();
        let late = sqlx::query(INSERT).execute(&mut tx).await;
        let text = late.unwrap_err().to_string();
        assert!(text.contains("over"), "{text}");
        drop(tx);
        all_is_rolled_back(&cluster).await;
        app.stop().await;
    }
}

#[tokio::test]
async fn a_stream_that_was_made_before_the_response_runs_nothing_after_it() {
    let cluster = cluster(0).await;
    cluster.primary().execute(&format!("CREATE TABLE {NOTES}")).await.unwrap();
    let engine = engine(&cluster, "held").await;
    let (go, may_go) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    let ends = Arc::new(Mutex::new(Some((may_go, tell))));
    let handler = async move |mut tx: Tx| {
        sqlx::query(INSERT).execute(&mut tx).await.unwrap();
        let (may_go, tell) = ends.lock().unwrap().take().unwrap();
        let (made, is_made) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut rows = sqlx::query(INSERT).fetch(&mut tx);
            made.send(()).unwrap();
            may_go.await.unwrap();
            let late = rows.try_next().await.map(drop);
            tell.send(late.unwrap_err().to_string()).unwrap();
        });
        is_made.await.unwrap();
    };
    let app = Router::new().route("/", post(handler)).layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine).await;
    assert_eq!(post_to(&app).await, 500);
    go.send(()).unwrap();
    let text = told.await.unwrap();
    assert!(text.contains("over"), "{text}");
    all_is_rolled_back(&cluster).await;
    app.stop().await;
}

#[tokio::test]
async fn a_held_transaction_cannot_be_committed_after_the_response() {
    for status in [201, 422] {
        let cluster = cluster(0).await;
        let shelf = Shelf::default();
        let app = app_that_keeps(&cluster, &shelf, true, status).await;
        let expected = if status == 201 { 500 } else { status };
        assert_eq!(post_to(&app).await, expected);
        let tx = shelf.lock().unwrap().take().unwrap();
        let committed = tx.commit().await;
        assert_eq!(titles(cluster.primary()).await, [""; 0]);
        committed.unwrap_err();
        all_is_rolled_back(&cluster).await;
        app.stop().await;
    }
}

#[tokio::test]
async fn one_that_had_not_begun_fails_the_holder_and_not_the_response() {
    let cluster = cluster(0).await;
    let shelf = Shelf::default();
    let app = app_that_keeps(&cluster, &shelf, false, 201).await;
    assert_eq!(post_to(&app).await, 201);
    let mut tx = shelf.lock().unwrap().take().unwrap();
    let late = sqlx::query(INSERT).execute(&mut tx).await;
    let text = late.unwrap_err().to_string();
    assert!(text.contains("response was made"), "{text}");
    drop(tx);
    all_is_rolled_back(&cluster).await;
    app.stop().await;
}

/// The stream inserts once more when it is read.
async fn streamed(mut tx: Tx, begun: bool) -> Result<Response, DbError> {
    if begun {
        sqlx::query(INSERT).execute(&mut tx).await?;
    }
    let rows = stream::once(async move {
        sqlx::query(INSERT).execute(&mut tx).await?;
        Ok::<_, sqlx::Error>("stored")
    });
    Ok(Response::new(Body::from_stream(rows)))
}

#[tokio::test]
async fn a_transaction_inside_the_response_s_own_stream_stores_nothing() {
    let Lab { cluster, engine, .. } = Lab::named("held").table(NOTES).start().await;
    let app = Router::new()
        .route("/begun", post(async |tx: Tx| streamed(tx, true).await))
        .route("/unbegun", post(async |tx: Tx| streamed(tx, false).await))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    let ask = |path: &str| reqwest::Client::new().post(format!("{}/{path}", app.url));

    let answer = ask("begun").send().await.unwrap();
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.text().await.unwrap(), "");
    all_is_rolled_back(&cluster).await;

    // Its success was decided before anything was asked of it; the answer breaks off.
    let answer = async { ask("unbegun").send().await?.text().await };
    answer.await.unwrap_err();
    all_is_rolled_back(&cluster).await;
    assert_eq!(engine.status().nodes[0].in_flight, 0);
    app.stop().await;
}
