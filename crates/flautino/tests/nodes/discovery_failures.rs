//! A name that is not resolved: the nodes stay as they are, and it is logged.

use std::time::{Duration, Instant};

use flautino::Engine;
use flautino_lab::{Capture, cluster, reader, run, until_served_by, wait_until};

use crate::common::{
    FOUND, INSERT, MAIN, Registry, Says, at, discovering, names, one_port, with_table,
};

fn warned(capture: &Capture, of: &str) -> bool {
    let is_ours = |event: &flautino_lab::Event| {
        let all = format!("{:?}", event.fields);
        all.contains("replicas.test") && all.contains("discovery.host") && all.contains(of)
    };
    capture.all().iter().any(|event| event.level == tracing::Level::WARN && is_ours(event))
}

async fn stays_as_it_is(says: Says, app: &str, reason: &str) {
    let capture = Capture::start();
    let cluster = cluster(2).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, app, &registry, |_| ());
    engine.open().await.unwrap();
    until_served_by(&engine, &FOUND[..1]).await;
    assert!(!warned(&capture, ""));
    registry.say(says);
    wait_until("it is logged", async || warned(&capture, reason)).await;
    assert_eq!(names(&engine), [MAIN, FOUND[0]]);
    until_served_by(&engine, &FOUND[..1]).await;
    // It goes on asking.
    registry.say(at(&servers, &[2]));
    until_served_by(&engine, &FOUND[1..2]).await;
    engine.close().await;
}

#[tokio::test]
async fn an_empty_answer_changes_nothing() {
    stays_as_it_is(Says::These(vec![]), "empty", "no address").await;
}

#[tokio::test]
async fn an_error_changes_nothing() {
    stays_as_it_is(Says::Fails, "fails", "out of order").await;
}

#[tokio::test]
async fn no_answer_changes_nothing() {
    stays_as_it_is(Says::Hangs, "hangs", "5s").await;
}

async fn opens_all_the_same(says: Says, app: &str) {
    let cluster = with_table(cluster(1).await).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(says);
    let engine = discovering(&servers, app, &registry, |_| ());
    let started = Instant::now();
    let report = engine.open().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].contains("replicas.test"), "{report:?}");
    run(&engine.handle(), INSERT).await.unwrap();
    assert_eq!(reader(&engine).await.unwrap(), MAIN);
    // When the name leads somewhere, its nodes join.
    registry.say(at(&servers, &[1]));
    until_served_by(&engine, &FOUND[..1]).await;
    engine.close().await;
}

#[tokio::test]
async fn an_engine_opens_without_an_address() {
    opens_all_the_same(Says::These(vec![]), "open_empty").await;
}

#[tokio::test]
async fn an_engine_opens_without_a_resolver() {
    opens_all_the_same(Says::Fails, "open_fails").await;
}

#[tokio::test]
async fn an_engine_opens_without_an_answer() {
    opens_all_the_same(Says::Hangs, "open_hangs").await;
}

#[tokio::test]
async fn an_address_where_nobody_is_does_no_harm() {
    let cluster = with_table(cluster(1).await).await;
    let servers = one_port(&cluster).await;
    let mut addresses = vec![servers[1].addr, servers[1].addr];
    addresses[1].set_ip(crate::common::ip(77));
    let registry = Registry::new(Says::These(addresses));
    let engine: Engine = discovering(&servers, "nobody", &registry, |_| ());
    let report = engine.open().await.unwrap();
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    until_served_by(&engine, &FOUND[..1]).await;
    for _ in 0..20 {
        run(&engine.handle(), INSERT).await.unwrap();
        assert_ne!(reader(&engine).await.unwrap(), "127.0.0.77");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_resolver_that_panics_once_does_not_end_the_search() {
    let cluster = cluster(1).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[0]));
    let engine = discovering(&servers, "panics", &registry, |_| ());
    engine.open().await.unwrap();
    engine.resolve_with(async |_, _| panic!("as the test wants it"));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let registry = Registry::new(at(&servers, &[1]));
    registry.answer_for(&engine);
    until_served_by(&engine, &FOUND[..1]).await;
    engine.close().await;
}
