//! The orderly end: what `serve` finishes, what it cuts, and how long it takes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, status_routes};
use flautino_cluster::Cluster;
use flautino_lab::{App, Lab, sessions_of, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::common::{SOON, dial, send_get, serve_plainly, sessions_in};

/// Waits for the lock that a test holds, over the request's handle.
async fn wait_for_lock(db: Db) -> Result<&'static str, DbError> {
    sqlx::query("SELECT pg_advisory_xact_lock(7)").execute(&db).await?;
    Ok("done")
}

async fn sleep(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT pg_sleep(60)").execute(&db).await?;
    Ok(())
}

fn app(engine: &Engine) -> Router {
    Router::new()
        .route("/lock", get(wait_for_lock))
        .route("/sleep", get(sleep))
        .route("/", get(async || "hello"))
        .layer(EngineLayer::new(engine.clone()))
}

async fn until_active(cluster: &Cluster, name: &str, count: i64) {
    wait_until("the server runs the statements", async || {
        sessions_in(cluster.primary(), name, "active").await == count
    })
    .await;
}

#[tokio::test]
async fn requests_in_flight_finish_while_new_connections_are_refused() {
    let Lab { cluster, engine, .. } = Lab::named("drain").start_closed().await;
    let probes = serve_plainly(status_routes(engine.clone())).await;
    let ready = async || {
        let answer = reqwest::get(format!("{probes}/readyz")).await.unwrap();
        answer.status().as_u16()
    };
    let mut app = App::start(app(&engine), engine.clone()).await;
    let mut gate = cluster.primary().connect().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut gate).await.unwrap();
    let url = format!("{}/lock", app.url);
    let answers = [(); 3].map(|()| tokio::spawn(reqwest::get(url.clone())));
    until_active(&cluster, "drain", 3).await;
    assert_eq!(ready().await, 200);

    app.signal();
    wait_until("readiness is 503", async || ready().await == 503).await;
    let refused = wait_until("new connections are refused", async || {
        reqwest::get(&url).await.is_err_and(|err| err.is_connect())
    });
    assert!(refused.await < SOON);
    assert_eq!(sessions_in(cluster.primary(), "drain", "active").await, 3);

    sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut gate).await.unwrap();
    for answer in answers {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "done");
    }
    let report = app.stop().await;
    assert_eq!(report.connections_drained, 3, "{report:?}");
    assert_eq!(report.connections_cut, 0, "{report:?}");
    assert_eq!(report.requests_cut, 0, "{report:?}");
    assert!(report.elapsed < Duration::from_secs(20), "{report:?}");
    wait_until("no session is left", async || sessions_of(cluster.primary(), "drain").await == 0)
        .await;
}

#[tokio::test]
async fn what_outlasts_the_drain_time_is_cut_and_its_statements_end_at_the_server() {
    let Lab { cluster, engine, .. } = Lab::named("cut").start_closed().await;
    let drain = Duration::from_millis(300);
    let app = App::start_with_drain(app(&engine), engine.clone(), drain).await;
    let url = format!("{}/sleep", app.url);
    let answers = [(); 3].map(|()| tokio::spawn(reqwest::get(url.clone())));
    until_active(&cluster, "cut", 3).await;
    // A client that never finishes its request is no request, but its connection is open.
    let mut unfinished = dial(&app.url).await;
    unfinished.write_all(b"GET / HTTP/1.1\r\nhost: a client that says no more").await.unwrap();
    assert_eq!(reqwest::get(&app.url).await.unwrap().status(), 200);

    let started = Instant::now();
    let report = app.stop().await;
    assert!(started.elapsed() < drain + Duration::from_secs(5), "{report:?}");
    assert!(report.elapsed >= drain, "{report:?}");
    assert_eq!(report.connections_cut, 4, "{report:?}");
    assert_eq!(report.requests_cut, 3, "{report:?}");
    let gone = wait_until("the statements have ended", async || {
        sessions_of(cluster.primary(), "cut").await == 0
    });
    assert!(gone.await < SOON);
    for answer in answers {
        answer.await.unwrap().unwrap_err();
    }
    let closed = sqlx::query("SELECT 1").execute(&engine.handle()).await;
    assert!(matches!(
        flautino::Error::of(&closed.unwrap_err()),
        Some(flautino::Error::Closed { .. })
    ));
}

#[tokio::test]
async fn connections_that_are_kept_alive_do_not_hold_up_the_end() {
    let lab = Lab::named("alive").start_closed().await;
    let app = App::start(app(&lab.engine), lab.engine).await;
    let silent = dial(&app.url).await;
    let mut kept = send_get(&app.url, "/").await;
    let mut answer = vec![0; 1024];
    let length = kept.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200"));

    let report = app.stop().await;
    assert!(report.elapsed < SOON, "{report:?}");
    assert_eq!(report.connections_cut, 0, "{report:?}");
    assert_eq!(kept.read(&mut answer).await.unwrap(), 0, "it is closed");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_gives_its_thread_back_does_not_hold_up_the_end() {
    let lab = Lab::named("blocks").start_closed().await;
    // The handler goes on when the sender is dropped, also where the test fails.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let begun = Arc::new(Notify::new());
    let begins = Arc::clone(&begun);
    let block = async move || {
        begins.notify_one();
        let _ = tokio::task::block_in_place(|| released.lock().unwrap().recv());
    };
    let router = Router::new().route("/", get(block));
    let drain = Duration::from_millis(300);
    let app = App::start_with_drain(router, lab.engine, drain).await;
    let client = send_get(&app.url, "/").await;
    begun.notified().await;

    let report = tokio::time::timeout(drain + Duration::from_secs(5), app.stop()).await.unwrap();
    assert_eq!((report.connections_cut, report.requests_cut), (1, 1), "{report:?}");
    assert!(report.close.was_open, "{report:?}");
    drop((release, client));
}
