//! A node that joins a running engine.

use std::time::{Duration, Instant};

use flautino::{Access, Consistency, EngineConfig, Health, PoolConfig, Role};
use flautino_lab::{
    catch_up, cluster, node_of, number, reader, run, settings, status_of, until_served_by,
    wait_until,
};
use tokio::net::TcpListener;

use crate::common::{
    COUNT, INSERT, MAIN, PATIENCE, eager, names, node, node_at, open_with, set, these, unopened,
    until_no_sessions, with_table,
};

/// As [`eager`], where an answer is needed and not waited for.
fn eager_and_patient(config: &mut EngineConfig) {
    eager(config);
    config.routing.probe_timeout = PATIENCE;
}

#[tokio::test]
async fn a_replica_that_joins_an_engine_of_one_node_gets_reads_and_no_writes() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "first", &[], eager_and_patient).await;
    assert_eq!(names(&engine), [MAIN]);
    assert!(!engine.has_replicas());

    let report = set(&engine, these(&cluster, "first", &[0])).await;
    assert_eq!(report.added, ["r1"]);
    assert!(report.removed.is_empty(), "{report:?}");
    assert!(engine.has_replicas());
    assert_eq!(names(&engine), [MAIN, "r1"]);
    // It was asked before the call returned.
    let status = status_of(&engine, "r1");
    assert_eq!((status.role, status.health), (Role::Replica, Health::Up), "{status:?}");
    assert_eq!(status.port, cluster.replica(0).port());
    assert!(status.probes > 0 && status.pool.is_some(), "{status:?}");

    until_served_by(&engine, &["r1"]).await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert_eq!(node_of(&db), MAIN);
    engine.close().await;
    for server in cluster.nodes() {
        until_no_sessions(server, "first").await;
    }
}

#[tokio::test]
async fn tokens_and_the_catalogue_begin_with_the_first_replica() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "begin", &[], eager_and_patient).await;
    let sql = "SELECT lower('A')";
    assert_eq!(engine.access(sql), Access::Write);
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert!(db.token().await.is_none());

    set(&engine, these(&cluster, "begin", &[0])).await;
    assert_eq!(engine.access(sql), Access::Read);
    assert_eq!(engine.access("SELECT nextval('s')"), Access::Write);
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert!(db.owes_token());
    let token = db.token().await.expect("a token").to_string();
    assert!(!token.contains("until"), "{token}");
    engine.close().await;
}

#[tokio::test]
async fn one_more_replica_takes_its_part_and_what_was_there_stays() {
    let cluster = with_table(cluster(3).await).await;
    let engine = open_with(&cluster, "more", &[0, 1], eager).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    let pid = "SELECT pg_backend_pid()::int8";
    let before = number(&engine.handle().node("r2").unwrap(), pid).await.unwrap();

    let report = set(&engine, these(&cluster, "more", &[0, 1, 2])).await;
    assert_eq!((report.added, report.removed), (vec!["r3".to_owned()], vec![]));
    until_served_by(&engine, &["r1", "r2", "r3"]).await;
    // Its pool is the one it was, within the time that a connection is warm and beyond.
    let mut connection = cluster.replica(1).connect().await.unwrap();
    let alive: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)")
            .bind(i32::try_from(before).unwrap())
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert!(alive, "the sessions of a node that stays were replaced");
    engine.close().await;
}

