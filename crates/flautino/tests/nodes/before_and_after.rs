//! Other nodes before `open` and after `close`.

use flautino::{Engine, PoolConfig};
use flautino_cluster::Cluster;
use flautino_lab::{cluster, node_of, number, run, until_served_by};
use sqlx::postgres::PgPoolOptions;

use crate::common::{
    COUNT, MAIN, Nodes, eager, is_closed, names, node, open_with, sessions, set, these,
    unknown_node, unopened, until_no_sessions, with_table,
};

#[tokio::test]
async fn before_open_it_says_what_open_opens() {
    let cluster = cluster(2).await;
    let engine = unopened(&cluster, "before", &[0], eager);
    let old = engine.handle().node("r1").unwrap();
    let report = set(&engine, these(&cluster, "before", &[1])).await;
    assert_eq!((report.added, report.removed), (vec!["r2".to_owned()], vec!["r1".to_owned()]));
    assert_eq!(names(&engine), [MAIN, "r2"]);
    // Still without a pool, as all queries before `open`.
    run(&engine.handle().node("r2").unwrap(), "SELECT 1").await.unwrap();
    assert_eq!(unknown_node(&run(&old, "SELECT 1").await.unwrap_err()), Some("r1"));

    engine.open().await.unwrap();
    until_served_by(&engine, &["r2"]).await;
    assert_eq!(unknown_node(&run(&old, "SELECT 1").await.unwrap_err()), Some("r1"));
    assert_eq!(sessions(cluster.replica(0), "before").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn before_open_all_nodes_may_go() {
    let cluster = cluster(1).await;
    let engine = unopened(&cluster, "none", &[0], eager);
    set(&engine, Nodes::new()).await;
    assert!(!engine.has_replicas());
    engine.open().await.unwrap();
    assert_eq!(names(&engine), [MAIN]);
    let db = engine.handle();
    run(&db, "SELECT 1").await.unwrap();
    assert_eq!(node_of(&db), MAIN);
    assert_eq!(engine.status().decisions.get("main_node"), Some(&1));
    engine.close().await;
}

#[tokio::test]
async fn after_close_it_says_what_the_next_open_opens() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "after", &[0], eager).await;
    for round in 0..2 {
        until_served_by(&engine, &[["r1", "r2"][round]]).await;
        engine.close().await;
        let next = [1, 0][round];
        let report = set(&engine, these(&cluster, "after", &[next])).await;
        assert_eq!((report.added.len(), report.removed.len()), (1, 1), "{report:?}");
        assert!(!engine.status().open);
        engine.open().await.unwrap();
    }
    until_served_by(&engine, &["r1"]).await;
    until_no_sessions(cluster.replica(1), "after").await;
    engine.close().await;
}

#[tokio::test]
async fn after_close_a_node_that_came_since_takes_no_statement_either() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "shut", &[0], eager).await;
    let stays = engine.handle().node("r1").unwrap();
    engine.close().await;
    set(&engine, these(&cluster, "shut", &[0, 1])).await;
    for name in [MAIN, "r1", "r2"] {
        let db = engine.handle().node(name).unwrap();
        // "After `close` they fail with `Error::Closed`."
        let result = run(&db, COUNT).await;
        assert!(result.as_ref().is_err_and(is_closed), "{name}: {result:?}");
        assert!(db.begin().await.is_err_and(|error| is_closed(&error)), "{name}");
        assert!(engine.pool(name).is_none(), "{name}");
    }
    assert!(run(&engine.handle(), COUNT).await.is_err_and(|error| is_closed(&error)));
    engine.open().await.unwrap();
    assert_eq!(number(&stays, COUNT).await.unwrap(), 0);
    engine.close().await;
}

#[tokio::test]
async fn a_pool_that_existed_can_get_replicas() {
    let cluster = with_table(cluster(1).await).await;
    let pool = PgPoolOptions::new().connect_with(cluster.primary().connect_options());
    let engine = Engine::from_pool(pool.await.unwrap());
    set(&engine, these(&cluster, "given", &[0])).await;
    until_served_by(&engine, &["r1"]).await;
    let db = engine.handle();
    run(&db, "INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(node_of(&db), MAIN);
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    engine.close().await;
    until_no_sessions(cluster.replica(0), "given").await;
}

#[tokio::test]
async fn set_while_open_waits_is_done_after_it() {
    let cluster: Cluster = cluster(1).await;
    let engine = unopened(&cluster, "turn", &[], eager);
    let pool = PoolConfig::default();
    let (opened, report) = tokio::join!(
        engine.open_with(pool),
        engine.set_nodes(Nodes::from([("r1".to_owned(), node(cluster.replica(0), "turn"))]))
    );
    assert!(!opened.unwrap().already_open);
    assert_eq!(report.unwrap().added, ["r1"]);
    until_served_by(&engine, &["r1"]).await;
    engine.close().await;
    for server in cluster.nodes() {
        until_no_sessions(server, "turn").await;
    }
}
