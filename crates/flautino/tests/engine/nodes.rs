//! Nodes by name: the named server answers, and nothing escapes to another.

use flautino::{Engine, Error, OpenError, UnknownNode};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{Lab, ask, cluster, config, open, sessions_of, until_sessions, wait_until};
use futures_util::TryStreamExt;

const PORT: &str = "SELECT inet_server_port()";

fn port(node: &Node) -> i32 {
    i32::from(node.port())
}

/// Two primaries that have nothing to do with each other, so that it shows where a write went.
async fn two(name: &str) -> (Cluster, Cluster, Engine) {
    let (main, other) = tokio::join!(cluster(0), cluster(0));
    let mut config = config(&main, name);
    let mut node = config.main.clone();
    node.url = Some(other.primary().url());
    config.extra_nodes.insert("other".to_owned(), node);
    let engine = open(config).await;
    (main, other, engine)
}

async fn has_table(node: &Node, name: &str) -> bool {
    ask::<bool>(node, &format!("SELECT to_regclass('{name}') IS NOT NULL")).await
}

#[tokio::test]
async fn the_named_server_answers_in_queries_streams_and_leases() {
    let Lab { cluster, engine, db, .. } = Lab::named("named").replicas(2).start().await;
    assert_eq!(db.node_name(), None);
    assert_eq!(db.node("main").unwrap().node_name(), Some("main"));
    let main: i32 = sqlx::query_scalar(PORT).fetch_one(&db.primary()).await.unwrap();
    assert_eq!(main, port(cluster.primary()));
    for (index, name) in ["read_replica_1", "read_replica_2"].into_iter().enumerate() {
        let expected = port(cluster.replica(index));
        let replica = db.node(name).unwrap();
        let one: i32 = sqlx::query_scalar(PORT).fetch_one(&replica).await.unwrap();
        assert_eq!(one, expected);
        let streamed: Vec<i32> =
            sqlx::query_scalar::<_, i32>(PORT).fetch(&replica).try_collect().await.unwrap();
        assert_eq!(streamed, [expected]);
        let mut lease = replica.acquire().await.unwrap();
        assert_eq!(lease.node(), name);
        let leased: i32 = sqlx::query_scalar(PORT).fetch_one(&mut lease).await.unwrap();
        assert_eq!(leased, expected);
        let mut tx = replica.begin().await.unwrap();
        assert_eq!(tx.node(), name);
        let inside: i32 = sqlx::query_scalar(PORT).fetch_one(&mut tx).await.unwrap();
        assert_eq!(inside, expected);
        tx.commit().await.unwrap();
        let back: i32 =
            sqlx::query_scalar(PORT).fetch_one(&replica.node("main").unwrap()).await.unwrap();
        assert_eq!(back, main);
    }
    engine.close().await;
}

#[tokio::test]
async fn ddl_goes_to_the_named_node_and_only_there() {
    let (main, other, engine) = two("ddl").await;
    let db = engine.handle().node("other").unwrap();
    sqlx::query("CREATE TABLE made (a int)").execute(&db).await.unwrap();
    assert!(has_table(other.primary(), "made").await);
    assert!(!has_table(main.primary(), "made").await);
    engine.close().await;
}

#[tokio::test]
async fn a_transaction_on_a_named_node_stays_there_and_one_on_main_does_too() {
    let (main, other, engine) = two("stays").await;
    for node in [main.primary(), other.primary()] {
        node.execute("CREATE TABLE t (a int)").await.unwrap();
    }
    let db = engine.handle();
    let named = db.node("other").unwrap();
    let mut tx = named.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    // A statement on another node meanwhile is no part of it, and says so by its handle.
    sqlx::query("INSERT INTO t VALUES (2)").execute(&db).await.unwrap();
    tx.rollback().await.unwrap();
    named
        .transaction(async |tx| {
            assert_eq!(tx.node(), "other");
            sqlx::query("INSERT INTO t VALUES (3)").execute(&mut *tx).await
        })
        .await
        .unwrap();
    let rows = "SELECT array_agg(a)::text FROM t";
    assert_eq!(ask::<String>(main.primary(), rows).await, "{2}");
    assert_eq!(ask::<String>(other.primary(), rows).await, "{3}");
    engine.close().await;
}

#[tokio::test]
async fn an_unknown_name_lists_the_known_ones() {
    let lab = Lab::named("unknown").replicas(1).start_closed().await;
    let err: UnknownNode = lab.engine.handle().node("nowhere").unwrap_err();
    assert_eq!(err.name, "nowhere");
    assert_eq!(err.known, ["main", "read_replica_1"]);
    let text = err.to_string();
    for part in ["nowhere", "main", "read_replica_1"] {
        assert!(text.contains(part), "{text}");
    }
    let inside: sqlx::Error = err.into();
    assert!(matches!(Error::of(&inside), Some(Error::UnknownNode(_))), "{inside:?}");
    assert!(lab.engine.pool("nowhere").is_none());
}

#[tokio::test]
async fn the_pools_of_all_nodes_are_open_after_open_and_a_query_adds_no_connection() {
    let Lab { cluster, engine, .. } =
        Lab::named("all_open").replicas(2).always_warm().start().await;
    for node in cluster.nodes() {
        until_sessions(node, "all_open", 1).await;
    }
    let replica = engine.handle().node("read_replica_2").unwrap();
    for _ in 0..20 {
        sqlx::query(PORT).execute(&replica).await.unwrap();
    }
    until_sessions(cluster.replica(1), "all_open", 1).await;
    engine.close().await;
    for node in cluster.nodes() {
        wait_until("the pools are closed", async || sessions_of(node, "all_open").await == 0).await;
    }
}

#[tokio::test]
async fn a_replica_that_is_down_at_open_is_a_warning_and_works_once_it_is_back() {
    let cluster = cluster(1).await;
    cluster.replica(0).stop().await.unwrap();
    let engine = Engine::new(config(&cluster, "late")).unwrap();
    let report = engine.open().await.unwrap();
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].contains("read_replica_1"), "{report:?}");
    let db = engine.handle();
    let main: i32 = sqlx::query_scalar(PORT).fetch_one(&db).await.unwrap();
    assert_eq!(main, port(cluster.primary()));
    let replica = db.node("read_replica_1").unwrap();
    sqlx::query(PORT).execute(&replica).await.unwrap_err();

    cluster.replica(0).start().await.unwrap();
    wait_until("the replica answers", async || {
        let answer = sqlx::query_scalar::<_, i32>(PORT).fetch_one(&replica).await;
        answer.is_ok_and(|answer| answer == port(cluster.replica(0)))
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn an_extra_node_whose_database_is_missing_is_a_warning_too() {
    let cluster = cluster(1).await;
    let mut config = config(&cluster, "missing");
    let node = config.extra_nodes.get_mut("read_replica_1").unwrap();
    node.url = Some(cluster.replica(0).url_for("no_such_database"));
    let engine = Engine::new(config).unwrap();
    let opened: Result<_, OpenError> = engine.open().await;
    let report = opened.unwrap();
    assert!(report.warnings[0].contains("no_such_database"), "{report:?}");
    engine.close().await;
}
