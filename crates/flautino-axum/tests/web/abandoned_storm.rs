//! A thousand clients that go away in a row: the pool stays whole, and the server has room.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_cluster::Cluster;
use flautino_lab::{App, cluster, config, wait_until};
use futures_util::{StreamExt, stream};
use sqlx::PgConnection;
use tokio::io::AsyncReadExt;

use crate::common::{SOON, engine_of, send_get};

const MOST: u32 = 10;

async fn sleep(db: Db, Path(seconds): Path<f64>) -> Result<(), DbError> {
    let sleep = sqlx::query("SELECT pg_sleep($1)").bind(seconds);
    sleep.execute(&db).await?;
    Ok(())
}

/// The app over a pool of [`MOST`] connections.
async fn serve_sleeps(cluster: &Cluster) -> (Engine, App) {
    let engine = engine_of(config(cluster, "storm"), MOST);
    let app =
        Router::new().route("/sleep/{seconds}", get(sleep)).layer(EngineLayer::new(engine.clone()));
    (engine.clone(), App::start(app, engine).await)
}

/// The app's sessions, those of them that run something, and those that have gone on for 5 s though
/// no client waits longer than a fifth of a second; over a connection that was there before, since a
/// full server takes no new one.
async fn activity(watcher: &mut PgConnection) -> (i64, i64, i64) {
    let sql = "SELECT count(*), count(*) FILTER (WHERE state = 'active'), \
                   count(*) FILTER (WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%' \
                       AND clock_timestamp() - query_start > '5 s') \
               FROM pg_stat_activity WHERE application_name = 'storm'";
    sqlx::query_as(sql).fetch_one(watcher).await.unwrap()
}

/// The first two of [`activity`].
async fn sessions(watcher: &mut PgConnection) -> (i64, i64) {
    let (all, active, _) = activity(watcher).await;
    (all, active)
}

/// A thousand clients, twenty at a time, each gone after 0 to 200 ms: before its request is
/// read, in the queue, mid-statement. Answers what they were told before they left.
async fn storm(url: &str) -> Vec<String> {
    let clients = stream::iter(0..1000_u64).map(async |n| {
        let mut client = send_get(url, "/sleep/30").await;
        let patience = Duration::from_millis(n % 200);
        let mut answer = [0; 64];
        let read = tokio::time::timeout(patience, client.read(&mut answer)).await;
        let length = read.ok()?.unwrap();
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    });
    let told = clients.buffer_unordered(20).filter_map(async |told| told);
    told.collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_disconnects_leave_the_pool_whole() {
    let cluster = cluster(0).await;
    let mut watcher = cluster.primary().connect().await.unwrap();
    let (engine, app) = serve_sleeps(&cluster).await;

    let started = Instant::now();
    let told = storm(&app.url).await;
    let (took, sent) = (started.elapsed(), engine.status().nodes[0].statements);
    println!("a thousand disconnects in {took:?}, {sent} of them mid-statement");
    assert_eq!(told, [""; 0]);
    assert!(sent > 200, "{sent}");
    println!("sessions then: {:?}", sessions(&mut watcher).await);
    let quiet = wait_until("no statement runs, in no more sessions than allowed", async || {
        let (all, active) = sessions(&mut watcher).await;
        active == 0 && all <= i64::from(MOST)
    });
    let quiet = quiet.await;
    println!("the server is quiet after {quiet:?}");
    assert!(quiet < SOON, "{quiet:?}");
    assert_eq!(engine.status().nodes[0].in_flight, 0);

    // All of the pool at once, and no more.
    let url = format!("{}/sleep/4", app.url);
    let answers = (0..MOST).map(|_| tokio::spawn(reqwest::get(url.clone())));
    let answers: Vec<_> = answers.collect();
    wait_until("all run at once", async || {
        sessions(&mut watcher).await == (i64::from(MOST), i64::from(MOST))
    })
    .await;
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(engine.status().nodes[0].in_flight, 0);
    // A connection may still be looked at on its way back into sqlx's pool.
    wait_until("all rest", async || sessions(&mut watcher).await == (i64::from(MOST), 0)).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnects_do_not_fill_the_server_far_beyond_max_connections() {
    let cluster = cluster(0).await;
    let mut watcher = cluster.primary().connect().await.unwrap();
    let (_engine, app) = serve_sleeps(&cluster).await;

    let url = app.url.clone();
    let clients = tokio::spawn(async move { storm(&url).await });
    let mut most = 0;
    while !clients.is_finished() {
        let (all, _, forgotten) = activity(&mut watcher).await;
        assert_eq!(forgotten, 0);
        most = most.max(all);
        // Others need the server too.
        drop(cluster.primary().connect().await.unwrap());
    }
    println!("at the most {most} sessions");
    // A slot has the session that ends and the one that ends it; those that just ended linger.
    assert!(most <= 3 * i64::from(MOST), "{most}");
    app.stop().await;
}
