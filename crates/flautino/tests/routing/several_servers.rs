//! A name that leads to several servers: what a probe says of one does not hold for another, so
//! it is not used.

use std::net::SocketAddr;
use std::time::Duration;

use flautino::{Engine, NodeConfig};
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{
    Capture, catch_up, cluster, config, node_of, number, open, run, status_of, wait_until,
};
use futures_util::future::join_all;

use crate::common::{MAIN, REPLICAS, until_reads_from};

const READER: &str = "reader";

/// A primary with two replicas, one of them used by its own name, and an address that may lead to
/// either.
async fn start(name: &str) -> (Cluster, Proxy, Engine) {
    let cluster = cluster(2).await;
    let proxy = Proxy::start(cluster.replica(1).addr()).await.unwrap();
    let mut config = config(&cluster, name);
    // Else a slow answer has the monitor connect anew, and perhaps to the other.
    config.routing.probe_timeout = Duration::from_secs(5);
    config.extra_nodes.remove(REPLICAS[1]);
    let reader = NodeConfig { url: Some(proxy.url()), ..config.main.clone() };
    config.extra_nodes.insert(READER.to_owned(), reader);
    let engine = open(config).await;
    until_reads_from(&engine, &[REPLICAS[0], READER]).await;
    (cluster, proxy, engine)
}

/// Makes new connections under the name, some to each of these.
async fn connect_to_each(engine: &Engine, proxy: &Proxy, targets: &[SocketAddr]) {
    let named = engine.handle().node(READER).unwrap();
    let mut leases = Vec::new();
    for target in targets.iter().cycle().take(6) {
        proxy.set_target(*target);
        leases.push(named.acquire().await.unwrap());
    }
    drop(leases);
}

async fn expect_unused(engine: &Engine, capture: &Capture) {
    wait_until("the status says why", async || {
        status_of(engine, READER).reason.is_some_and(|reason| reason.contains("several servers"))
    })
    .await;
    let warned = |warning: &String| warning.contains(READER) && warning.contains("several servers");
    assert!(capture.warnings().iter().any(warned), "{:#?}", capture.warnings());
    until_reads_from(engine, &[REPLICAS[0]]).await;
}

#[tokio::test]
async fn a_name_that_leads_to_two_replicas_is_found_out_and_not_used() {
    let (cluster, proxy, engine) = start("two").await;
    let capture = Capture::start();
    let targets = [cluster.replica(1).addr(), cluster.replica(0).addr()];
    connect_to_each(&engine, &proxy, &targets).await;
    expect_unused(&engine, &capture).await;
    let named = engine.handle().node(READER).unwrap();
    run(&named, "SELECT 1").await.unwrap();
    assert_eq!(node_of(&named), READER);
    engine.close().await;
}

#[tokio::test]
async fn a_name_that_leads_to_a_replica_and_to_the_primary_is_neither() {
    let (cluster, proxy, engine) = start("both").await;
    let capture = Capture::start();
    let targets = [cluster.replica(1).addr(), cluster.primary().addr()];
    connect_to_each(&engine, &proxy, &targets).await;
    expect_unused(&engine, &capture).await;
    for _ in 0..10 {
        let db = engine.handle();
        run(&db, "CREATE TABLE IF NOT EXISTS t (a int)").await.unwrap();
        assert_eq!(node_of(&db), MAIN);
    }
    assert_eq!(engine.status().primary.as_deref(), Some(MAIN));
    engine.close().await;
}

#[tokio::test]
async fn reads_that_must_see_a_write_never_meet_the_other_server_behind_a_name() {
    let (cluster, proxy, engine) = start("floor").await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let behind = cluster.replica(0);
    for round in 1..=5 {
        catch_up(&cluster).await;
        until_reads_from(&engine, &[REPLICAS[0], READER]).await;
        // What the name leads to from now on is behind, while the probes speak with the other.
        behind.pause_replay().await.unwrap();
        proxy.set_target(behind.addr());
        proxy.reset_counters();
        let db = engine.handle();
        run(&db, "INSERT INTO t VALUES (1)").await.unwrap();
        let token = db.token().await.unwrap();
        let read = async || {
            let reader = engine.handle();
            reader.observe(&token);
            let seen = number(&reader, "SELECT count(*) FROM t").await.unwrap();
            assert_eq!(seen, round, "on {}", node_of(&reader));
            node_of(&reader)
        };
        wait_until("the name serves over what is open", async || read().await == READER).await;
        assert_eq!(proxy.accepted(), 0);
        // So many at once need new connections.
        join_all((0..6).map(async |_| read().await)).await;
        assert!(proxy.accepted() > 0);
        // Found out, the name is not used until the engine is opened anew.
        engine.close().await;
        behind.resume_replay().await.unwrap();
        proxy.set_target(cluster.replica(1).addr());
        catch_up(&cluster).await;
        engine.open().await.unwrap();
    }
    engine.close().await;
}

#[tokio::test]
async fn a_server_that_was_restarted_is_one_server() {
    let (cluster, _proxy, engine) = start("restarted").await;
    for _ in 0..3 {
        cluster.replica(1).kill().await.unwrap();
        cluster.replica(1).start().await.unwrap();
        let named = engine.handle().node(READER).unwrap();
        wait_until("it answers", async || run(&named, "SELECT 1").await.is_ok()).await;
        until_reads_from(&engine, &[REPLICAS[0], READER]).await;
        assert_eq!(status_of(&engine, READER).reason, None);
    }
    engine.close().await;
}
