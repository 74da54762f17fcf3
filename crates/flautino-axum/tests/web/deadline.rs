//! A deadline for all statements of a request.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab};
use http::HeaderName;

const HEADER: &str = "x-timeout-ms";
/// Long enough for a statement to be sent, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(3);

async fn slow(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT pg_sleep(600)").execute(&db).await?;
    Ok(())
}

async fn slow_in_a_transaction(mut tx: Tx) -> Result<(), DbError> {
    sqlx::query("SELECT pg_sleep(600)").execute(&mut tx).await?;
    Ok(())
}

async fn quick(db: Db) -> Result<&'static str, DbError> {
    sqlx::query("SELECT 1").execute(&db).await?;
    Ok("done")
}

async fn ask(app: &App, path: &str, header: Option<&str>) -> reqwest::Response {
    let request = reqwest::Client::new().get(format!("{}/{path}", app.url));
    let request = match header {
        Some(value) => request.header(HEADER, value),
        None => request,
    };
    request.send().await.unwrap()
}

#[tokio::test]
async fn what_is_late_is_a_504_and_what_still_waits_a_503() {
    let lab = Lab::named("late").one_connection().config(|config| {
        config.pool.acquire_timeout = Duration::from_secs(600);
    });
    let lab = lab.start().await;
    let layer = EngineLayer::new(lab.engine.clone()).deadline(PATIENCE);
    let app = Router::new()
        .route("/slow", get(slow))
        .route("/tx", get(slow_in_a_transaction))
        .route("/quick", get(quick))
        .layer(layer);
    let (db, app) = (lab.db, App::start(app, lab.engine).await);
    for path in ["slow", "tx"] {
        let answer = ask(&app, path, None).await;
        assert_eq!(answer.status(), 504, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let lease = db.acquire().await.unwrap();
    let answer = ask(&app, "quick", None).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    drop(lease);
    app.stop().await;
}

#[tokio::test]
async fn a_client_s_header_shortens_it_and_never_prolongs_it() {
    let lab = Lab::named("told").start().await;
    let header = HeaderName::from_static(HEADER);
    let layer = || EngineLayer::new(lab.engine.clone());
    let app = Router::new()
        .merge(
            Router::new()
                .route("/capped", get(slow))
                .layer(layer().deadline(PATIENCE).deadline_header(header.clone())),
        )
        .merge(
            Router::new()
                .route("/told", get(slow))
                .route("/quick", get(quick))
                .layer(layer().deadline_header(header)),
        );
    let app = App::start(app, lab.engine).await;
    assert_eq!(ask(&app, "capped", Some("600000")).await.status(), 504);
    assert_eq!(ask(&app, "capped", Some("soon")).await.status(), 504);
    assert_eq!(ask(&app, "told", Some("3000")).await.status(), 504);
    assert_eq!(ask(&app, "quick", Some("0")).await.status(), 503);
    assert_eq!(ask(&app, "quick", Some("60000")).await.status(), 200);
    assert_eq!(ask(&app, "quick", None).await.status(), 200);
    app.stop().await;
}

#[tokio::test]
async fn a_grpc_client_s_header_is_read_in_its_own_units() {
    let lab = Lab::named("grpc").start().await;
    let layer = EngineLayer::new(lab.engine.clone());
    let app = Router::new()
        .route("/slow", get(slow))
        .route("/quick", get(quick))
        .layer(layer.deadline_header(HeaderName::from_static("grpc-timeout")));
    let app = App::start(app, lab.engine).await;
    let ask = async |path: &str, timeout: &str| {
        let request = reqwest::Client::new().get(format!("{}/{path}", app.url));
        request.header("grpc-timeout", timeout).send().await.unwrap().status()
    };
    assert_eq!(ask("slow", "3S").await, 504);
    assert_eq!(ask("quick", "3n").await, 503);
    assert_eq!(ask("quick", "1M").await, 200);
    // In milliseconds it would be over at once.
    assert_eq!(ask("quick", "0").await, 200);
    app.stop().await;
}
