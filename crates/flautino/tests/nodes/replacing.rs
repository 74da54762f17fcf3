//! The same name with another configuration, another name for the same server, and no change.

use flautino_lab::{cluster, number, reader, status_of, until_served_by};

use crate::common::{MAIN, Nodes, eager, names, node, open_with, set, these, until_no_sessions};

const PORT: &str = "SELECT inet_server_port()::int8";

#[tokio::test]
async fn a_name_with_another_configuration_leads_to_the_new_server() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "moved", &[0], eager).await;
    let old = engine.handle().node("r1").unwrap();
    assert_eq!(number(&old, PORT).await.unwrap(), i64::from(cluster.replica(0).port()));
    let nodes = Nodes::from([("r1".to_owned(), node(cluster.replica(1), "moved"))]);
    let report = set(&engine, nodes).await;
    assert_eq!((report.added, report.removed), (vec!["r1".to_owned()], vec!["r1".to_owned()]));
    assert_eq!(names(&engine), [MAIN, "r1"]);
    assert_eq!(status_of(&engine, "r1").port, cluster.replica(1).port());
    let new = engine.handle().node("r1").unwrap();
    assert_eq!(number(&new, PORT).await.unwrap(), i64::from(cluster.replica(1).port()));
    until_served_by(&engine, &["r1"]).await;
    until_no_sessions(cluster.replica(0), "moved").await;
    // The old handle keeps to the name.
    assert_eq!(number(&old, PORT).await.unwrap(), i64::from(cluster.replica(1).port()));
    engine.close().await;
}

#[tokio::test]
async fn a_server_under_another_name_serves_under_that() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "renamed", &[0, 1], eager).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    let mut nodes = these(&cluster, "renamed", &[0, 1]);
    let config = nodes.remove("r1").unwrap();
    nodes.insert("z1".to_owned(), config);
    let report = set(&engine, nodes).await;
    assert_eq!((report.added, report.removed), (vec!["z1".to_owned()], vec!["r1".to_owned()]));
    assert_eq!(names(&engine), [MAIN, "r2", "z1"]);
    until_served_by(&engine, &["z1", "r2"]).await;
    assert_eq!(engine.handle().node("r1").unwrap_err().known, [MAIN, "r2", "z1"]);
    engine.close().await;
}

#[tokio::test]
async fn two_names_may_change_places() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "swapped", &[0, 1], eager).await;
    let nodes = Nodes::from([
        ("r1".to_owned(), node(cluster.replica(1), "swapped")),
        ("r2".to_owned(), node(cluster.replica(0), "swapped")),
    ]);
    let report = set(&engine, nodes).await;
    assert_eq!((report.added.len(), report.removed.len()), (2, 2), "{report:?}");
    until_served_by(&engine, &["r1", "r2"]).await;
    for (name, index) in [("r1", 1), ("r2", 0)] {
        let db = engine.handle().node(name).unwrap();
        assert_eq!(number(&db, PORT).await.unwrap(), i64::from(cluster.replica(index).port()));
    }
    engine.close().await;
}

#[tokio::test]
async fn the_same_nodes_once_more_change_nothing() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "same", &[0, 1], eager).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    let named = engine.handle().node("r2").unwrap();
    let lease = named.acquire().await.unwrap();
    let pid = "SELECT pg_backend_pid()::int8";
    let before = (number(&named, pid).await.unwrap(), status_of(&engine, "r2").statements);
    for _ in 0..5 {
        let report = set(&engine, these(&cluster, "same", &[0, 1])).await;
        assert_eq!(report, flautino::NodesReport::default());
    }
    assert_eq!(number(&named, pid).await.unwrap(), before.0);
    assert!(status_of(&engine, "r2").statements > before.1);
    drop(lease);
    assert_ne!(reader(&engine).await.unwrap(), "no node");
    engine.close().await;
}

#[tokio::test]
async fn another_setting_of_the_same_server_takes_effect() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "setting", &[0], eager).await;
    let mut nodes = these(&cluster, "setting", &[0]);
    let config = nodes.get_mut("r1").unwrap();
    config.options.insert("search_path".to_owned(), "elsewhere".to_owned());
    set(&engine, nodes).await;
    let db = engine.handle().node("r1").unwrap();
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&db).await.unwrap();
    assert_eq!(path, "elsewhere");
    until_served_by(&engine, &["r1"]).await;
    engine.close().await;
}
