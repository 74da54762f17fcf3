//! Sessions that began while the engine had one node, and see its first replica come: what they
//! wrote and saw then counts too.

use std::time::Duration;

use flautino::{Consistency, Engine, EngineConfig, Health};
use flautino_cluster::Cluster;
use flautino_lab::{
    cluster, node_of, number, run, settings, status_of, until_served_by, wait_until,
};

use crate::common::{COUNT, INSERT, MAIN, Nodes, open_with, set, these, with_table};

/// The first replica joins, serves, and from then on shows nothing new.
async fn behind(engine: &Engine, cluster: &Cluster, app: &str) {
    set(engine, these(cluster, app, &[0])).await;
    until_served_by(engine, &["r1"]).await;
    delayed(cluster).await;
}

/// A replica may be as old as it likes.
fn of_any_age(config: &mut EngineConfig) {
    settings::frozen(config);
    config.routing.probe_interval = Duration::from_millis(50);
}

#[tokio::test]
async fn a_session_that_wrote_before_sees_its_write_after() {
    for again in [false, true] {
        let cluster = with_table(cluster(1).await).await;
        let engine = alone(&cluster, "wrote", again).await;
        let db = engine.handle();
        run(&db, INSERT).await.unwrap();
        joins_behind(&engine, &cluster, "wrote").await;
        for _ in 0..20 {
            assert_eq!(number(&db, COUNT).await.unwrap(), 1, "served by {}", node_of(&db));
        }
        engine.close().await;
    }
}

#[tokio::test]
async fn a_session_whose_write_is_under_way_meanwhile_sees_it_after() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "writing", &[], of_any_age).await;
    let db = engine.handle();
    let mut tx = db.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut tx).await.unwrap();
    behind(&engine, &cluster, "writing").await;
    tx.commit().await.unwrap();
    for _ in 0..20 {
        assert_eq!(number(&db, COUNT).await.unwrap(), 1, "served by {}", node_of(&db));
    }
    engine.close().await;
}

#[tokio::test]
async fn a_write_under_way_while_the_first_replica_comes_is_in_the_session_s_token() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "token", &[], of_any_age).await;
    let db = engine.handle();
    let mut tx = db.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut tx).await.unwrap();
    behind(&engine, &cluster, "token").await;
    tx.commit().await.unwrap();
    let token = db.token().await;
    assert!(token.is_some(), "the session wrote, and has no token");
    for _ in 0..20 {
        let next = engine.handle();
        next.observe(&token.unwrap());
        assert_eq!(number(&next, COUNT).await.unwrap(), 1, "served by {}", node_of(&next));
    }
    engine.close().await;
}

#[tokio::test]
async fn a_session_that_read_before_does_not_go_backwards_after() {
    for again in [false, true] {
        let cluster = with_table(cluster(1).await).await;
        let engine = alone(&cluster, "read", again).await;
        cluster.primary().execute(INSERT).await.unwrap();
        let db = engine.handle().with_consistency(Consistency::Session);
        assert_eq!(number(&db, COUNT).await.unwrap(), 1);
        joins_behind(&engine, &cluster, "read").await;
        for _ in 0..20 {
            assert_eq!(number(&db, COUNT).await.unwrap(), 1, "served by {}", node_of(&db));
        }
        engine.close().await;
    }
}

#[tokio::test]
async fn a_client_that_wrote_before_and_has_no_token_sees_its_write_after() {
    for again in [false, true] {
        let cluster = with_table(cluster(1).await).await;
        let engine = alone(&cluster, "client", again).await;
        let request = engine.handle();
        run(&request, INSERT).await.unwrap();
        // What the layer would hand to the client.
        let token = request.token().await;
        drop(request);
        joins_behind(&engine, &cluster, "client").await;
        for _ in 0..20 {
            let next = engine.handle();
            if let Some(token) = &token {
                next.observe(token);
            }
            assert_eq!(number(&next, COUNT).await.unwrap(), 1, "served by {}", node_of(&next));
        }
        engine.close().await;
    }
}

#[tokio::test]
async fn sessions_that_begin_after_are_as_ever() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "ever", &[], of_any_age).await;
    behind(&engine, &cluster, "ever").await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    assert_eq!(node_of(&db), MAIN);
    let any = engine.handle();
    assert_eq!(number(&any, COUNT).await.unwrap(), 0);
    assert_eq!(node_of(&any), "r1");
    engine.close().await;
}

/// From now on the replica shows what happens an hour later, and is not said to be paused.
async fn delayed(cluster: &Cluster) {
    let replica = cluster.replica(0);
    replica.execute("ALTER SYSTEM SET recovery_min_apply_delay = '1h'").await.unwrap();
    replica.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("replay is delayed", async || {
        let delay: String = flautino_lab::ask(replica, "SHOW recovery_min_apply_delay").await;
        delay == "1h"
    })
    .await;
}

/// An engine of one node, which may have had a replica: then the monitor remembers the primary from
/// before what is written now.
async fn alone(cluster: &Cluster, app: &str, again: bool) -> Engine {
    let engine = open_with(cluster, app, &[], of_any_age).await;
    if again {
        set(&engine, these(cluster, app, &[0])).await;
        until_served_by(&engine, &["r1"]).await;
        set(&engine, Nodes::new()).await;
    }
    delayed(cluster).await;
    engine
}

/// The replica joins while it lacks what was written. Nothing from before that counts,
/// so its age is unknown, and it serves nobody: a session remembers nothing of the time with one node.
async fn joins_behind(engine: &Engine, cluster: &Cluster, app: &str) {
    set(engine, these(cluster, app, &[0])).await;
    let probes = status_of(engine, MAIN).probes;
    wait_until("the primary was asked again", async || {
        status_of(engine, MAIN).probes >= probes + 2
    })
    .await;
    assert_eq!(status_of(engine, "r1").health, Health::Up);
}
