//! At the level `Session` no read is older than an earlier one of its session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flautino::Consistency;
use flautino_cluster::Cluster;
use flautino_lab::{Lab, resume_replay, settings, wait_until};
use sqlx::ConnectOptions;

use crate::common::*;

/// Adds to the counter all the time, past the engines.
fn keep_adding(cluster: &Cluster) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let (options, stop) = (cluster.primary().connect_options(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let mut connection = options.connect().await.unwrap();
        while !stopped.load(Ordering::Relaxed) {
            sqlx::query(ADD).execute(&mut connection).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    (stop, task)
}

#[tokio::test]
async fn hundreds_of_reads_never_go_backwards_over_replicas_of_different_lag() {
    let (cluster, engine, other) = counter().await;
    let (stop, adding) = keep_adding(&cluster);
    for _ in 0..20 {
        let (mut seen, db) = (0, session(&engine));
        for _ in 0..20 {
            let read = read(&engine, &db, COUNTER).await;
            assert!(read.value >= seen, "{read:?} after {seen}");
            seen = read.value;
        }
    }
    // They differ, so a session that changed from one to the other would have gone back.
    let [fresh, old] = ["read_replica_1", "read_replica_2"].map(|name| engine.handle().node(name));
    assert_eq!(read(&engine, &old.unwrap(), COUNTER).await.value, 0);
    let fresh = fresh.unwrap();
    wait_until("the other goes on", async || read(&engine, &fresh, COUNTER).await.value > 0).await;
    stop.store(true, Ordering::Relaxed);
    adding.await.unwrap();
    engine.close().await;
    other.close().await;
}

#[tokio::test]
async fn under_a_monitor_that_probes_all_the_time_they_do_not_go_backwards_either() {
    let (cluster, _, _) = counter().await;
    cluster.replica(1).resume_replay().await.unwrap();
    let engine = engine_with(&cluster, "lively", |config| {
        settings::lively(config);
        config.routing.consistency = Consistency::Session;
    })
    .await;
    let (stop, adding) = keep_adding(&cluster);
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let (mut seen, db) = (0, engine.handle());
        for turn in 0..100 {
            if turn % 25 == 0 {
                let replica = cluster.replica(turn / 25 % 2);
                replica.pause_replay().await.unwrap();
            }
            let read = read(&engine, &db, COUNTER).await;
            assert!(read.value >= seen, "{read:?} after {seen}");
            seen = read.value;
            served.insert(read.node);
        }
        resume_replay(&cluster).await;
    }
    assert!(served.len() > 1, "{served:?}");
    stop.store(true, Ordering::Relaxed);
    adding.await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn a_token_carries_what_was_seen_to_another_process() {
    let (cluster, one, other) = counter().await;
    for round in 1..=30 {
        cluster.primary().execute(ADD).await.unwrap();
        cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
        let db = session(&one);
        // Each other time the replica that has it, since the balance may leave that one alone.
        let first = if round % 2 == 0 {
            let read = read(&one, &db.node("read_replica_1").unwrap(), COUNTER).await;
            assert_eq!(read.value, round, "{read:?}");
            read
        } else {
            read(&one, &db, COUNTER).await
        };
        assert!(db.owes_token());
        let token = db.token().await.unwrap();
        assert!(!is_until(token));
        assert!(!db.owes_token());
        for engine in [&one, &other] {
            let there = with_token(engine, token).with_consistency(Consistency::Session);
            let next = read(engine, &there, COUNTER).await;
            assert!(next.value >= first.value, "{next:?} after {first:?}");
        }
    }
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn own_writes_are_seen_at_this_level_too_and_replicas_serve_again() {
    let lab = Lab::named("writes")
        .replicas(2)
        .table("t (a int)")
        .patient_probes()
        .config(|config| config.routing.consistency = Consistency::Session)
        .start()
        .await;
    let db = lab.engine.handle();
    for round in 1..=3 {
        insert(&db, round).await;
        wait_until("a replica serves the session", async || {
            let read = read(&lab.engine, &db, COUNT).await;
            assert_eq!(read.value, i64::from(round), "{read:?}");
            read.is_from_replica()
        })
        .await;
    }
    lab.engine.close().await;
}
