//! A session that carries its token sees its writes in every process; one that does not may read
//! the past.

use flautino_lab::{Lab, pause_replay, resume_replay, settings, wait_until};

use crate::common::*;

#[tokio::test]
async fn with_its_token_a_session_sees_its_write_in_another_process_and_without_it_reads_the_past()
{
    let cluster = cluster_with_table(2).await;
    let (one, other) =
        (frozen_engine(&cluster, "one").await, frozen_engine(&cluster, "other").await);
    pause_replay(&cluster).await;
    for round in 1..=20 {
        let db = one.handle();
        insert(&db, round).await;
        let token = db.token().await.unwrap();
        for engine in [&one, &other] {
            let with = read(engine, &with_token(engine, token), COUNT).await;
            assert_eq!((with.value, &*with.node), (i64::from(round), "main"), "{with:?}");
            assert_eq!(with.reason, "floor_ahead");
            assert!(with.took < NO_WAIT, "{with:?}");
            // Replicas serve, and they show the past.
            let without = read(engine, &engine.handle(), COUNT).await;
            assert_eq!((without.value, &*without.reason), (0, "no_floor"), "{without:?}");
            assert!(without.is_from_replica());
        }
    }
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn replicas_that_caught_up_serve_the_token_again_in_every_process() {
    let cluster = cluster_with_table(2).await;
    let one = engine_with(&cluster, "one", |_| {}).await;
    let other = engine_with(&cluster, "other", |_| {}).await;
    pause_replay(&cluster).await;
    let db = one.handle();
    insert(&db, 1).await;
    let token = db.token().await.unwrap();
    for engine in [&one, &other] {
        let with = read(engine, &with_token(engine, token), COUNT).await;
        assert_eq!((with.value, &*with.node), (1, "main"), "{with:?}");
    }
    resume_replay(&cluster).await;
    for engine in [&one, &other] {
        let db = with_token(engine, token);
        for replica in ["read_replica_1", "read_replica_2"] {
            wait_until("a replica serves the token's holder", async || {
                let read = read(engine, &db, COUNT).await;
                assert_eq!(read.value, 1, "{read:?}");
                assert_eq!(read.is_from_replica(), read.reason == "floor_met", "{read:?}");
                read.node == replica
            })
            .await;
        }
    }
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_handle_reads_its_own_write_at_once_and_goes_back_to_replicas_when_positions_allow() {
    let lab = Lab::named("own").replicas(2).table("t (a int)").patient_probes().start().await;
    let db = lab.engine.handle();
    assert!(!db.owes_token());
    for round in 1..=3 {
        insert(&db, round).await;
        assert!(db.owes_token());
        let first = read(&lab.engine, &db, COUNT).await;
        assert_eq!((first.value, &*first.node), (i64::from(round), "main"), "{first:?}");
        assert_eq!(first.reason, "own_write");
        wait_until("replicas serve the writer", async || {
            let read = read(&lab.engine, &db, COUNT).await;
            assert_eq!(read.value, i64::from(round), "{read:?}");
            assert!(["own_write", "floor_ahead", "floor_met"].contains(&&*read.reason), "{read:?}");
            read.is_from_replica()
        })
        .await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn commits_that_are_not_durable_yet_are_covered_by_the_token_too() {
    let cluster = flautino_cluster::Cluster::builder()
        .replicas(1)
        .setting("synchronous_commit", "off")
        .setting("wal_writer_delay", "10s")
        .setting("wal_writer_flush_after", "0")
        .start()
        .await
        .unwrap();
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let replica = cluster.replica(0);
    wait_until("the replica has the table", async || {
        flautino_lab::ask(replica, "SELECT to_regclass('t') IS NOT NULL").await
    })
    .await;
    let (one, other) = (
        engine_with(&cluster, "one", settings::lively).await,
        engine_with(&cluster, "other", settings::lively).await,
    );
    for round in 1..=60 {
        let db = one.handle();
        insert(&db, round).await;
        let token = db.token().await.unwrap();
        for engine in [&one, &other] {
            let read = read(engine, &with_token(engine, token), COUNT).await;
            assert_eq!(read.value, i64::from(round), "{read:?}");
        }
        assert_eq!(read(&one, &db, COUNT).await.value, i64::from(round));
    }
    one.close().await;
    other.close().await;
}
