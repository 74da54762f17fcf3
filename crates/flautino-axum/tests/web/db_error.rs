//! What a client learns when the database says no, and what the log does.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use flautino::{Engine, EngineConfig, PoolConfig};
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_lab::{Capture, cluster, config, engine, open};
use tracing::Level;

use crate::common::serve_plainly;

async fn run(db: &Db, sql: &'static str) -> Result<StatusCode, DbError> {
    sqlx::query(sql).fetch_one(db).await?;
    Ok(StatusCode::OK)
}

fn app(engine: &Engine) -> Router {
    let ok = async |db: Db| run(&db, "SELECT 1").await;
    let none = async |db: Db| run(&db, "SELECT 1 WHERE false").await;
    let twice = async |db: Db| {
        let sql = "INSERT INTO secret_table (secret_column) VALUES ('a secret'), ('a secret')";
        run(&db, sql).await
    };
    let missing = async |db: Db| run(&db, "SELECT secret_column FROM no_such_table").await;
    let null = async |db: Db| {
        let sql = "INSERT INTO secret_table (secret_column) VALUES (NULL)";
        run(&db, sql).await
    };
    Router::new()
        .route("/ok", get(ok))
        .route("/none", get(none))
        .route("/twice", get(twice))
        .route("/missing", get(missing))
        .route("/null", get(null))
        .layer(EngineLayer::new(engine.clone()))
}

/// Status, `Retry-After` and body.
async fn answer_to(url: &str, path: &str) -> (u16, Option<String>, String) {
    let answer = reqwest::get(format!("{url}/{path}")).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let retry = answer.headers().get("retry-after");
    let retry = retry.map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    (status, retry, answer.text().await.unwrap())
}

const FAILURE: &str = "Internal Server Error";

/// A problem detail, RFC 9457.
fn problem(title: &str, status: u16, detail: &str) -> String {
    format!(r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}"#)
}

fn logged(log: &Capture, level: Level, cause: &str) -> bool {
    log.all().iter().any(|event| {
        event.level == level
            && event.target.starts_with("flautino_axum")
            && event.field("error").contains(cause)
    })
}

#[tokio::test]
async fn a_client_learns_the_kind_of_the_failure_and_the_log_its_cause() {
    let cluster = cluster(0).await;
    let table = "CREATE TABLE secret_table (secret_column text NOT NULL UNIQUE)";
    cluster.primary().execute(table).await.unwrap();
    let engine = engine(&cluster, "errors").await;
    let url = serve_plainly(app(&engine)).await;
    let log = Capture::start();
    for (path, status, body) in [
        ("none", 404, problem("Not Found", 404, "there is no such thing")),
        ("twice", 409, problem("Conflict", 409, "this exists already")),
        ("missing", 500, problem(FAILURE, 500, "the request could not be served")),
        ("null", 500, problem(FAILURE, 500, "the request could not be served")),
    ] {
        let answer = answer_to(&url, path).await;
        assert_eq!(answer, (status, None, body), "{path}");
    }
    assert!(logged(&log, Level::ERROR, "no_such_table"));
    assert!(logged(&log, Level::ERROR, "secret_column"));

    engine.close().await;
    let (status, retry, body) = answer_to(&url, "ok").await;
    assert_eq!((status, retry.as_deref()), (503, Some("1")));
    let unavailable = "the database is not available, try again";
    assert_eq!(body, problem("Service Unavailable", 503, unavailable));
    assert!(logged(&log, Level::WARN, "the engine is closed"));
}

#[tokio::test]
async fn no_connection_in_time_is_a_503_to_try_again_after() {
    let cluster = cluster(0).await;
    let config = EngineConfig {
        pool: PoolConfig {
            max_connections: 1,
            acquire_timeout: Duration::from_secs(1),
            ..PoolConfig::default()
        },
        ..config(&cluster, "errors")
    };
    let engine = open(config).await;
    let url = serve_plainly(app(&engine)).await;
    let log = Capture::start();
    let lease = engine.handle().acquire().await.unwrap();
    let (status, retry, body) = answer_to(&url, "ok").await;
    assert_eq!((status, retry.as_deref()), (503, Some("1")), "{body}");
    assert!(!body.contains("max_connections"), "{body}");
    assert!(logged(&log, Level::WARN, "1 of 1 in use"));
    drop(lease);
    let answer = reqwest::get(format!("{url}/ok")).await.unwrap();
    assert_eq!(answer.status(), 200);

    // A server that is down is no internal error either.
    cluster.primary().stop().await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let (status, retry, body) = answer_to(&url, "ok").await;
        let port = cluster.primary().port().to_string();
        assert!(!body.contains(&port) && !body.contains("refused"), "{body}");
        statuses.push((status, retry));
    }
    // The first finds the broken connection; the second cannot get any.
    assert_eq!(statuses[1], (503, Some("1".to_owned())), "{statuses:?}");
    engine.close().await;
}

#[tokio::test]
async fn a_server_that_is_full_is_a_503() {
    let cluster = flautino_cluster::Cluster::builder()
        .setting("max_connections", "5")
        .setting("superuser_reserved_connections", "0")
        .start()
        .await
        .unwrap();
    let mut config = config(&cluster, "errors");
    config.pool.acquire_timeout = Duration::from_millis(500);
    let engine = Engine::new(config).unwrap();
    let url = serve_plainly(app(&engine)).await;
    let mut others = Vec::new();
    while let Ok(other) = cluster.primary().connect().await {
        others.push(other);
    }
    let (status, retry, body) = answer_to(&url, "ok").await;
    assert_eq!((status, retry.as_deref()), (503, Some("1")), "{body}");
    drop(others);
}
