//! `/status` and the stream that feeds it. `cargo test -p flautino-axum` alone builds it only with
//! `--features status-page`.
#![cfg(feature = "status-page")]

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use flautino_axum::{Db, DbError, EngineLayer, status_routes};
use flautino_lab::{App, Lab};
use reqwest::Response;
use serde_json::Value;

/// Reads on until an event of this name is complete, and answers its data. `None` at the stream's end.
async fn next(stream: &mut Response, text: &mut Vec<u8>, name: &str) -> Option<Value> {
    loop {
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8(event).unwrap();
            let line = |key: &str| event.lines().find_map(|line| line.strip_prefix(key));
            if line("event: ") == Some(name) {
                return Some(serde_json::from_str(line("data: ").unwrap()).unwrap());
            }
        }
        text.extend_from_slice(&stream.chunk().await.unwrap()?);
    }
}

#[tokio::test]
async fn the_page_needs_nothing_but_its_own_server() {
    let lab = Lab::named("page").start().await;
    let app = Router::new().merge(status_routes(lab.engine.clone()));
    let app = App::start(app, lab.engine).await;
    let page = reqwest::get(format!("{}/status", app.url)).await.unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["cache-control"], "no-store");
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = page.text().await.unwrap();
    // The name of the SVG namespace is an address only in form.
    let addresses =
        text.matches("http").count() - text.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(addresses, 0);
    app.stop().await;
}

#[tokio::test]
async fn the_stream_tells_the_settings_and_then_the_status_again_and_again() {
    let read = async |db: Db| -> Result<String, DbError> {
        let one: i32 = sqlx::query_scalar("SELECT 4711").fetch_one(&db).await?;
        Ok(one.to_string())
    };
    let lab = Lab::named("stream").replicas(1).start().await;
    let routes = Router::new().route("/", get(read)).layer(EngineLayer::new(lab.engine.clone()));
    let app = routes.merge(status_routes(lab.engine.clone()));
    let app = App::start(app, lab.engine.clone()).await;
    let mut stream = reqwest::get(format!("{}/status/events", app.url)).await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut text = Vec::new();
    let settings = next(&mut stream, &mut text, "settings").await.unwrap();
    assert!(settings["routing.max_lag"].is_string(), "{settings}");
    next(&mut stream, &mut text, "status").await.unwrap();
    reqwest::get(&app.url).await.unwrap();
    loop {
        let status = next(&mut stream, &mut text, "status").await.unwrap();
        assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
        assert!(!status.to_string().contains("4711"), "{status}");
        let statements = status["statements"].as_array().unwrap();
        if statements.iter().any(|one| one["text"] == "SELECT ?" && one["count"] == 1) {
            break;
        }
    }
    drop(stream);
    app.stop().await;
}

#[tokio::test]
async fn a_page_that_looks_does_not_hold_up_the_shutdown() {
    let lab = Lab::named("shutdown").start().await;
    let app = Router::new().merge(status_routes(lab.engine.clone()));
    let app = App::start(app, lab.engine.clone()).await;
    let mut stream = reqwest::get(format!("{}/status/events", app.url)).await.unwrap();
    let mut text = Vec::new();
    next(&mut stream, &mut text, "status").await.unwrap();
    let started = Instant::now();
    let watching =
        tokio::spawn(
            async move { while next(&mut stream, &mut text, "status").await.is_some() {} },
        );
    app.stop().await;
    // The drain time is 20 s, and a stream that went on would take all of it.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    watching.await.unwrap();
}
