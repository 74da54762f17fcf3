//! Where the position cannot be had, the token says "the primary, for a while": never no token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_cluster::Proxy;
use flautino_lab::{App, settings, wait_until};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::browser::{Browser, SetCookie};
use crate::common::{app, engine, prepared, replicas, write};

/// Where a handler is after its write, and when it may go on.
#[derive(Default)]
struct Gate {
    wrote: Notify,
    go_on: Notify,
}

fn routes(engine: &Engine, gate: &Arc<Gate>) -> Router {
    let [by_db, by_tx] = [Arc::clone(gate), Arc::clone(gate)];
    let set = async move |db: Db| -> Result<(), DbError> {
        write(&db, "a", 1).await?;
        by_db.wrote.notify_one();
        by_db.go_on.notified().await;
        Ok(())
    };
    let set_in_transaction = async move |mut tx: Tx| -> Result<(), DbError> {
        let insert = sqlx::query("INSERT INTO entries (key, value) VALUES ('a', 1)");
        insert.execute(&mut tx).await?;
        by_tx.wrote.notify_one();
        by_tx.go_on.notified().await;
        Ok(())
    };
    Router::new()
        .route("/set", get(set))
        .route("/set-in-transaction", get(set_in_transaction))
        .layer(EngineLayer::new(engine.clone()))
}

#[track_caller]
fn assert_until(cookies: &[SetCookie]) {
    assert!(!cookies.is_empty());
    assert!(cookies.iter().all(|cookie| cookie.value.starts_with("1.until.")), "{cookies:?}");
}

#[tokio::test]
async fn a_primary_that_hangs_after_the_commit_delays_the_response_a_little() {
    let cluster = prepared().await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let through = engine(&cluster, |config| {
        settings::frozen(config);
        config.routing.probe_timeout = Duration::from_millis(500);
        config.main.url = Some(proxy.url());
    })
    .await;
    let direct = engine(&cluster, settings::frozen).await;
    let gate = Arc::new(Gate::default());
    let here = App::start(routes(&through, &gate), through).await;
    let there = App::start(app(&direct), direct).await;
    for replica in replicas(&cluster) {
        replica.pause_replay().await.unwrap();
    }
    let mut browser = Browser::default();
    let writing = {
        let (browser, url) = (browser.clone(), format!("{}/set", here.url));
        tokio::spawn(async move { browser.send(&url).await })
    };
    gate.wrote.notified().await;
    proxy.stall();
    let started = Instant::now();
    gate.go_on.notify_one();
    let answer = writing.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(answer.status, 200);
    assert_until(&answer.set_cookies());
    browser.take(&answer);
    for _ in 0..5 {
        let answer = browser.get(&format!("{}/value/a", there.url)).await;
        answer.assert_value(1);
        assert_eq!(answer.served(), ("main".into(), "token_window".into()));
    }
    Browser::default().get(&format!("{}/value/a", there.url)).await.assert_value(0);
    proxy.heal().unwrap();
    here.stop().await;
    there.stop().await;
}

/// An engine that closes lets what is under way end: the client goes on at another instance.
#[tokio::test]
async fn a_transaction_that_commits_while_the_engine_closes_has_a_token() {
    let cluster = prepared().await;
    let closing = engine(&cluster, settings::frozen).await;
    let open = engine(&cluster, settings::frozen).await;
    let gate = Arc::new(Gate::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = routes(&closing, &gate);
    tokio::spawn(async { axum::serve(listener, router).await });
    let there = App::start(app(&open), open).await;
    for replica in replicas(&cluster) {
        replica.pause_replay().await.unwrap();
    }
    let mut browser = Browser::default();
    let writing = {
        let (browser, url) = (browser.clone(), format!("{url}/set-in-transaction"));
        tokio::spawn(async move { browser.send(&url).await })
    };
    gate.wrote.notified().await;
    let end = {
        let closing = closing.clone();
        tokio::spawn(async move { closing.close().await })
    };
    wait_until("the engine closes", async || !closing.is_ready()).await;
    gate.go_on.notify_one();
    let answer = writing.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    end.await.unwrap();
    assert!(answer.token().is_some(), "{answer:?}");
    browser.take(&answer);
    let answer = browser.get(&format!("{}/value/a", there.url)).await;
    answer.assert_value(1);
    there.stop().await;
}
