//! Servers that do not tell positions: a session that wrote reads from the primary for a while.

use std::time::{Duration, Instant};

use flautino::{Engine, ReadYourWrites};
use flautino_lab::{Lab, settings, until_served_by, wait_until};

use crate::common::*;

/// Far longer than replicas take to show a write.
const WINDOW: Duration = Duration::from_secs(3);

/// Two processes over replicas that show each write `delay` late.
async fn start(delay: &str) -> (Lab, Engine) {
    let one = Lab::named("app")
        .replicas(1)
        .setting("recovery_min_apply_delay", delay)
        .table("t (a int)")
        .as_role("app")
        .without_positions()
        .patient_probes()
        .config(|config| {
            settings::lively(config);
            config.routing.max_lag = WINDOW;
            config.routing.token_window = WINDOW;
        })
        .start()
        .await;
    let other = one.another().await;
    for engine in [&one.engine, &other] {
        until_served_by(engine, &["read_replica_1"]).await;
    }
    (one, other)
}

#[tokio::test]
async fn the_status_says_so_and_replicas_serve_sessions_that_wrote_nothing() {
    let (Lab { engine: one, cluster: _cluster, .. }, other) = start("0").await;
    for engine in [&one, &other] {
        let status = engine.status();
        assert_eq!(status.read_your_writes, Some(ReadYourWrites::Window));
        assert_eq!(status.primary.as_deref(), Some("main"));
        for _ in 0..5 {
            let db = engine.handle();
            let read = read(engine, &db, COUNT).await;
            assert_eq!(read.node, "read_replica_1", "{read:?}");
            assert_eq!(db.token().await, None);
        }
        engine.close().await;
    }
}

#[tokio::test]
async fn a_session_that_wrote_reads_from_the_primary_for_the_window_and_then_from_replicas() {
    let (Lab { engine: one, cluster: _cluster, .. }, other) = start("500ms").await;
    let db = one.handle();
    for round in 1..=3 {
        insert(&db, round).await;
        let written = Instant::now();
        wait_until("a replica serves the writer", async || {
            let asked = written.elapsed();
            let read = read(&one, &db, COUNT).await;
            assert_eq!(read.value, i64::from(round), "{read:?} {asked:?} after the write");
            if asked < WINDOW.mul_f64(0.8) && written.elapsed() < WINDOW {
                assert_eq!((&*read.node, &*read.reason), ("main", "own_write"), "{asked:?}");
            }
            read.is_from_replica()
        })
        .await;
        assert!(written.elapsed() < WINDOW * 4, "took {:?}", written.elapsed());
    }
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn its_token_means_the_primary_for_the_window_elsewhere_and_then_replicas() {
    let (Lab { engine: one, cluster: _cluster, .. }, other) = start("500ms").await;
    // The second's fraction at which a token is made must not shorten its window.
    for round in 1..=4 {
        let db = one.handle();
        insert(&db, round).await;
        let written = Instant::now();
        let token = db.token().await.unwrap();
        assert!(is_until(token), "{token}");
        wait_until("a replica serves the token", async || {
            let asked = written.elapsed();
            let read = read(&other, &with_token(&other, token), COUNT).await;
            assert_eq!(read.value, i64::from(round), "{read:?} {asked:?} after the write");
            read.is_from_replica()
        })
        .await;
        let took = written.elapsed();
        assert!((WINDOW..WINDOW * 5).contains(&took), "in round {round} it took {took:?}");
        tokio::task::yield_now().await;
    }
    assert_eq!(token_probes(&one) + token_probes(&other), 0);
    one.close().await;
    other.close().await;
}

/// As after a change of rights, or of the kind of server, under clients that have tokens.
#[tokio::test]
async fn a_token_with_a_position_means_the_primary_and_is_no_error() {
    let (Lab { engine: one, cluster: _cluster, .. }, other) = start("0").await;
    let token = token_of((1, 1, 0x1234_5678));
    let db = with_token(&one, token);
    for _ in 0..3 {
        let read = read(&one, &db, COUNT).await;
        assert_eq!(read.node, "main", "{read:?}");
        assert!(read.took < NO_WAIT, "{read:?}");
    }
    insert(&db, 1).await;
    assert!(is_until(db.token().await.unwrap()));
    one.close().await;
    other.close().await;
}
