//! Replicas that a name leads to: found at open, joining, leaving.

use std::time::Duration;

use flautino::{Health, Role};
use flautino_lab::{cluster, node_of, number, reader, run, status_of, until_served_by, wait_until};

use crate::common::{
    COUNT, FOUND, INSERT, MAIN, PATIENCE, Registry, Says, at, discovering, eager, ip, names, node,
    one_port, sessions, set, these, unknown_node, until_no_sessions, with_table,
};

#[tokio::test]
async fn replicas_are_found_at_open() {
    let cluster = with_table(cluster(2).await).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1, 2]));
    let engine = discovering(&servers, "found", &registry, |_| ());
    assert_eq!(names(&engine), [MAIN]);
    let report = engine.open().await.unwrap();
    assert!(report.warnings.is_empty(), "{report:?}");
    assert_eq!(names(&engine), [MAIN, FOUND[0], FOUND[1]]);
    // The port is the main node's.
    assert_eq!(registry.questions()[0], ("replicas.test".to_owned(), servers[0].addr.port()));
    let status = status_of(&engine, FOUND[0]);
    assert_eq!((status.role, status.health), (Role::Replica, Health::Up), "{status:?}");
    assert_eq!((&*status.host, status.port), (FOUND[0], servers[0].addr.port()));
    until_served_by(&engine, &FOUND[..2]).await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert_eq!(node_of(&db), MAIN);
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    assert!(db.token().await.is_some());
    engine.close().await;
}

#[tokio::test]
async fn the_port_may_be_another() {
    let cluster = cluster(1).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "port", &registry, |config| {
        config.discovery.as_mut().unwrap().port = Some(4321);
    });
    engine.open().await.unwrap();
    assert_eq!(registry.questions()[0], ("replicas.test".to_owned(), 4321));
    engine.close().await;
}

#[tokio::test]
async fn a_new_address_joins_and_one_that_goes_leaves() {
    let cluster = with_table(cluster(2).await).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "changes", &registry, |_| ());
    engine.open().await.unwrap();
    until_served_by(&engine, &FOUND[..1]).await;
    registry.say(at(&servers, &[2, 1]));
    until_served_by(&engine, &FOUND[..2]).await;
    let gone = engine.handle().node(FOUND[0]).unwrap();
    run(&gone, "SELECT 1").await.unwrap();

    registry.say(at(&servers, &[2]));
    wait_until("the address left", async || names(&engine) == [MAIN, FOUND[1]]).await;
    for _ in 0..20 {
        assert_ne!(reader(&engine).await.unwrap(), FOUND[0]);
    }
    until_no_sessions(cluster.replica(0), "changes").await;
    assert_eq!(unknown_node(&run(&gone, "SELECT 1").await.unwrap_err()), Some(FOUND[0]));
    engine.close().await;
    for server in cluster.nodes() {
        until_no_sessions(server, "changes").await;
    }
}

#[tokio::test]
async fn a_node_whose_address_goes_is_drained() {
    let cluster = cluster(1).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "drained", &registry, |_| ());
    engine.open().await.unwrap();
    let sql = "SELECT 7::int8 FROM pg_sleep(4)";
    let db = engine.handle().node(FOUND[0]).unwrap();
    let query = tokio::spawn(async move { number(&db, sql).await.unwrap() });
    flautino_lab::until_running(cluster.replica(0), "drained", sql).await;
    registry.say(at(&servers, &[0]));
    wait_until("the address left", async || engine.handle().node(FOUND[0]).is_err()).await;
    assert_eq!(query.await.unwrap(), 7);
    until_no_sessions(cluster.replica(0), "drained").await;
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_drains_does_not_keep_others_from_being_found() {
    let cluster = cluster(2).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "meanwhile", &registry, |config| {
        config.drain_timeout = Duration::from_secs(300);
    });
    engine.open().await.unwrap();
    let lease = engine.handle().node(FOUND[0]).unwrap().acquire().await.unwrap();
    registry.say(at(&servers, &[0]));
    wait_until("the address left", async || engine.handle().node(FOUND[0]).is_err()).await;
    // The name is resolved each second, whatever still runs on what it led to before.
    registry.say(at(&servers, &[2]));
    let found = tokio::time::timeout(Duration::from_secs(15), async {
        while engine.handle().node(FOUND[1]).is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(found.is_ok(), "the new address was not found while the old one drains");
    drop(lease);
    engine.close().await;
}

#[tokio::test]
async fn the_main_node_among_the_addresses_does_no_harm() {
    let cluster = with_table(cluster(1).await).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[0, 1]));
    let engine = discovering(&servers, "self", &registry, |_| ());
    engine.open().await.unwrap();
    until_served_by(&engine, &FOUND[..1]).await;
    assert_eq!(engine.status().primary.as_deref(), Some(MAIN));
    let own = ip(1).to_string();
    for _ in 0..30 {
        let db = engine.handle();
        run(&db, INSERT).await.unwrap();
        assert_eq!(node_of(&db), MAIN);
        assert!(number(&db, COUNT).await.unwrap() > 0);
        assert_ne!(reader(&engine).await.unwrap(), own);
    }
    // Alone it is one node too many, and no more.
    registry.say(at(&servers, &[0]));
    wait_until("the replica left", async || engine.handle().node(FOUND[0]).is_err()).await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert!(number(&db, COUNT).await.unwrap() > 30);
    assert_eq!(node_of(&db), MAIN);
    engine.close().await;
    until_no_sessions(cluster.primary(), "self").await;
}

