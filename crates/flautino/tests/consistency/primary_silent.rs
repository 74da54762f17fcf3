//! Where the position cannot be had, the token says "the primary, for a while", soon.

use std::task::Poll;
use std::time::{Duration, Instant};

use flautino::{EngineConfig, Token};
use flautino_cluster::Proxy;
use flautino_lab::{Lab, settings, until_served_by};

use crate::common::*;

/// A token may take two probes, one second. Who waits for a connection waits for five.
const BOUND: Duration = Duration::from_secs(3);

/// Half a second without an answer is silence, as it is by default.
fn impatient(config: &mut EngineConfig) {
    config.routing.probe_timeout = Duration::from_millis(500);
}

/// No probe answers a token before it is asked for.
fn frozen_and_impatient(config: &mut EngineConfig) {
    settings::frozen(config);
    impatient(config);
}

fn says_primary(token: Option<Token>, started: Instant) -> Token {
    let took = started.elapsed();
    let token = token.expect("there is a token");
    assert!(is_until(token), "{token}");
    assert_eq!(token.to_string().parse(), Ok(token));
    assert!(took < BOUND, "took {took:?}");
    token
}

#[tokio::test]
async fn while_the_primary_hangs_the_token_says_primary_for_a_while() {
    let Lab { cluster, engine, .. } = Lab::named("hangs")
        .replicas(1)
        .table("t (a int)")
        .patient_probes()
        .config(frozen_and_impatient)
        .start()
        .await;
    let other = frozen_engine(&cluster, "other").await;
    let db = engine.handle();
    insert(&db, 1).await;
    cluster.primary().hang().await.unwrap();
    let started = Instant::now();
    let token = says_primary(db.token().await, started);
    // Asked again, once the node is known to be down too.
    for _ in 0..3 {
        let started = Instant::now();
        says_primary(db.token().await, started);
    }
    cluster.primary().resume().await.unwrap();
    // It is honoured elsewhere.
    let read = read(&other, &with_token(&other, token), COUNT).await;
    assert_eq!((read.value, &*read.reason), (1, "token_window"), "{read:?}");
    other.close().await;
    engine.close().await;
}

#[tokio::test]
async fn while_the_network_stalls_the_token_says_primary_for_a_while_and_later_tokens_are_exact() {
    let cluster = cluster_with_table(1).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let engine = engine_with(&cluster, "stalls", |config| {
        impatient(config);
        config.main.url = Some(proxy.url());
    })
    .await;
    let db = engine.handle();
    insert(&db, 1).await;
    proxy.stall();
    let started = Instant::now();
    says_primary(db.token().await, started);
    assert!(db.owes_token(), "the exact one is owed still");
    proxy.heal().unwrap();
    flautino_lab::wait_until("the token is exact", async || {
        let token = db.token().await.unwrap();
        !is_until(token)
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn while_the_replica_that_was_read_from_hangs_the_primary_is_asked_instead() {
    let Lab { cluster, engine, .. } = Lab::named("replica_hangs")
        .replicas(1)
        .table("t (a int)")
        .patient_probes()
        .config(frozen_and_impatient)
        .start()
        .await;
    until_served_by(&engine, &["read_replica_1"]).await;
    let db = session(&engine);
    assert!(read(&engine, &db, COUNT).await.is_from_replica());
    cluster.replica(0).hang().await.unwrap();
    let started = Instant::now();
    let token = db.token().await.unwrap();
    assert!(!is_until(token), "{token}");
    assert!(started.elapsed() < BOUND, "took {:?}", started.elapsed());
    cluster.replica(0).resume().await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn readers_whose_floor_replicas_meet_do_not_notice_that_the_primary_hangs() {
    let cluster = cluster_with_table(2).await;
    // A read that is sent to the primary, or has it asked, waits for two probes: longer than `NO_WAIT`.
    let engine = engine_with(&cluster, "unnoticed", |config| {
        config.routing.probe_timeout = Duration::from_secs(2);
    })
    .await;
    let db = engine.handle();
    insert(&db, 1).await;
    let token = db.token().await.unwrap();
    until_met(&engine, token).await;
    cluster.primary().hang().await.unwrap();
    let hung = Instant::now();
    let mut reasons = std::collections::BTreeSet::new();
    while hung.elapsed() < Duration::from_secs(6) {
        let read = read(&engine, &with_token(&engine, token), COUNT).await;
        assert_eq!(read.value, 1);
        assert!(read.is_from_replica() && read.took < NO_WAIT, "{read:?}");
        reasons.insert(read.reason);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let known = ["floor_met", "stale"];
    assert!(reasons.iter().all(|reason| known.contains(&&**reason)), "{reasons:?}");
    cluster.primary().resume().await.unwrap();
    engine.close().await;
}

async fn until_met(engine: &flautino::Engine, token: Token) {
    flautino_lab::wait_until("replicas serve the token", async || {
        read(engine, &with_token(engine, token), COUNT).await.reason == "floor_met"
    })
    .await;
}

#[tokio::test]
async fn a_token_that_nobody_polls_keeps_no_probe_from_the_primary() {
    let Lab { cluster, engine, db, .. } = Lab::named("unpolled")
        .replicas(1)
        .table("t (a int)")
        .patient_probes()
        .config(|config| {
            settings::lively(config);
            impatient(config);
        })
        .start()
        .await;
    let token = loop {
        insert(&db, 1).await;
        cluster.primary().hang().await.unwrap();
        let mut token = Box::pin(db.token());
        // It asks, or waits for who does, and is left alone.
        let polled = std::future::poll_fn(|cx| Poll::Ready(token.as_mut().poll(cx))).await;
        if polled.is_pending() {
            break token;
        }
        // A probe came between.
        cluster.primary().resume().await.unwrap();
        until_primary(&engine, "main").await;
    };
    flautino_lab::wait_until("the primary is down", async || engine.status().primary.is_none())
        .await;
    cluster.primary().resume().await.unwrap();
    until_primary(&engine, "main").await;
    assert!(token.await.is_some_and(is_until));
    engine.close().await;
}
