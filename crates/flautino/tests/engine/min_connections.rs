//! As many connections as `min_connections` says are kept open, at nobody's cost.

use std::time::Duration;

use flautino::{Engine, EngineConfig, Handle, Health};
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{
    cluster, config, end_sessions, open, sessions_of, tasks, until_sessions, wait_until,
};
use tokio::net::TcpListener;

const PATIENT: Duration = Duration::from_secs(20);

async fn opened(config: EngineConfig) -> (Engine, Handle) {
    let engine = open(config).await;
    let db = engine.handle();
    (engine, db)
}

/// Short waits, so that a statement to a server that is down fails soon.
fn keeping(cluster: &Cluster, name: &str, min: u32, max: u32) -> EngineConfig {
    let mut config = config(cluster, name);
    config.pool.min_connections = min;
    config.pool.max_connections = max;
    config.pool.acquire_timeout = Duration::from_millis(500);
    // None is looked at by anybody but the test and what keeps the minimum.
    config.pool.warm_time = Duration::from_secs(60);
    config
}

async fn answers(db: &Handle) -> bool {
    sqlx::query("SELECT 1").execute(db).await.is_ok()
}

/// Ends the server while a connection is in use, and goes on until many attempts have failed.
async fn lose(cluster: &Cluster, db: &Handle) {
    let mut lease = db.acquire().await.unwrap();
    cluster.primary().stop_immediate().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut lease).await.unwrap_err();
    drop(lease);
    for _ in 0..12 {
        assert!(!answers(db).await);
    }
}

#[tokio::test]
async fn the_minimum_is_there_after_open_and_no_more() {
    let cluster = cluster(1).await;
    let (engine, db) = opened(keeping(&cluster, "minimum", 3, 5)).await;
    for node in cluster.nodes() {
        until_sessions(node, "minimum", 3).await;
    }
    for _ in 0..20 {
        assert!(answers(&db).await);
    }
    // The server knows of a connection before it is set up.
    let pools = || engine.status().nodes.into_iter().map(|node| node.pool.unwrap());
    wait_until("all rest", async || pools().all(|pool| pool.idle == 3)).await;
    assert!(pools().all(|pool| pool.size == 3), "{:?}", engine.status());
    assert!(engine.status().nodes.iter().all(|node| node.in_flight == 0));
    let report = engine.close().await;
    assert_eq!((report.idle, report.drained), (6, 0), "{report:?}");
}

#[tokio::test]
async fn what_the_server_ended_is_opened_again() {
    let cluster = cluster(0).await;
    let mut config = keeping(&cluster, "ended", 3, 5);
    config.pool.acquire_timeout = PATIENT;
    let (engine, db) = opened(config).await;
    until_sessions(cluster.primary(), "ended", 3).await;
    assert!(answers(&db).await);
    end_sessions(cluster.primary(), "application_name = 'ended'").await;
    // One statement finds out, and is run once more since it only reads; the rest needs none.
    assert!(answers(&db).await);
    until_sessions(cluster.primary(), "ended", 3).await;
    assert!(answers(&db).await);
    engine.close().await;
}

#[tokio::test]
async fn after_an_outage_the_node_serves_at_once_and_the_minimum_is_there_again() {
    let cluster = cluster(0).await;
    let (engine, db) = opened(keeping(&cluster, "outage", 1, 1)).await;
    until_sessions(cluster.primary(), "outage", 1).await;
    lose(&cluster, &db).await;
    cluster.primary().start().await.unwrap();
    let took = wait_until("it serves again", async || answers(&db).await).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    until_sessions(cluster.primary(), "outage", 1).await;
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_was_down_has_its_minimum_when_it_is_back() {
    let cluster = cluster(1).await;
    let (engine, _db) = opened(keeping(&cluster, "back", 2, 4)).await;
    until_sessions(cluster.replica(0), "back", 2).await;
    cluster.replica(0).stop_immediate().await.unwrap();
    wait_until("it is known to be down", async || engine.status().nodes[1].health == Health::Down)
        .await;
    cluster.replica(0).start().await.unwrap();
    until_sessions(cluster.replica(0), "back", 2).await;
    engine.close().await;
}

#[tokio::test]
async fn close_does_not_wait_for_a_node_that_is_down_nor_leaves_anything_that_connects_later() {
    let cluster = cluster(0).await;
    let before = tasks();
    let (engine, db) = opened(keeping(&cluster, "closed", 2, 4)).await;
    until_sessions(cluster.primary(), "closed", 2).await;
    lose(&cluster, &db).await;
    let report = engine.close_within(PATIENT).await;
    assert!(report.elapsed < PATIENT / 2, "{report:?}");
    cluster.primary().start().await.unwrap();
    wait_until("no task is left that could connect", async || tasks() <= before).await;
    assert_eq!(sessions_of(cluster.primary(), "closed").await, 0);
}

/// An engine whose first connection is made, while the second hangs as it is opened.
async fn stuck(name: &str) -> (Cluster, Engine, Handle, (Proxy, TcpListener)) {
    let cluster = cluster(0).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = keeping(&cluster, name, 2, 2);
    config.main.url = Some(proxy.url());
    config.pool.acquire_timeout = PATIENT;
    let (engine, db) = opened(config).await;
    // Nothing else has run yet: there is one thread.
    proxy.set_target(silent.local_addr().unwrap());
    proxy.reset_counters();
    wait_until("the second is being opened", async || proxy.accepted() == 1).await;
    proxy.set_target(cluster.primary().addr());
    (cluster, engine, db, (proxy, silent))
}

#[tokio::test]
async fn a_checkout_does_not_wait_for_one_that_is_opened_for_the_minimum() {
    let (cluster, engine, db, _way) = stuck("crowded").await;
    let first = db.acquire().await.unwrap();
    let second = tokio::time::timeout(PATIENT / 2, db.acquire()).await.unwrap().unwrap();
    assert_eq!(sessions_of(cluster.primary(), "crowded").await, 2);
    drop((first, second));
    engine.close().await;
}

#[tokio::test]
async fn close_does_not_wait_for_one_that_is_opened_for_the_minimum() {
    let (cluster, engine, _db, _way) = stuck("stuck").await;
    let report = engine.close_within(PATIENT).await;
    assert!(report.elapsed < PATIENT / 2, "{report:?}");
    assert_eq!((report.idle, report.drained), (1, 0), "{report:?}");
    until_sessions(cluster.primary(), "stuck", 0).await;
}