#[tokio::test]
async fn nodes_that_have_names_stay_beside_those_that_were_found() {
    let cluster = cluster(3).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1]));
    let engine = discovering(&servers, "beside", &registry, |config| {
        config.extra_nodes.insert("r3".to_owned(), node(cluster.replica(2), "beside"));
    });
    engine.open().await.unwrap();
    assert_eq!(names(&engine).len(), 3);
    until_served_by(&engine, &[FOUND[0], "r3"]).await;
    // The name says something else: what was configured stays.
    registry.say(at(&servers, &[2]));
    until_served_by(&engine, &[FOUND[1], "r3"]).await;
    assert!(engine.handle().node(FOUND[0]).is_err());
    // Other names are set: what was found stays.
    let report = set(&engine, these(&cluster, "beside", &[0])).await;
    assert_eq!((report.added, report.removed), (vec!["r1".to_owned()], vec!["r3".to_owned()]));
    until_served_by(&engine, &[FOUND[1], "r1"]).await;
    registry.until_asked(2).await;
    until_served_by(&engine, &[FOUND[1], "r1"]).await;
    assert_eq!(sessions(cluster.replica(2), "beside").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn an_answer_in_another_order_changes_nothing() {
    let cluster = cluster(2).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1, 2]));
    let engine = discovering(&servers, "order", &registry, |_| ());
    engine.open().await.unwrap();
    let pid = "SELECT pg_backend_pid()::int8";
    let db = engine.handle().node(FOUND[1]).unwrap();
    let lease = engine.handle().node(FOUND[0]).unwrap().acquire().await.unwrap();
    let before = number(&db, pid).await.unwrap();
    registry.say(at(&servers, &[2, 1, 2, 1]));
    registry.until_asked(2).await;
    run(&db, "SELECT 1").await.unwrap();
    let mut connection = cluster.replica(1).connect().await.unwrap();
    let alive: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)")
            .bind(i32::try_from(before).unwrap())
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert!(alive);
    assert_eq!(names(&engine), [MAIN, FOUND[0], FOUND[1]]);
    drop(lease);
    engine.close().await;
}

#[tokio::test]
async fn servers_on_two_ports_of_one_address_are_two_nodes_with_two_names() {
    let cluster = cluster(2).await;
    let servers = one_port(&cluster).await;
    // A registry of services knows ports.
    let both = vec![cluster.replica(0).addr(), cluster.replica(1).addr()];
    let registry = Registry::new(Says::These(both));
    let engine = discovering(&servers, "ports", &registry, eager);
    engine.open().await.unwrap();
    let mut names = names(&engine);
    assert_eq!(names.len(), 3, "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3, "two nodes have one name: {names:?}");
    engine.close().await;
}

#[tokio::test]
async fn one_that_was_promoted_stays_though_its_name_leads_elsewhere_while_it_is_down() {
    let cluster = with_table(cluster(2).await).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1, 2]));
    let engine = discovering(&servers, "promoted", &registry, |_| ());
    engine.open().await.unwrap();
    until_served_by(&engine, &FOUND[..2]).await;
    cluster.primary().kill().await.unwrap();
    cluster.replica(0).promote().await.unwrap();
    let is_primary = async || engine.status().primary.as_deref() == Some(FOUND[0]);
    wait_until("it is the primary", is_primary).await;
    cluster.replica(0).stop().await.unwrap();
    wait_until("it is down", async || engine.status().primary.is_none()).await;
    registry.say(at(&servers, &[2]));
    registry.until_asked(3).await;
    cluster.replica(0).start().await.unwrap();
    wait_until("it is the primary again", is_primary).await;
    let db = engine.handle();
    run(&db, INSERT).await.unwrap();
    assert_eq!(node_of(&db), FOUND[0]);
    engine.close().await;
}

#[tokio::test]
async fn one_whose_promotion_was_not_noticed_yet_stays_too() {
    let cluster = with_table(cluster(2).await).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(at(&servers, &[1, 2]));
    let engine = discovering(&servers, "unnoticed", &registry, |config| {
        // By its own will the monitor asks nobody again.
        config.routing.probe_interval = Duration::from_secs(3600);
        config.routing.probe_timeout = PATIENCE;
    });
    engine.open().await.unwrap();
    cluster.replica(0).promote().await.unwrap();
    registry.say(at(&servers, &[2]));
    registry.until_asked(3).await;
    assert_eq!(names(&engine), [MAIN, FOUND[0], FOUND[1]]);
    // The primary that it succeeds is a stray copy now.
    assert_eq!(engine.status().primary.as_deref(), Some(FOUND[0]));
    engine.close().await;
}