#[tokio::test]
async fn floors_hold_on_a_replica_that_joins() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "floor", &[0], settings::frozen).await;
    set(&engine, these(&cluster, "floor", &[0, 1])).await;
    until_served_by(&engine, &["r2"]).await;
    // It is in the rotation, and falls behind.
    cluster.replica(1).pause_replay().await.unwrap();
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    for _ in 0..40 {
        assert_eq!(number(&db, COUNT).await.unwrap(), 1, "{}", node_of(&db));
        assert_ne!(node_of(&db), "r2");
    }
    let token = db.token().await.unwrap();
    for _ in 0..40 {
        let next = engine.handle();
        next.observe(&token);
        assert_eq!(number(&next, COUNT).await.unwrap(), 1, "{}", node_of(&next));
    }
    // Without a floor it serves, and shows the past.
    wait_until("the past is seen", async || {
        let any = engine.handle().with_consistency(Consistency::Eventual);
        number(&any, COUNT).await.unwrap() == 0 && node_of(&any) == "r2"
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn a_token_of_another_instance_holds_on_the_first_replica() {
    let cluster = with_table(cluster(1).await).await;
    let other = open_with(&cluster, "other", &[0], settings::frozen).await;
    let engine = open_with(&cluster, "joined", &[], settings::frozen).await;
    set(&engine, these(&cluster, "joined", &[0])).await;
    until_served_by(&engine, &["r1"]).await;
    cluster.replica(0).pause_replay().await.unwrap();
    let writer = other.handle();
    run(&writer, INSERT).await.unwrap();
    let token = writer.token().await.unwrap();
    for _ in 0..20 {
        let db = engine.handle();
        db.observe(&token);
        assert_eq!(number(&db, COUNT).await.unwrap(), 1, "{}", node_of(&db));
    }
    engine.close().await;
    other.close().await;
}

#[tokio::test]
async fn the_pool_of_a_node_that_joins_is_as_open_with_was_told() {
    let cluster = cluster(1).await;
    let engine = unopened(&cluster, "pooled", &[], eager);
    let pool = PoolConfig { max_connections: 17, sqlx_connections: 13, ..PoolConfig::default() };
    engine.open_with(pool).await.unwrap();
    set(&engine, these(&cluster, "pooled", &[0])).await;
    assert_eq!(status_of(&engine, "r1").pool.unwrap().max, 17);
    assert_eq!(engine.pool("r1").unwrap().options().get_max_connections(), 13);
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_is_down_joins_when_it_is_up() {
    let cluster = cluster(1).await;
    cluster.replica(0).stop().await.unwrap();
    let engine = open_with(&cluster, "down", &[], eager).await;
    let report = set(&engine, these(&cluster, "down", &[0])).await;
    assert_eq!(report.added, ["r1"]);
    assert_eq!(status_of(&engine, "r1").health, Health::Down);
    for _ in 0..10 {
        assert_eq!(reader(&engine).await.unwrap(), MAIN);
    }
    cluster.replica(0).start().await.unwrap();
    until_served_by(&engine, &["r1"]).await;
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_never_answers_holds_nothing_up() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "deaf", &[0], eager).await;
    // It accepts, and says nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", deaf.local_addr().unwrap());
    let mut nodes = these(&cluster, "deaf", &[0]);
    nodes.insert("deaf".to_owned(), node_at(url, "deaf"));
    let started = Instant::now();
    set(&engine, nodes).await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    for _ in 0..20 {
        assert_ne!(reader(&engine).await.unwrap(), "deaf");
    }
    // Nor does its end.
    let started = Instant::now();
    let report = set(&engine, these(&cluster, "deaf", &[0])).await;
    assert_eq!(report.removed, ["deaf"]);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let report = engine.close().await;
    assert!(report.elapsed < Duration::from_secs(8), "{report:?}");
}

#[tokio::test]
async fn a_node_that_is_the_main_server_under_another_name_does_no_harm() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "twice", &[0], eager).await;
    let mut nodes = these(&cluster, "twice", &[0]);
    nodes.insert("again".to_owned(), node(cluster.primary(), "twice"));
    set(&engine, nodes).await;
    catch_up(&cluster).await;
    assert_eq!(engine.status().primary.as_deref(), Some(MAIN));
    until_served_by(&engine, &["r1"]).await;
    for _ in 0..30 {
        assert_ne!(reader(&engine).await.unwrap(), "again");
        let db = engine.handle();
        run(&db, INSERT).await.unwrap();
        assert_eq!(node_of(&db), MAIN);
        assert!(number(&db, COUNT).await.unwrap() > 0);
    }
    assert!(status_of(&engine, "again").reason.is_some());
    engine.close().await;
    until_no_sessions(cluster.primary(), "twice").await;
}
