//! Where statements go while all is well: reads to every replica, cascading ones too, and all
//! else to the primary.

use std::collections::BTreeMap;

use flautino::RoutingMode;
use flautino::router::Reason;
use flautino_lab::{ask, catch_up, config, node_of, number, run, sqlstate, status_of, wait_until};

use crate::common::{
    MAIN, REPLICAS, cascade, decisions, is_replica, named, open_default, open_reading, why,
};

const PORT: &str = "SELECT inet_server_port()";

#[tokio::test]
async fn reads_spread_over_all_replicas_and_the_servers_agree_who_answered() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "spread").await;
    let ports: BTreeMap<i64, &str> =
        named(&cluster).map(|(name, node)| (i64::from(node.port()), name)).collect();
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    wait_until("each has served a hundred", async || {
        for _ in 0..30 {
            let db = engine.handle();
            let port: i32 = sqlx::query_scalar(PORT).fetch_one(&db).await.unwrap();
            let node = node_of(&db);
            assert_eq!(ports[&i64::from(port)], node);
            assert_ne!(node, MAIN);
            *served.entry(node).or_default() += 1;
        }
        REPLICAS.iter().all(|name| served.get(*name).is_some_and(|number| *number >= 100))
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn writes_run_on_the_primary_and_reach_every_replica() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "writes").await;
    let on_replicas = || REPLICAS.map(|name| status_of(&engine, name).statements);
    let before = on_replicas();
    let db = engine.handle();
    for sql in [
        "CREATE TABLE t (a int)",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 2",
        "WITH gone AS (DELETE FROM t RETURNING a) SELECT a FROM gone",
        "INSERT INTO t VALUES (3)",
        "SELECT a FROM t FOR UPDATE",
        "SELECT set_config('work_mem', '8MB', false)",
        "SELECT pg_advisory_xact_lock(1)",
        "TRUNCATE t",
        "INSERT INTO t VALUES (4)",
    ] {
        run(&db, sql).await.unwrap();
        assert_eq!(node_of(&db), MAIN, "{sql}");
    }
    assert_eq!(on_replicas(), before);
    catch_up(&cluster).await;
    for node in cluster.nodes() {
        assert_eq!(ask::<i32>(node, "SELECT sum(a)::int FROM t").await, 4);
    }
    engine.close().await;
}

#[tokio::test]
async fn primary_replica_and_node_choose_the_node_and_the_reason_says_so() {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    let engine = open_default(&cluster, "chosen").await;
    let db = || engine.handle().recorded();
    assert_eq!(why(&db().primary(), PORT).await, (MAIN.to_owned(), Reason::PrimaryChosen));
    let (node, reason) = why(&db().replica(), PORT).await;
    assert!(is_replica(&node), "{node}");
    assert_eq!(reason, Reason::ReplicaChosen);
    for (name, cluster_node) in named(&cluster) {
        let chosen = db().node(name).unwrap();
        assert_eq!(why(&chosen, PORT).await, (name.to_owned(), Reason::NamedNode));
        let port: i32 = sqlx::query_scalar(PORT).fetch_one(&chosen).await.unwrap();
        assert_eq!(port, i32::from(cluster_node.port()));
    }
    // A write on a replica is refused there, whoever chose it, and not sent elsewhere.
    for chosen in [db().replica(), db().node(REPLICAS[2]).unwrap()] {
        let refused = run(&chosen, "INSERT INTO t VALUES (1)").await.unwrap_err();
        assert_eq!(sqlstate(&refused), "25006");
        assert!(is_replica(&node_of(&chosen)));
    }
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn in_primary_mode_every_statement_goes_to_the_primary() {
    let cluster = cascade().await;
    let mut config = config(&cluster, "mode");
    config.routing.mode = RoutingMode::Primary;
    let engine = open_reading(config, &[MAIN]).await;
    for _ in 0..30 {
        let read = why(&engine.handle().recorded(), PORT).await;
        assert_eq!(read, (MAIN.to_owned(), Reason::PrimaryMode));
    }
    assert!(decisions(&engine, Reason::PrimaryMode) >= 30);
    // Whoever names a node still gets it.
    let named = engine.handle().recorded().node(REPLICAS[1]).unwrap();
    assert_eq!(why(&named, PORT).await, (REPLICAS[1].to_owned(), Reason::NamedNode));
    let own = engine.handle();
    run(&own, "CREATE TABLE t (a int)").await.unwrap();
    assert_eq!(number(&own, "SELECT count(*) FROM t").await.unwrap(), 0);
    assert!(own.token().await.is_some());
    engine.close().await;
}
