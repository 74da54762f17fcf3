//! Sessions while nodes come and go: they see their own writes, and never go backwards.

use flautino::Consistency;
use flautino_lab::{
    catch_up, cluster, node_of, number, run, settings, until_served_by, wait_until,
};

use crate::common::{
    COUNT, INSERT, MAIN, Nodes, hasty, one_ahead, open_with, served_by, set, these, with_table,
};

#[tokio::test]
async fn a_session_that_read_from_a_node_that_left_does_not_go_backwards() {
    let (cluster, engine) = one_ahead("left").await;
    let db = served_by(&engine, "r2").await;
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    set(&engine, these(&cluster, "left", &[0, 2])).await;
    for _ in 0..30 {
        assert_eq!(number(&db, COUNT).await.unwrap(), 1, "served by {}", node_of(&db));
    }
    engine.close().await;
}

#[tokio::test]
async fn a_session_does_not_take_another_node_for_the_one_it_read_from() {
    let (cluster, engine) = one_ahead("shift").await;
    let db = served_by(&engine, "r2").await;
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    // Now r3 has the number that r2 had.
    set(&engine, these(&cluster, "shift", &[1, 2])).await;
    for _ in 0..30 {
        assert_eq!(number(&db, COUNT).await.unwrap(), 1, "served by {}", node_of(&db));
    }
    engine.close().await;
}

#[tokio::test]
async fn a_session_goes_on_with_the_replica_it_read_from_when_another_one_left() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "goes_on", &[0, 1], hasty).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    let db = served_by(&engine, "r2").await;
    set(&engine, these(&cluster, "goes_on", &[1])).await;
    until_served_by(&engine, &["r2"]).await;
    // It is probed all the time, so that its position is known soon.
    wait_until("the session reads from a replica again", async || {
        run(&db, COUNT).await.unwrap();
        node_of(&db) == "r2"
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn a_floor_holds_over_every_change_of_nodes() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "floor", &[0], settings::frozen).await;
    until_served_by(&engine, &["r1"]).await;
    for replica in [0, 1] {
        cluster.replica(replica).pause_replay().await.unwrap();
    }
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    let token = db.token().await.unwrap();
    for replicas in [&[0, 1][..], &[1], &[], &[1, 0], &[0]] {
        set(&engine, these(&cluster, "floor", replicas)).await;
        for _ in 0..10 {
            assert_eq!(number(&db, COUNT).await.unwrap(), 1, "served by {}", node_of(&db));
            let next = engine.handle();
            next.observe(&token);
            assert_eq!(number(&next, COUNT).await.unwrap(), 1, "served by {}", node_of(&next));
        }
    }
    for replica in [0, 1] {
        cluster.replica(replica).resume_replay().await.unwrap();
    }
    engine.close().await;
}

#[tokio::test]
async fn a_write_under_way_while_nodes_change_is_seen_after() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "under_way", &[0], settings::frozen).await;
    until_served_by(&engine, &["r1"]).await;
    let db = engine.handle();
    let mut tx = db.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut tx).await.unwrap();
    set(&engine, these(&cluster, "under_way", &[1])).await;
    until_served_by(&engine, &["r2"]).await;
    cluster.replica(1).pause_replay().await.unwrap();
    tx.commit().await.unwrap();
    for _ in 0..20 {
        assert_eq!(number(&db, COUNT).await.unwrap(), 1, "served by {}", node_of(&db));
    }
    let next = engine.handle();
    next.observe(&db.token().await.unwrap());
    assert_eq!(number(&next, COUNT).await.unwrap(), 1, "served by {}", node_of(&next));
    engine.close().await;
}

#[tokio::test]
async fn a_session_over_many_changes_sees_a_counter_only_grow() {
    let cluster = with_table(cluster(2).await).await;
    cluster.primary().execute("CREATE TABLE c AS SELECT 0::int8 AS n").await.unwrap();
    catch_up(&cluster).await;
    let engine = open_with(&cluster, "grows", &[0, 1], hasty).await;
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let db = engine.handle().with_consistency(Consistency::Session);
            tokio::spawn(async move {
                let mut seen = 0;
                let mut reads = 0_u32;
                while seen < 150 {
                    let now = number(&db, "SELECT n FROM c").await.unwrap();
                    assert!(now >= seen, "{now} after {seen}, served by {}", node_of(&db));
                    seen = now;
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    let writer = engine.handle();
    let sets = [&[0, 1][..], &[1], &[0], &[], &[1, 0]];
    for round in 0..150 {
        run(&writer, "UPDATE c SET n = n + 1").await.unwrap();
        assert_eq!(
            number(&writer, "SELECT n FROM c").await.unwrap(),
            round + 1,
            "{}",
            node_of(&writer)
        );
        if round % 10 == 0 {
            let which = usize::try_from(round / 10).unwrap() % sets.len();
            set(&engine, these(&cluster, "grows", sets[which])).await;
        }
    }
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    set(&engine, Nodes::new()).await;
    assert_eq!(number(&engine.handle(), "SELECT n FROM c").await.unwrap(), 150);
    let db = engine.handle();
    run(&db, "SELECT 1").await.unwrap();
    assert_eq!(node_of(&db), MAIN);
    engine.close().await;
}
