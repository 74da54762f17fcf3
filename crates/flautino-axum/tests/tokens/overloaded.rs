//! No replica may serve, and the primary is left to writes: 503, and when to try again.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use flautino::{EngineConfig, Fallback};
use flautino_lab::{ask, settings, wait_until};
use sqlx::Connection;

use crate::browser::{Answer, Browser, get, headers};
use crate::common::Pair;

/// What waits, waits for this long. Connecting must not take longer.
const WAIT: Duration = Duration::from_secs(1);

/// One connection of the primary for such reads.
fn narrow(config: &mut EngineConfig) {
    settings::lively(config);
    config.pool.max_connections = 2;
    config.pool.acquire_timeout = WAIT;
}

/// Only the primary may answer who brings this.
fn bad_token() -> HeaderMap {
    headers(&[("flautino-token", "garbage")])
}

#[track_caller]
fn assert_overloaded(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert!(answer.body.contains("the database is not available, try again"), "{answer:?}");
}

/// A second read while the first waits for a lock at the primary: its answer, and the time it took.
async fn second_read(pair: &Pair) -> (Answer, Duration) {
    Browser::default().get(&pair.url(0, "set/a/1")).await;
    let primary = pair.cluster.primary();
    let mut gate = primary.connect().await.unwrap();
    let mut lock = gate.begin().await.unwrap();
    sqlx::query("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let client = reqwest::Client::new();
    let url = pair.url(0, "value/a");
    let first = {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move { get(&client, &url, bad_token()).await })
    };
    let waits = "SELECT count(*) FROM pg_stat_activity \
         WHERE application_name = 'tokens' AND wait_event_type = 'Lock'";
    wait_until("the first read waits", async || ask::<i64>(primary, waits).await == 1).await;
    let started = Instant::now();
    let second = get(&client, &url, bad_token()).await;
    let took = started.elapsed();
    // Writes have their connection still: they wait for the lock only.
    let write = {
        let (client, url) = (client.clone(), pair.url(0, "set/b/1"));
        tokio::spawn(async move { get(&client, &url, HeaderMap::new()).await })
    };
    wait_until("a write waits too", async || ask::<i64>(primary, waits).await == 2).await;
    lock.rollback().await.unwrap();
    first.await.unwrap().assert_value(1);
    assert_eq!(write.await.unwrap().status, 200);
    get(&client, &url, bad_token()).await.assert_value(1);
    (second, took)
}

#[tokio::test]
async fn refused_at_once() {
    let pair = Pair::start(|config| {
        narrow(config);
        config.pool.acquire_timeout = Duration::from_secs(5);
        config.routing.fallback = Fallback::Refuse;
    })
    .await;
    let (answer, took) = second_read(&pair).await;
    assert_overloaded(&answer);
    assert!(took < Duration::from_secs(2), "it waited: {took:?}");
    pair.stop().await;
}

#[tokio::test]
async fn refused_after_the_acquire_timeout() {
    let pair = Pair::start(narrow).await;
    let (answer, took) = second_read(&pair).await;
    assert_overloaded(&answer);
    assert!(took >= WAIT && took < 5 * WAIT, "{took:?}");
    pair.stop().await;
}
