//! Settings that follow from the request.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab};
use http::request::Parts;

const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";

#[derive(Clone)]
struct Tenant(String);

/// Who authenticated is what the header says; it asks the database first.
async fn authenticate(db: Db, mut request: Request, next: Next) -> Response {
    let seen: String = sqlx::query_scalar(TENANT).fetch_one(&db).await.unwrap();
    assert_eq!(seen, "", "nobody is authenticated yet");
    if let Some(tenant) = request.headers().get("x-tenant") {
        let tenant = Tenant(tenant.to_str().unwrap().to_owned());
        request.extensions_mut().insert(tenant);
    }
    next.run(request).await
}

fn settings(request: &Parts) -> Option<(&'static str, String)> {
    request.extensions.get::<Tenant>().map(|tenant| ("app.tenant", tenant.0.clone()))
}

async fn by_db(db: Db) -> Result<String, DbError> {
    Ok(sqlx::query_scalar(TENANT).fetch_one(&db).await?)
}

async fn by_tx(mut tx: Tx) -> Result<String, DbError> {
    Ok(sqlx::query_scalar(TENANT).fetch_one(&mut tx).await?)
}

async fn by_extensions(request: Request) -> Result<String, DbError> {
    let db = Db::from_extensions(request.extensions()).unwrap();
    Ok(sqlx::query_scalar(TENANT).fetch_one(&db).await?)
}

async fn ask(app: &App, path: &str, tenant: Option<&str>) -> (u16, String) {
    let request = reqwest::Client::new().get(format!("{}/{path}", app.url));
    let request = match tenant {
        Some(tenant) => request.header("x-tenant", tenant),
        None => request,
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn they_are_those_of_whoever_is_authenticated_by_the_time_of_the_handler() {
    let lab = Lab::named("settings").one_connection().start().await;
    let app = Router::new()
        .route("/db", get(by_db))
        .route("/tx", get(by_tx))
        .route("/extensions", get(by_extensions))
        .layer(from_fn(authenticate))
        .layer(EngineLayer::new(lab.engine.clone()).settings(settings));
    let app = App::start(app, lab.engine).await;
    for path in ["db", "tx", "extensions"] {
        for tenant in [Some("1"), None, Some("2"), Some("it's"), None] {
            let answer = ask(&app, path, tenant).await;
            assert_eq!(answer, (200, tenant.unwrap_or("").to_owned()), "{path}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_transaction_that_began_before_never_serves_another_tenant() {
    async fn begins(mut tx: Tx, mut request: Request, next: Next) -> Response {
        sqlx::query("SELECT 1").execute(&mut tx).await.unwrap();
        drop(tx);
        request.extensions_mut().insert(Tenant("1".to_owned()));
        next.run(request).await
    }
    let lab = Lab::named("settings").one_connection().start().await;
    let app = Router::new()
        .route("/tx", get(by_tx))
        .route("/db", get(async || "no handle"))
        .layer(from_fn(begins))
        .layer(EngineLayer::new(lab.engine.clone()).settings(settings));
    let app = App::start(app, lab.engine).await;
    let (status, text) = ask(&app, "tx", None).await;
    assert_eq!(status, 500);
    assert!(text.contains("EngineLayer::settings"), "{text}");
    assert_eq!(ask(&app, "db", None).await, (200, "no handle".to_owned()));
    app.stop().await;
}

#[tokio::test]
async fn the_hook_sees_the_head_of_the_request() {
    let lab = Lab::named("settings").start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let layer = EngineLayer::new(lab.engine.clone()).settings({
        let seen = Arc::clone(&seen);
        move |request| {
            let host = request.headers["x-tenant"].to_str().unwrap();
            seen.lock().unwrap().push(format!("{} {}", request.method, request.uri.path()));
            [("app.tenant", host.to_owned())]
        }
    });
    let app = Router::new()
        .route("/db", get(by_db))
        .route("/extensions", get(by_extensions))
        .layer(layer);
    let app = App::start(app, lab.engine).await;
    assert_eq!(ask(&app, "db", Some("a")).await, (200, "a".to_owned()));
    assert_eq!(ask(&app, "extensions", Some("b")).await, (200, "b".to_owned()));
    assert_eq!(*seen.lock().unwrap(), ["GET /db", "GET /extensions"]);
    app.stop().await;
}
