//! Nodes that are not what the configuration takes them for: each is named in the log and in the
//! status, none is used wrongly, and whoever asks for it by name still gets it.

use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{
    Capture, ask, cluster, config, node_of, number, open, run, status_of, wait_until,
};

use crate::common::{MAIN, REPLICAS, until_reads_from};

const BAD: &str = "bad";

/// A primary with one good replica, and the configuration with a third node at `url`.
fn with_bad(cluster: &Cluster, name: &str, url: String) -> EngineConfig {
    let mut config = config(cluster, name);
    config.extra_nodes.retain(|name, _| name == REPLICAS[0]);
    let bad = NodeConfig { url: Some(url), ..config.main.clone() };
    config.extra_nodes.insert(BAD.to_owned(), bad);
    config
}

async fn start(name: &str) -> Cluster {
    let cluster = cluster(1).await;
    cluster.primary().execute(&format!("CREATE TABLE {name} (a int)")).await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    cluster
}

/// The node is not used, the log and the status say so with `word`, and the app serves.
async fn expect_unused(engine: &Engine, capture: &Capture, table: &str, node: &Node, word: &str) {
    wait_until("the status says why", async || {
        status_of(engine, BAD).reason.is_some_and(|reason| reason.contains(word))
    })
    .await;
    let warned = |warning: &String| warning.contains(BAD) && warning.contains(word);
    assert!(capture.warnings().iter().any(warned), "{:#?}", capture.warnings());
    let before = status_of(engine, BAD).statements;
    until_reads_from(engine, &[REPLICAS[0]]).await;
    let db = engine.handle();
    for _ in 0..30 {
        run(&db, &format!("INSERT INTO {table} VALUES (1)")).await.unwrap();
        assert_eq!(node_of(&db), MAIN);
        run(&engine.handle(), &format!("SELECT count(*) FROM {table}")).await.unwrap();
    }
    assert_eq!(status_of(engine, BAD).statements, before);
    assert_eq!(engine.status().primary.as_deref(), Some(MAIN));

    let named = db.node(BAD).unwrap();
    let port = number(&named, "SELECT inet_server_port()::int8").await.unwrap();
    assert_eq!(port, i64::from(node.port()));
    assert_eq!(node_of(&named), BAD);
}

#[tokio::test]
async fn a_replica_of_another_cluster_is_not_read_from() {
    let (cluster, other) = tokio::join!(start("t"), start("t"));
    let capture = Capture::start();
    let engine = open(with_bad(&cluster, "other", other.replica(0).url())).await;
    expect_unused(&engine, &capture, "t", other.replica(0), "another cluster").await;
    let status = status_of(&engine, BAD);
    assert_eq!((status.lag_bytes, status.lag_ms), (None, None), "nothing to compare");
    engine.close().await;
}

#[tokio::test]
async fn an_independent_primary_takes_no_writes_and_no_reads() {
    let (cluster, other) = tokio::join!(start("t"), start("t"));
    let capture = Capture::start();
    let engine = open(with_bad(&cluster, "primary", other.primary().url())).await;
    expect_unused(&engine, &capture, "t", other.primary(), "another cluster").await;
    assert_eq!(ask::<i64>(other.primary(), "SELECT count(*) FROM t").await, 0);

    // Nor does it when the true primary is gone.
    cluster.primary().kill().await.unwrap();
    wait_until("it is known to be gone", async || engine.status().primary.is_none()).await;
    run(&engine.handle(), "INSERT INTO t VALUES (1)").await.unwrap_err();
    run(&engine.handle(), "SELECT 1").await.unwrap();
    assert_eq!(ask::<i64>(other.primary(), "SELECT count(*) FROM t").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn of_two_primaries_of_one_system_the_one_of_the_lower_timeline_is_ignored() {
    let cluster = cluster(2).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    for replica in [0, 1] {
        cluster.replica(replica).catch_up_with(cluster.primary()).await.unwrap();
    }
    // The second copy is promoted, and the first follows it: the former primary is the stray. The first
    // is down meanwhile, so that it gets nothing that the second has not.
    let (first, second) = (cluster.replica(0), cluster.replica(1));
    first.stop().await.unwrap();
    second.catch_up_with(cluster.primary()).await.unwrap();
    second.promote().await.unwrap();
    first.follow(second).await.unwrap();
    first.start().await.unwrap();
    first.wait_until_streaming().await.unwrap();
    let capture = Capture::start();
    let mut config = with_bad(&cluster, "stray", cluster.primary().url());
    config.main.url = Some(cluster.replica(1).url());
    let engine = open(config).await;
    expect_unused(&engine, &capture, "t", cluster.primary(), "takes writes").await;
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn two_names_for_one_replica_are_one_and_the_second_is_not_used() {
    let cluster = start("t").await;
    let capture = Capture::start();
    let mut config = with_bad(&cluster, "twin", String::new());
    // The name that comes later in the configuration's order is the one too many.
    let node = config.extra_nodes.remove(BAD).unwrap();
    let good = config.extra_nodes.remove(REPLICAS[0]).unwrap();
    config.extra_nodes.insert("a_first".to_owned(), good.clone());
    config.extra_nodes.insert(BAD.to_owned(), NodeConfig { url: good.url, ..node });
    let engine = open(config).await;
    wait_until("the status says why", async || {
        status_of(&engine, BAD).reason.is_some_and(|reason| reason.contains("same server"))
    })
    .await;
    assert!(status_of(&engine, BAD).reason.unwrap().contains("a_first"));
    assert!(capture.warnings().iter().any(|warning| warning.contains("same server")));
    until_reads_from(&engine, &["a_first"]).await;
    assert_eq!(status_of(&engine, "a_first").reason, None);
    let named = engine.handle().node(BAD).unwrap();
    run(&named, "SELECT 1").await.unwrap();
    assert_eq!(node_of(&named), BAD);
    engine.close().await;
}

#[tokio::test]
async fn a_second_name_for_the_primary_is_neither_a_replica_nor_another_primary() {
    let cluster = start("t").await;
    let capture = Capture::start();
    let engine = open(with_bad(&cluster, "twice", cluster.primary().url())).await;
    expect_unused(&engine, &capture, "t", cluster.primary(), "same server").await;
    assert!(status_of(&engine, BAD).reason.unwrap().contains(MAIN));
    engine.close().await;
}

#[tokio::test]
async fn a_node_that_is_gone_at_open_is_named_and_joins_when_it_comes() {
    let cluster = cluster(2).await;
    cluster.replica(1).stop().await.unwrap();
    let capture = Capture::start();
    let engine = Engine::new(config(&cluster, "gone")).unwrap();
    let report = engine.open().await.unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains(REPLICAS[1])), "{report:?}");
    assert!(capture.warnings().iter().any(|warning| warning.contains(REPLICAS[1])));
    assert!(status_of(&engine, REPLICAS[1]).reason.is_some());
    until_reads_from(&engine, &REPLICAS[..1]).await;
    let named = engine.handle().node(REPLICAS[1]).unwrap();
    run(&named, "SELECT 1").await.unwrap_err();
    cluster.replica(1).start().await.unwrap();
    until_reads_from(&engine, &REPLICAS[..2]).await;
    wait_until("nothing speaks against it", async || {
        status_of(&engine, REPLICAS[1]).reason.is_none()
    })
    .await;
    run(&named, "SELECT 1").await.unwrap();
    engine.close().await;
}
