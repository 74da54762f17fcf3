//! A standby that follows a promoted upstream changes its timeline while it stays in recovery.

use flautino_lab::{Lab, catch_up, settings, wait_until};

use crate::common::*;

/// The nodes are called `main`, `read_replica_1` (the upstream), `read_replica_2` (which cascades).
async fn start(user: Option<&str>) -> Lab {
    let lab = Lab::named("cascading")
        .replicas(1)
        .cascading(1)
        .sql("CREATE ROLE app LOGIN; CREATE TABLE t (a int); GRANT ALL ON t TO app")
        .patient_probes()
        .config(|config| {
            if let Some(user) = user {
                settings::log_in_as(config, user);
            }
        })
        .start()
        .await;
    lab.until_served_by(&["read_replica_1", "read_replica_2"]).await;
    lab
}

/// Fails over, and checks at each step that nobody reads the past.
async fn check(user: Option<&str>) {
    let Lab { cluster, engine, .. } = start(user).await;
    let (primary, upstream, cascading) =
        (cluster.primary(), cluster.replica(0), cluster.replica(1));
    let db = engine.handle();
    insert(&db, 1).await;
    let old = db.token().await.unwrap();
    wait_until("the cascading replica serves the token", async || {
        let read = read(&engine, &with_token(&engine, old), COUNT).await;
        assert_eq!(read.value, 1, "{read:?}");
        read.node == "read_replica_2" && read.reason == "floor_met"
    })
    .await;
    catch_up(&cluster).await;
    primary.kill().await.unwrap();
    upstream.promote().await.unwrap();
    until_primary(&engine, "read_replica_1").await;
    cascading.wait_until_streaming().await.unwrap();
    cascading.catch_up_with(upstream).await.unwrap();
    cascading.pause_replay().await.unwrap();

    let db = engine.handle();
    insert(&db, 2).await;
    let new = db.token().await.unwrap();
    assert_eq!(parts(new).1, 2, "{new}");
    let probes = || engine.status().nodes[2].probes;
    let before = probes();
    wait_until("the paused one was probed some times", async || {
        for token in [old, new] {
            let read = read(&engine, &with_token(&engine, token), COUNT).await;
            assert_eq!((read.value, &*read.node), (2, "read_replica_1"), "{token}: {read:?}");
        }
        probes() >= before + 5
    })
    .await;
    cascading.resume_replay().await.unwrap();
    if user.is_some() {
        // An ordinary role sees the timeline in the control file only, which learns of it late: at
        // a restartpoint.
        upstream.execute("CHECKPOINT").await.unwrap();
        cascading.catch_up_with(upstream).await.unwrap();
        cascading.execute("CHECKPOINT").await.unwrap();
    }
    wait_until("it serves the new timeline's token", async || {
        let read = read(&engine, &with_token(&engine, new), COUNT).await;
        assert_eq!(read.value, 2, "{read:?}");
        read.node == "read_replica_2" && read.reason == "floor_met"
    })
    .await;
    // The old timeline's token is no floor that it meets, whatever the number.
    let stays = read(&engine, &with_token(&engine, old), COUNT).await;
    assert_eq!((stays.value, &*stays.reason), (2, "foreign_token"), "{stays:?}");
    engine.close().await;
}

#[tokio::test]
async fn it_serves_the_new_timeline_s_tokens_once_it_has_them_and_not_before() {
    check(None).await;
}

#[tokio::test]
async fn so_it_is_for_an_ordinary_role_once_a_restartpoint_was_made() {
    check(Some("app")).await;
}
