//! Tokens that say "the primary, until then".

use std::time::{Duration, Instant, SystemTime};

use flautino::Token;
use flautino_lab::{Lab, settings};

use crate::common::*;

const WINDOW: Duration = Duration::from_secs(3);

fn until(seconds: u64) -> Token {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    flautino_lab::summed(&format!("1.until.{:x}", now.saturating_add(seconds))).parse().unwrap()
}

/// An engine whose window is three seconds.
async fn start() -> Lab {
    let lab = Lab::named("until")
        .replicas(1)
        .table("t (a int)")
        .patient_probes()
        .config(|config| {
            settings::lively(config);
            config.routing.max_lag = WINDOW;
            config.routing.token_window = WINDOW;
        })
        .start()
        .await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab
}

#[tokio::test]
async fn they_mean_the_primary_while_they_last_and_no_longer_than_the_window() {
    let lab = start().await;
    for far in [
        until(60),
        until(1 << 40),
        flautino_lab::summed("1.until.ffffffffffffffff").parse().unwrap(),
    ] {
        let observed = Instant::now();
        let db = with_token(&lab.engine, far);
        let first = read(&lab.engine, &db, COUNT).await;
        assert_eq!((&*first.node, &*first.reason), ("main", "token_window"), "{far}");
        assert!(first.took < NO_WAIT);
        flautino_lab::wait_until("the window is over", async || {
            read(&lab.engine, &db, COUNT).await.is_from_replica()
        })
        .await;
        let lasted = observed.elapsed();
        assert!((WINDOW..WINDOW * 4).contains(&lasted), "{far} lasted {lasted:?}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn what_is_handed_on_is_no_longer_than_the_window_either() {
    let lab = start().await;
    let db = with_token(&lab.engine, until(1 << 40));
    let next = db.token().await.unwrap();
    assert!(is_until(next));
    let text = next.to_string();
    let (_, end) = flautino_lab::bare(&text).rsplit_once('.').unwrap();
    let end = u64::from_str_radix(end, 16).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(end <= now + 5, "{} s", end - now);
    lab.engine.close().await;
}

/// Else a client that holds one reads from the primary for ever, request after request.
#[tokio::test]
async fn for_one_impossibly_far_in_the_future_a_better_one_is_owed() {
    let lab = start().await;
    let db = with_token(&lab.engine, until(1 << 40));
    read(&lab.engine, &db, COUNT).await;
    assert!(db.owes_token());
    lab.engine.close().await;
}

#[tokio::test]
async fn those_of_the_past_mean_nothing() {
    let lab = start().await;
    for past in ["1.until.0", "1.until.1", "1.until.5f5e1000"] {
        let db = with_token(&lab.engine, flautino_lab::summed(past).parse().unwrap());
        let read = read(&lab.engine, &db, COUNT).await;
        assert_eq!(read.reason, "no_floor", "{past}: {read:?}");
        assert_eq!(db.token().await, None);
    }
    lab.engine.close().await;
}
