//! HTTP/2 without TLS, prior knowledge: served, drained, and cut like HTTP/1.

use std::time::Duration;

use axum::Router;
use axum::http::Version;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_cluster::Node;
use flautino_lab::{App, Lab, sessions_of, wait_until};
use sqlx::{Connection, PgConnection};

use crate::common::{SOON, sessions_in};

async fn sleep(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT pg_sleep(60)").execute(&db).await?;
    Ok(())
}

/// Waits for the lock that a test holds.
async fn lock(db: Db) -> Result<&'static str, DbError> {
    let lock = sqlx::query("SELECT pg_advisory_xact_lock(7)");
    lock.execute(&db).await?;
    Ok("locked")
}

async fn hold_lock(node: &Node) -> PgConnection {
    let mut connection = node.connect().await.unwrap();
    let lock = sqlx::query("SELECT pg_advisory_lock(7)");
    lock.execute(&mut connection).await.unwrap();
    connection
}

fn app(engine: &Engine) -> Router {
    Router::new()
        .route("/sleep", get(sleep))
        .route("/lock", get(lock))
        .layer(EngineLayer::new(engine.clone()))
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().http2_prior_knowledge().build().unwrap()
}

#[tokio::test]
async fn many_streams_of_one_connection_are_answered_and_drained() {
    let Lab { cluster, engine, .. } = Lab::named("h2").start_closed().await;
    let mut app = App::start(app(&engine), engine).await;
    let gate = hold_lock(cluster.primary()).await;
    let client = client();
    let answers = [(); 5].map(|()| {
        let request = client.get(format!("{}/lock", app.url));
        tokio::spawn(request.send())
    });
    wait_until("all statements run", async || {
        sessions_in(cluster.primary(), "h2", "active").await == 5
    })
    .await;
    app.signal();
    gate.close().await.unwrap();
    for answer in answers {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "locked");
    }
    let report = app.stop().await;
    assert_eq!(report.connections_drained, 1, "{report:?}");
    assert_eq!(report.connections_cut, 0, "{report:?}");
    assert!(report.elapsed < Duration::from_secs(10), "{report:?}");
}

#[tokio::test]
async fn a_stream_that_the_client_resets_ends_its_statement_and_no_other() {
    let Lab { cluster, engine, .. } = Lab::named("h2").start_closed().await;
    let app = App::start(app(&engine), engine).await;
    let client = client();
    let active = async || sessions_in(cluster.primary(), "h2", "active").await;
    let gate = hold_lock(cluster.primary()).await;
    let kept = tokio::spawn(client.get(format!("{}/lock", app.url)).send());
    let reset = tokio::spawn(client.get(format!("{}/sleep", app.url)).send());
    wait_until("both statements run", async || active().await == 2).await;
    reset.abort();
    let gone = wait_until("one has ended", async || active().await < 2).await;
    assert!(gone < SOON);
    assert_eq!(active().await, 1);
    gate.close().await.unwrap();
    assert_eq!(kept.await.unwrap().unwrap().status(), 200);
    app.stop().await;
}

#[tokio::test]
async fn streams_that_outlast_the_drain_time_are_cut() {
    let Lab { cluster, engine, .. } = Lab::named("h2").start_closed().await;
    let drain = Duration::from_millis(300);
    let app = App::start_with_drain(app(&engine), engine, drain).await;
    let client = client();
    let answers = [(); 2].map(|()| {
        let request = client.get(format!("{}/sleep", app.url));
        tokio::spawn(request.send())
    });
    wait_until("both statements run", async || {
        sessions_in(cluster.primary(), "h2", "active").await == 2
    })
    .await;
    let report = app.stop().await;
    assert!(report.elapsed < drain + Duration::from_secs(5), "{report:?}");
    assert_eq!(report.connections_cut, 1, "{report:?}");
    assert_eq!(report.requests_cut, 2, "{report:?}");
    let gone = wait_until("the statements have ended", async || {
        sessions_of(cluster.primary(), "h2").await == 0
    });
    assert!(gone.await < SOON);
    for answer in answers {
        answer.await.unwrap().unwrap_err();
    }
}
