//! Of all that a session wrote and was told, the furthest counts.

use std::time::Duration;

use flautino_lab::{Lab, pause_replay, wait_until};

use crate::common::*;

#[tokio::test]
async fn a_session_that_only_read_has_no_token() {
    let lab = Lab::named("reads").replicas(2).table("t (a int)").frozen().start().await;
    assert_eq!(lab.db.token().await, None);
    for handle in [lab.db.clone(), lab.db.primary(), lab.db.replica(), lab.db.node("main").unwrap()]
    {
        read(&lab.engine, &handle, COUNT).await;
        assert!(!lab.db.owes_token());
        assert_eq!(lab.db.token().await, None);
    }
    assert_eq!(token_probes(&lab.engine), 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn of_several_tokens_the_furthest_counts_in_whichever_order_they_come() {
    let Lab { cluster, engine, .. } =
        Lab::named("merge").replicas(1).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let mut tokens = Vec::new();
    for value in 1..=3 {
        let db = engine.handle();
        insert(&db, value).await;
        tokens.push(db.token().await.unwrap());
    }
    let [a, b, c] = tokens[..] else { panic!("{tokens:?}") };
    assert!(parts(a) < parts(b) && parts(b) < parts(c), "{tokens:?}");
    for order in [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
        let db = engine.handle();
        order.iter().for_each(|token| db.observe(token));
        assert_eq!(db.token().await, Some(c));
        let read = read(&engine, &db, COUNT).await;
        assert_eq!((read.value, &*read.reason), (3, "floor_ahead"), "{read:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn an_older_token_lowers_nothing() {
    let Lab { cluster, engine, .. } =
        Lab::named("older").replicas(1).table("t (a int)").frozen().start().await;
    let first = engine.handle();
    insert(&first, 1).await;
    let old = first.token().await.unwrap();
    pause_replay(&cluster).await;
    let db = engine.handle();
    insert(&db, 2).await;
    db.observe(&old);
    assert_eq!(read(&engine, &db, COUNT).await.value, 2);
    let new = db.token().await.unwrap();
    assert!(parts(new) > parts(old));
    db.observe(&old);
    assert_eq!(db.token().await, Some(new));
    assert_eq!(read(&engine, &db, COUNT).await.value, 2);
    engine.close().await;
}

/// The session wrote here, then another service wrote, and its token came back: both count.
#[tokio::test]
async fn a_token_that_arrives_after_an_own_write_counts_beside_it() {
    let cluster = cluster_with_table(1).await;
    let replica = cluster.replica(0);
    let here = engine_with(&cluster, "here", |config| {
        config.routing.probe_interval = Duration::from_millis(1500);
    })
    .await;
    let there = frozen_engine(&cluster, "there").await;
    for round in 1..=4 {
        replica.catch_up_with(cluster.primary()).await.unwrap();
        let db = here.handle();
        insert(&db, round).await;
        replica.catch_up_with(cluster.primary()).await.unwrap();
        replica.pause_replay().await.unwrap();
        // By now the monitor knows positions after the write.
        let probes = || here.status().nodes.iter().map(|node| node.probes).collect::<Vec<_>>();
        let before = probes();
        wait_until("both nodes were probed", async || {
            probes().iter().zip(&before).all(|(now, before)| now > before)
        })
        .await;
        let other = there.handle();
        insert(&other, round).await;
        db.observe(&other.token().await.unwrap());
        let read = read(&here, &db, COUNT).await;
        assert_eq!(read.value, i64::from(2 * round), "in round {round}: {read:?}");
        replica.resume_replay().await.unwrap();
    }
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn tokens_taken_at_the_same_time_by_clones_that_write_lose_no_write() {
    let Lab { cluster, engine, .. } =
        Lab::named("clones").replicas(1).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let db = engine.handle();
    for round in 1..=20 {
        let mut tasks = tokio::task::JoinSet::new();
        for value in 0..8 {
            let db = db.clone();
            tasks.spawn(async move {
                insert(&db, value).await;
                db.token().await.unwrap()
            });
        }
        let tokens = tasks.join_all().await;
        let read = read(&engine, &db, COUNT).await;
        assert_eq!(read.value, 8 * round, "{read:?}");
        let furthest = tokens.into_iter().max_by_key(|token| parts(*token)).unwrap();
        let last = db.token().await.unwrap();
        assert!(parts(last) >= parts(furthest), "{last} after {furthest}");
    }
    engine.close().await;
}
