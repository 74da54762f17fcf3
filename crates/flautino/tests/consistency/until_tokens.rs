//! Tokens that say "the primary, until then".

use std::time::{Duration, Instant, SystemTime};

use flautino::{Engine, Token};
use flautino_lab::{settings, until_served_by};

use crate::common::*;

const WINDOW: Duration = Duration::from_secs(3);

fn until(seconds: u64) -> Token {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    flautino_lab::summed(&format!("1.until.{:x}", now.saturating_add(seconds))).parse().unwrap()
}

/// An engine whose window is three seconds.
async fn start() -> (flautino_cluster::Cluster, Engine) {
    let cluster = cluster_with_table(1).await;
    let engine = engine_with(&cluster, "until", |config| {
        settings::lively(config);
        config.routing.max_lag = WINDOW;
        config.routing.token_window = WINDOW;
    })
    .await;
    until_served_by(&engine, &["read_replica_1"]).await;
    (cluster, engine)
}

#[tokio::test]
async fn they_mean_the_primary_while_they_last_and_no_longer_than_the_window() {
    let (_cluster, engine) = start().await;
    for far in [
        until(60),
        until(1 << 40),
        flautino_lab::summed("1.until.ffffffffffffffff").parse().unwrap(),
    ] {
        let observed = Instant::now();
        let db = with_token(&engine, far);
        let first = read(&engine, &db, COUNT).await;
        assert_eq!((&*first.node, &*first.reason), ("main", "token_window"), "{far}");
        assert!(first.took < NO_WAIT);
        flautino_lab::wait_until("the window is over", async || {
            read(&engine, &db, COUNT).await.is_from_replica()
        })
        .await;
        let lasted = observed.elapsed();
        assert!((WINDOW..WINDOW * 4).contains(&lasted), "{far} lasted {lasted:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn what_is_handed_on_is_no_longer_than_the_window_either() {
    let (_cluster, engine) = start().await;
    let db = with_token(&engine, until(1 << 40));
    let next = db.token().await.unwrap();
    assert!(is_until(next));
    let text = next.to_string();
    let (_, end) = flautino_lab::bare(&text).rsplit_once('.').unwrap();
    let end = u64::from_str_radix(end, 16).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(end <= now + 5, "{} s", end - now);
    engine.close().await;
}

/// Else a client that holds one reads from the primary for ever, request after request.
#[tokio::test]
async fn for_one_impossibly_far_in_the_future_a_better_one_is_owed() {
    let (_cluster, engine) = start().await;
    let db = with_token(&engine, until(1 << 40));
    read(&engine, &db, COUNT).await;
    assert!(db.owes_token());
    engine.close().await;
}

#[tokio::test]
async fn those_of_the_past_mean_nothing() {
    let (_cluster, engine) = start().await;
    for past in ["1.until.0", "1.until.1", "1.until.5f5e1000"] {
        let db = with_token(&engine, flautino_lab::summed(past).parse().unwrap());
        let read = read(&engine, &db, COUNT).await;
        assert_eq!(read.reason, "no_floor", "{past}: {read:?}");
        assert_eq!(db.token().await, None);
    }
    engine.close().await;
}
