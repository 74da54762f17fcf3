//! A commit that does not happen is never a success (trap 1).

use std::time::Duration;

use axum::Router;
use axum::extract::MatchedPath;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use flautino_axum::{DbError, EngineLayer, LayerError, Tx};
use flautino_lab::{App, Capture, Lab, cluster, engine};
use tracing::Level;

use crate::common::{NOTES, titles};

async fn insert(tx: &mut Tx, title: &str) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title);
    insert.execute(tx).await.map(drop)
}

/// The second violates a constraint that is checked at the commit.
async fn deferred(mut tx: Tx) -> Result<(StatusCode, &'static str), DbError> {
    insert(&mut tx, "twice").await?;
    insert(&mut tx, "twice").await?;
    Ok((StatusCode::CREATED, "stored twice"))
}

async fn swallowed(mut tx: Tx) -> Result<&'static str, DbError> {
    insert(&mut tx, "swallowed").await?;
    let nonsense = sqlx::query("INSERT INTO no_such_table VALUES (1)");
    nonsense.execute(&mut tx).await.unwrap_err();
    Ok("stored, or so it seems")
}

/// The same over the bare connection, where flautino does not see the failure.
async fn swallowed_unseen(mut tx: Tx) -> Result<&'static str, DbError> {
    insert(&mut tx, "unseen").await?;
    let connection: &mut sqlx::PgConnection = tx.begin().await?;
    sqlx::query("INSERT INTO no_such_table VALUES (1)").execute(connection).await.unwrap_err();
    Ok("stored, or so it seems")
}

async fn swallowed_behind_a_savepoint(mut tx: Tx) -> Result<&'static str, DbError> {
    insert(&mut tx, "kept").await?;
    let mut savepoint = tx.begin().await?.savepoint().await?;
    sqlx::query("INSERT INTO no_such_table VALUES (1)").execute(&mut savepoint).await.unwrap_err();
    savepoint.rollback().await?;
    Ok("stored")
}

/// The server ends the session before the commit.
async fn killed(mut tx: Tx) -> Result<&'static str, DbError> {
    insert(&mut tx, "killed").await?;
    let kill = sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())");
    kill.execute(&mut tx).await.unwrap_err();
    Ok("stored, or so it seems")
}

/// A statement is given up half-way, by a timeout of the handler's own.
async fn given_up(mut tx: Tx) -> Result<&'static str, DbError> {
    insert(&mut tx, "given up").await?;
    let sleep = sqlx::query("SELECT pg_sleep(1)");
    let patience = Duration::from_millis(50);
    tokio::time::timeout(patience, sleep.execute(&mut tx)).await.unwrap_err();
    Ok("stored, or so it seems")
}

#[tokio::test]
async fn after_a_statement_that_was_given_up_the_status_says_what_is_stored() {
    let Lab { cluster, engine, .. } = Lab::named("commit").table(NOTES).start().await;
    let app = Router::new().route("/", post(given_up)).layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    for round in 1..=3 {
        let request = reqwest::Client::new().post(&app.url);
        let status = request.send().await.unwrap().status().as_u16();
        let stored = titles(cluster.primary()).await;
        let kept = if status == 200 { round } else { 0 };
        assert!([200, 500].contains(&status), "{status}");
        assert_eq!(stored.len(), kept, "{status}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_failed_commit_turns_success_into_a_500_that_says_nothing() {
    let cluster = cluster(0).await;
    let table = "CREATE TABLE notes (id bigserial PRIMARY KEY,
        title text NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED)";
    cluster.primary().execute(table).await.unwrap();
    let engine = engine(&cluster, "commit").await;
    let app = Router::new()
        .route("/deferred", post(deferred))
        .route("/swallowed", post(swallowed))
        .route("/unseen", post(swallowed_unseen))
        .route("/killed", post(killed))
        .route("/savepoint", post(swallowed_behind_a_savepoint))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    let log = Capture::start();
    let client = reqwest::Client::new();
    for (path, why) in [
        ("deferred", "notes_title_key"),
        ("swallowed", "a statement in it had failed"),
        ("unseen", "a statement in it had failed"),
        ("killed", ""),
    ] {
        let before = log.all().len();
        let request = client.post(format!("{}/{path}", app.url));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 500, "{path}");
        assert_eq!(answer.text().await.unwrap(), "", "{path}");
        assert_eq!(titles(cluster.primary()).await, [""; 0], "{path}");
        let errors = log.all().split_off(before).into_iter().filter(|event| {
            event.level == Level::ERROR
                && event.target.starts_with("flautino")
                && event.field("message").contains("not committed")
        });
        let causes: Vec<_> = errors.map(|e| e.field("error").to_owned()).collect();
        assert_eq!(causes.len(), 1, "{path}: {causes:?}");
        assert!(causes[0].contains(why), "{path}: {causes:?}");
    }
    let request = client.post(format!("{}/savepoint", app.url));
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!(titles(cluster.primary()).await, ["kept"]);
    assert_eq!(engine.status().nodes[0].in_flight, 0);
    app.stop().await;
}

#[tokio::test]
async fn the_app_s_own_answer_to_a_failed_commit_knows_the_error_and_the_request() {
    let lab = Lab::named("own").table(NOTES).start().await;
    let layer =
        EngineLayer::new(lab.engine.clone()).server_timing(true).on_error(|error, request| {
            let header = request.headers["x-id"].to_str().unwrap().to_owned();
            let route = request.extensions.get::<MatchedPath>().unwrap().as_str();
            assert!(matches!(error, LayerError::NotCommitted(_)), "{error}");
            let text = format!("{} {} {header} {route}", request.method, request.uri.path());
            (error.status(), [("x-answer", text)], error).into_response()
        });
    let app = Router::new()
        .route("/swallowed/{id}", post(swallowed))
        .route("/stored", post(swallowed_behind_a_savepoint))
        .layer(layer);
    let app = App::start(app, lab.engine.clone()).await;
    let ask = async |path: &str| {
        let request = reqwest::Client::new().post(format!("{}/{path}", app.url));
        request.header("x-id", "17").send().await.unwrap()
    };
    let answer = ask("swallowed/3").await;
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.headers()["x-answer"], "POST /swallowed/3 17 /swallowed/{id}");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.headers().contains_key("server-timing"));
    let body = answer.text().await.unwrap();
    assert!(body.contains("\"status\":500") && !body.contains("no_such_table"), "{body}");
    assert_eq!(ask("stored").await.status(), 200);
    app.stop().await;
}
