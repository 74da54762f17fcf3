//! Handles that name a node, while others come and go around it.

use flautino::Error;
use flautino_lab::{cluster, node_of, number, run};

use crate::common::{MAIN, Nodes, eager, hasty, open_with, set, these, unknown_node, with_table};

const PORT: &str = "SELECT inet_server_port()::int8";

#[tokio::test]
async fn a_handle_that_names_a_node_that_left_says_so_for_all_that_it_can_do() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "named", &[0, 1], hasty).await;
    let db = engine.handle().node("r1").unwrap();
    run(&db, "SELECT 1").await.unwrap();
    set(&engine, these(&cluster, "named", &[1])).await;

    let error = run(&db, "SELECT 1").await.unwrap_err();
    match Error::of(&error) {
        Some(Error::UnknownNode(unknown)) => {
            assert_eq!(unknown.name, "r1");
            assert_eq!(unknown.known, [MAIN, "r2"]);
        }
        other => panic!("{other:?} in {error:?}"),
    }
    let text = error.to_string();
    assert!(text.contains("`r1`") && text.contains("`r2`"), "{text}");
    let fetched = sqlx::query_scalar::<_, i64>(PORT).fetch_all(&db).await.unwrap_err();
    assert_eq!(unknown_node(&fetched), Some("r1"));
    let leased = db.acquire().await.unwrap_err();
    assert_eq!(unknown_node(&leased), Some("r1"));
    let begun = db.begin().await.unwrap_err();
    assert_eq!(unknown_node(&begun), Some("r1"));
    let closure = db.transaction(async |_| Ok::<_, sqlx::Error>(())).await.unwrap_err();
    assert_eq!(unknown_node(&closure), Some("r1"));
    // The same session without the name is fine.
    run(&db.primary(), "INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(
        number(&db.node("r2").unwrap(), PORT).await.unwrap(),
        i64::from(cluster.replica(1).port())
    );
    // And it may name it again when it is back.
    set(&engine, these(&cluster, "named", &[0, 1])).await;
    assert_eq!(
        number(&db.node("r1").unwrap(), PORT).await.unwrap(),
        i64::from(cluster.replica(0).port())
    );
    engine.close().await;
}

#[tokio::test]
async fn a_handle_that_names_one_that_stays_keeps_to_it_whatever_its_number() {
    let cluster = cluster(3).await;
    let engine = open_with(&cluster, "stays", &[0, 1, 2], eager).await;
    let handles: Vec<_> =
        ["r2", "r3"].iter().map(|name| engine.handle().node(name).unwrap()).collect();
    // From the front, the end and the middle, and back.
    for replicas in [&[1, 2][..], &[0, 1, 2], &[2, 1], &[0, 2, 1]] {
        set(&engine, these(&cluster, "stays", replicas)).await;
        for (index, db) in (1..).zip(&handles) {
            assert_eq!(number(db, PORT).await.unwrap(), i64::from(cluster.replica(index).port()));
            assert_eq!(node_of(db), ["r1", "r2", "r3"][index]);
            let mut tx = db.begin().await.unwrap();
            let port: i64 = sqlx::query_scalar(PORT).fetch_one(&mut tx).await.unwrap();
            assert_eq!(port, i64::from(cluster.replica(index).port()));
            tx.rollback().await.unwrap();
        }
    }
    engine.close().await;
}

#[tokio::test]
async fn a_handle_that_names_main_stays_with_it() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "main", &[], eager).await;
    let db = engine.handle().node(MAIN).unwrap();
    for replicas in [&[0][..], &[], &[0]] {
        set(&engine, these(&cluster, "main", replicas)).await;
        run(&db, "INSERT INTO t VALUES (1)").await.unwrap();
        assert_eq!(number(&db, PORT).await.unwrap(), i64::from(cluster.primary().port()));
        assert_eq!(node_of(&db), MAIN);
    }
    engine.close().await;
}

#[tokio::test]
async fn a_node_of_an_engine_that_is_not_open_leaves_handles_that_say_so() {
    let cluster = cluster(1).await;
    let engine = crate::common::unopened(&cluster, "early", &[0], eager);
    let db = engine.handle().node("r1").unwrap();
    run(&db, "SELECT 1").await.unwrap();
    set(&engine, Nodes::new()).await;
    assert_eq!(unknown_node(&run(&db, "SELECT 1").await.unwrap_err()), Some("r1"));
    engine.open().await.unwrap();
    assert_eq!(unknown_node(&run(&db, "SELECT 1").await.unwrap_err()), Some("r1"));
    engine.close().await;
    assert_eq!(unknown_node(&run(&db, "SELECT 1").await.unwrap_err()), Some("r1"));
}
