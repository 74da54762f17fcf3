//! Resolving ends with `close`, begins again with `open`, and by default asks the system.

use std::time::Duration;

use flautino::{Consistency, DiscoveryConfig, Engine, EngineConfig};
use flautino_lab::{cluster, node_of, open, run, tasks, until_served_by, wait_until};

use crate::common::{
    FOUND, INSERT, MAIN, Registry, Says, at, discovering, eager, is_closed, names, node_at,
    one_port, until_no_sessions, with_table,
};

#[tokio::test]
async fn close_ends_the_asking_and_open_begins_it_anew() {
    let cluster = cluster(2).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "again", &registry, |_| ());
    engine.open().await.unwrap();
    until_served_by(&engine, &FOUND[..1]).await;
    registry.until_asked(1).await;
    let old = engine.handle().node(FOUND[0]).unwrap();
    engine.close().await;
    let asked = registry.questions().len();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(registry.questions().len(), asked, "it is asked after close");
    assert!(run(&old, "SELECT 1").await.is_err_and(|error| is_closed(&error)));

    registry.say(at(&servers, &[2]));
    engine.open().await.unwrap();
    assert!(registry.questions().len() > asked);
    assert_eq!(names(&engine), [MAIN, FOUND[1]]);
    until_served_by(&engine, &FOUND[1..2]).await;
    assert_eq!(
        crate::common::unknown_node(&run(&old, "SELECT 1").await.unwrap_err()),
        Some(FOUND[0])
    );
    engine.close().await;
    for server in cluster.nodes() {
        until_no_sessions(server, "again").await;
    }
}

#[tokio::test]
async fn close_does_not_wait_for_an_answer() {
    let cluster = cluster(1).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "unanswered", &registry, |_| ());
    let mut best = Duration::MAX;
    // The best of three, so that a busy machine is no excuse; who waits for the answer takes a second.
    for _ in 0..3 {
        registry.say(at(&servers, &[1]));
        engine.open().await.unwrap();
        registry.say(Says::Hangs);
        registry.until_asked(1).await;
        best = best.min(engine.close().await.elapsed);
    }
    assert!(best < Duration::from_millis(900), "{best:?}");
    wait_until("no task is left", async || tasks() <= servers.len() * 3).await;
}

#[tokio::test]
async fn an_engine_that_is_dropped_asks_no_more() {
    let cluster = cluster(1).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "dropped", &registry, |_| ());
    engine.open().await.unwrap();
    registry.until_asked(1).await;
    drop(engine);
    let asked = registry.questions().len();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(registry.questions().len(), asked);
    until_no_sessions(cluster.replica(0), "dropped").await;
}

#[tokio::test]
async fn while_a_handle_is_kept_the_name_is_asked_again_and_again() {
    let cluster = cluster(2).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "kept", &registry, |_| ());
    engine.open().await.unwrap();
    let db = engine.handle();
    drop(engine);
    registry.say(at(&servers, &[1, 2]));
    wait_until("the new replica is a node", async || db.node(FOUND[1]).is_ok()).await;
    // Neither does a handle that was made from it let go of the engine.
    let eventual = db.with_consistency(Consistency::Eventual);
    drop(db);
    registry.say(at(&servers, &[2]));
    wait_until("the other one has left", async || eventual.node(FOUND[0]).is_err()).await;
}

#[tokio::test]
async fn the_system_resolves_localhost() {
    let cluster = with_table(cluster(1).await).await;
    let mut discovery = DiscoveryConfig::new("localhost");
    discovery.port = Some(cluster.replica(0).port());
    discovery.interval = Duration::from_secs(1);
    let mut config = EngineConfig {
        main: node_at(cluster.primary().url(), "system"),
        extensions: vec![],
        discovery: Some(discovery),
        ..EngineConfig::default()
    };
    eager(&mut config);
    let engine = open(config).await;
    assert!(names(&engine).contains(&"127.0.0.1".to_owned()), "{:?}", names(&engine));
    until_served_by(&engine, &["127.0.0.1"]).await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert_eq!(node_of(&db), MAIN);
    engine.close().await;
}

#[tokio::test]
async fn a_name_that_the_system_does_not_know_is_a_warning() {
    let cluster = cluster(1).await;
    let config = EngineConfig {
        main: node_at(cluster.primary().url(), "nxdomain"),
        extensions: vec![],
        discovery: Some(DiscoveryConfig::new("no-such-name.invalid")),
        ..EngineConfig::default()
    };
    let engine = Engine::new(config).unwrap();
    let report = engine.open().await.unwrap();
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].contains("no-such-name.invalid"), "{report:?}");
    assert_eq!(names(&engine), [MAIN]);
    engine.close().await;
}
