//! Across a failover: never a stale answer, never a wait, never an error; what the new primary has
//! is the truth.

use flautino::Engine;
use flautino_cluster::Cluster;
use flautino_lab::{Lab, catch_up, until_served_by, wait_until};

use crate::common::*;

/// Some of what is written is lost: the first replica does not receive it, and is promoted.
struct Failover {
    cluster: Cluster,
    engine: Engine,
    /// Of a write that survived, and of one that did not.
    kept: flautino::Token,
    lost: flautino::Token,
}

/// One row survives; then much is written that only the primary and the second replica get.
async fn fail_over(name: &str) -> Failover {
    let Lab { cluster, engine, .. } =
        Lab::named(name).replicas(2).table("t (a int)").patient_probes().start().await;
    until_served_by(&engine, &["read_replica_1", "read_replica_2"]).await;
    let db = engine.handle();
    insert(&db, 1).await;
    let kept = db.token().await.unwrap();
    catch_up(&cluster).await;
    cut_off(cluster.replica(0)).await;
    insert(&db, 2).await;
    // So much that the new primary does not come so far soon.
    let more = "INSERT INTO t SELECT 3 FROM generate_series(1, 20000)";
    sqlx::query(more).execute(&db).await.unwrap();
    let lost = db.token().await.unwrap();
    cluster.replica(1).catch_up_with(cluster.primary()).await.unwrap();
    cluster.primary().kill().await.unwrap();
    cluster.replica(0).promote().await.unwrap();
    until_primary(&engine, "read_replica_1").await;
    reconnect(cluster.replica(0)).await;
    Failover { cluster, engine, kept, lost }
}

/// What the node on its port says, whoever holds which token, is what the new primary says.
async fn all_tell_the_truth(failover: &Failover, tokens: &[flautino::Token]) {
    let Failover { cluster, engine, .. } = failover;
    let truth: i64 = flautino_lab::ask(cluster.replica(0), COUNT).await;
    for token in tokens {
        for _ in 0..5 {
            let read = read(engine, &with_token(engine, *token), COUNT).await;
            assert_eq!(read.value, truth, "{token}: {read:?}");
            assert!(read.took < NO_WAIT, "{token}: {read:?}");
        }
    }
}

#[tokio::test]
async fn tokens_of_the_old_timeline_mean_the_new_primary_and_are_replaced_by_new_ones() {
    let failover = fail_over("old_tokens").await;
    let Failover { engine, kept, lost, .. } = &failover;
    all_tell_the_truth(&failover, &[*kept, *lost]).await;
    for old in [*kept, *lost] {
        let db = with_token(engine, old);
        let read = read(engine, &db, COUNT).await;
        assert_eq!((&*read.node, &*read.reason), ("read_replica_1", "foreign_token"), "{read:?}");
        assert!(db.owes_token());
        let (system, timeline, lsn) = parts(db.token().await.unwrap());
        assert_eq!((system, timeline), (parts(old).0, 2));
        assert!(lsn < parts(*lost).2, "the new primary is not so far");
    }
    let db = engine.handle();
    insert(&db, 4).await;
    let new = db.token().await.unwrap();
    assert_eq!(parts(new).1, 2, "{new}");
    all_tell_the_truth(&failover, &[*kept, *lost, new]).await;
    // Of an old and a new one the new one counts, in whichever order.
    for order in [[*lost, new], [new, *lost]] {
        let db = engine.handle();
        order.iter().for_each(|token| db.observe(token));
        assert_eq!(db.token().await, Some(new));
    }
    engine.close().await;
}

/// The second replica holds what was lost, and numbers its places further than the new primary.
#[tokio::test]
async fn a_replica_that_stayed_on_the_old_timeline_meets_no_floor_of_the_new_one() {
    let failover = fail_over("left_behind").await;
    let Failover { cluster, engine, .. } = &failover;
    assert!(flautino_lab::ask::<i64>(cluster.replica(1), COUNT).await > 20_000);
    let db = engine.handle();
    insert(&db, 4).await;
    let token = db.token().await.unwrap();
    let probes = || engine.status().nodes[2].probes;
    let before = probes();
    wait_until("it was probed some times", async || {
        all_tell_the_truth(&failover, &[token]).await;
        let own = read(engine, &db, COUNT).await;
        assert_eq!(own.value, 2, "{own:?}");
        probes() >= before + 6
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_stayed_on_the_old_timeline_is_not_in_the_rotation() {
    let failover = fail_over("ghost").await;
    let Failover { engine, .. } = &failover;
    insert(&engine.handle(), 4).await;
    let probes = || engine.status().nodes[2].probes;
    let before = probes();
    wait_until("it was probed some times", async || probes() >= before + 6).await;
    for _ in 0..20 {
        let read = read(engine, &engine.handle(), COUNT).await;
        assert_eq!((read.value, &*read.node), (2, "read_replica_1"), "{read:?}");
    }
    let reason = engine.status().nodes[2].reason.clone();
    assert!(reason.is_some_and(|reason| reason.contains("timeline")), "the status tells why");
    engine.close().await;
}

#[tokio::test]
async fn the_old_primary_that_rejoins_serves_new_tokens_and_not_its_own_past() {
    let failover = fail_over("rejoins").await;
    let Failover { cluster, engine, kept, lost } = &failover;
    let (old, new) = (cluster.primary(), cluster.replica(0));
    cluster.replica(1).stop().await.unwrap();
    old.rejoin(new).await.unwrap();
    let db = engine.handle();
    insert(&db, 4).await;
    let token = db.token().await.unwrap();
    wait_until("the old primary serves the token as a replica", async || {
        all_tell_the_truth(&failover, &[*kept, *lost, token]).await;
        let read = read(engine, &with_token(engine, token), COUNT).await;
        read.node == "main" && read.reason == "floor_met"
    })
    .await;
    // And it lags like any other.
    old.pause_replay().await.unwrap();
    insert(&db, 5).await;
    let newer = db.token().await.unwrap();
    all_tell_the_truth(&failover, &[*kept, *lost, newer]).await;
    engine.close().await;
}
