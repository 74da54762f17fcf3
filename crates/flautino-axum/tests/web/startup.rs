//! What `serve` does before the first request is answered.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use flautino::{Engine, EngineConfig, OpenError};
use flautino_axum::{Db, DbError, EngineLayer, ServeError};
use flautino_cluster::Proxy;
use flautino_lab::{App, cluster, config, sessions_of, until_sessions, wait_until};
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;

use crate::common::{SOON, engine_of, send_get};

#[tokio::test]
async fn the_server_sees_every_pool_open_in_the_first_request_and_none_after_serve() {
    let cluster = cluster(1).await;
    let urls = [cluster.primary().url(), cluster.replica(0).url()];
    // The handler asks the servers itself, past the engine, while its request is the first.
    let count = move || async move {
        let mut counts = Vec::new();
        for url in urls {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'startup'";
            let sessions: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
            counts.push(sessions.to_string());
        }
        counts.join(" ")
    };
    let engine = Engine::new(config(&cluster, "startup")).unwrap();
    until_sessions(cluster.primary(), "startup", 0).await;
    let app = Router::new().route("/", get(count)).layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine).await;
    // Nobody has asked for anything. The connection that `open` looked with ends by itself.
    for node in cluster.nodes() {
        until_sessions(node, "startup", 1).await;
    }
    let answer = reqwest::get(&app.url).await.unwrap().text().await.unwrap();
    assert_eq!(answer, "1 1");

    let report = app.stop().await;
    assert!(report.close.was_open, "{report:?}");
    assert_eq!(report.close.idle, 2, "{report:?}");
    for node in cluster.nodes() {
        let gone = wait_until("the app's sessions are gone", async || {
            sessions_of(node, "startup").await == 0
        });
        assert!(gone.await < SOON);
    }
}

#[tokio::test]
async fn a_refused_open_is_what_serve_answers_and_the_port_is_free_again() {
    let cluster = cluster(0).await;
    let url = cluster.primary().url_for("no_such_database");
    let engine = engine_of(EngineConfig::from_url(&url).unwrap(), 2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(async || "here"));
    let error = flautino_axum::serve(listener, app, engine.clone()).await.unwrap_err();
    assert!(matches!(&error, ServeError::Open(OpenError::Refused(_))), "{error:?}");
    assert!(error.to_string().contains("no_such_database"), "{error}");
    assert!(!engine.is_ready());
    TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_after_the_startup_timeout() {
    let cluster = cluster(0).await;
    let config =
        EngineConfig { startup_timeout: Duration::from_millis(500), ..config(&cluster, "never") };
    cluster.primary().stop().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = Engine::new(config).unwrap();
    let error = flautino_axum::serve(listener, Router::new(), engine).await.unwrap_err();
    assert!(matches!(&error, ServeError::Open(OpenError::Unreachable { .. })), "{error:?}");
    let port = cluster.primary().port().to_string();
    assert!(error.to_string().contains(&port), "{error}");
}

#[tokio::test]
async fn a_database_that_comes_up_after_the_app_is_waited_for() {
    let cluster = cluster(0).await;
    // The proxy counts the attempts, so that the database starts when one has failed.
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    cluster.primary().stop().await.unwrap();
    let mut config = EngineConfig::from_url(&proxy.url()).unwrap();
    config.extensions.clear();
    let engine = engine_of(config, 2);
    let app = Router::new().route("/", get(recovering)).layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    let answer = tokio::spawn(reqwest::get(app.url.clone()));
    wait_until("an attempt to connect has failed", async || proxy.accepted() >= 2).await;
    assert!(!answer.is_finished());
    assert!(!engine.is_ready());

    cluster.primary().start().await.unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "false");
    assert!(engine.is_ready());
    app.stop().await;
}

#[tokio::test]
async fn a_signal_while_serve_waits_for_the_database_ends_it() {
    let cluster = cluster(0).await;
    let config = config(&cluster, "early");
    cluster.primary().stop().await.unwrap();
    let engine = Engine::new(config).unwrap();
    let mut app = App::start(Router::new(), engine).await;
    let waiting = send_get(&app.url, "/").await;
    app.signal();
    let report = tokio::time::timeout(SOON, app.stop()).await.unwrap();
    assert!(!report.close.was_open, "{report:?}");
    drop(waiting);
}

async fn recovering(db: Db) -> Result<String, DbError> {
    let answer: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&db).await?;
    Ok(answer.to_string())
}
