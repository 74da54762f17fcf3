//! No database answers when the app starts: it waits, telling so, and then fails clearly, with each
//! node's own error; or goes on when one comes up.

use std::time::{Duration, Instant};

use flautino::{Engine, OpenError};
use flautino_axum::ServeError;
use flautino_lab::{App, Capture, config, wait_until};
use tokio::net::TcpListener;

use crate::common::{AT_ONCE, cluster, routes};
use crate::load::Load;

const STARTUP: Duration = Duration::from_secs(3);

#[tokio::test]
async fn the_app_waits_telling_so_and_then_fails_with_the_error_of_each_node() {
    let cluster = cluster(2).await;
    let mut config = config(&cluster, "absent");
    config.startup_timeout = STARTUP;
    for node in cluster.nodes() {
        node.kill().await.unwrap();
    }
    let engine = Engine::new(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let capture = Capture::start();
    let started = Instant::now();
    let failed = flautino_axum::serve(listener, routes(&engine), engine.clone()).await.unwrap_err();
    let took = started.elapsed();
    assert!(took < STARTUP + AT_ONCE, "{took:?}");
    let ServeError::Open(OpenError::Unreachable { nodes, waited }) = &failed else {
        panic!("{failed:?}")
    };
    // It gives up early only where the next attempt would come too late.
    assert!(*waited >= STARTUP / 2 && *waited <= STARTUP + AT_ONCE, "{waited:?}");
    let names: Vec<_> = nodes.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(names, ["main", "read_replica_1", "read_replica_2"]);
    for (node, failure) in cluster.nodes().zip(nodes) {
        for part in [failure.node.clone(), node.port().to_string(), failure.source.to_string()] {
            assert!(failed.to_string().contains(&part), "{part} is not in: {failed}");
        }
        assert!(failure.source.to_string().contains("refused"), "{failure}");
    }
    let told = capture.warnings();
    let waiting = told.iter().filter(|text| text.contains("waiting for the database")).count();
    assert!(waiting >= 3, "it told {waiting} times that it waits: {told:?}");
    assert!(!engine.is_ready());
    assert!(!engine.status().open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_waits_serves_as_soon_as_the_database_is_up() {
    let cluster = cluster(2).await;
    let config = config(&cluster, "later");
    for node in cluster.nodes() {
        node.kill().await.unwrap();
    }
    let engine = Engine::new(config).unwrap();
    let app = App::start(routes(&engine), engine.clone()).await;
    let early = tokio::spawn(reqwest::get(format!("{}/ids/1", app.url)));
    assert!(!engine.is_ready());
    for node in cluster.nodes() {
        node.start().await.unwrap();
    }
    let up = Instant::now();
    wait_until("the app is ready", async || engine.is_ready()).await;
    // The longest pause between two attempts is two seconds.
    assert!(up.elapsed() < Duration::from_secs(2) + 2 * AT_ONCE, "{:?}", up.elapsed());
    assert_eq!(early.await.unwrap().unwrap().status(), 200);
    wait_until("all nodes are in use", async || {
        engine.status().nodes.iter().all(|node| node.reason.is_none())
    })
    .await;
    let load = Load::of(&engine, &app.url, 1);
    load.a_while().await;
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    tally.assert_ledger(cluster.primary()).await;
    app.stop().await;
}
