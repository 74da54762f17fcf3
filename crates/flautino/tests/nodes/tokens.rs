//! Tokens of sessions that read from nodes that left, or have another number since.

use flautino::Consistency;
use flautino_lab::{cluster, node_of, number, settings, until_served_by, wait_until};

use crate::common::{COUNT, one_ahead, open_with, served_by, set, these, with_table};

#[tokio::test]
async fn a_session_that_read_from_the_last_node_has_a_token_after_that_left() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "last", &[0, 1], settings::frozen).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    let db = served_by(&engine, "r2").await;
    set(&engine, these(&cluster, "last", &[0])).await;
    // In a task, since it must not panic.
    let token = tokio::spawn(async move { db.token().await }).await;
    assert!(token.expect("asking for the token panicked").is_some());
    engine.close().await;
}

#[tokio::test]
async fn the_token_of_what_a_session_saw_is_not_that_of_another_node() {
    // The second is ahead of the others, and so ahead of the one that gets its number.
    let (cluster, engine) = one_ahead("mixed").await;
    let db = served_by(&engine, "r2").await;
    assert_eq!(number(&db, COUNT).await.unwrap(), 1);
    set(&engine, these(&cluster, "mixed", &[1, 2])).await;
    let token = db.token().await.unwrap();
    for _ in 0..40 {
        let next = engine.handle().with_consistency(Consistency::Session);
        next.observe(&token);
        assert_eq!(number(&next, COUNT).await.unwrap(), 1, "with {token}, by {}", node_of(&next));
    }
    engine.close().await;
}

#[tokio::test]
async fn a_read_that_ends_after_its_node_left_is_in_the_token() {
    let cluster = with_table(cluster(2).await).await;
    let engine = open_with(&cluster, "late", &[0, 1], settings::frozen).await;
    until_served_by(&engine, &["r1", "r2"]).await;
    let options =
        flautino::TransactionOptions { read_only: true, ..flautino::TransactionOptions::default() };
    // A transaction on the last node, which then leaves.
    let (db, mut tx) = loop {
        let db = engine.handle().with_consistency(Consistency::Session);
        let tx = db.begin_with(options.clone()).await.unwrap();
        if tx.node() == "r2" {
            break (db, tx);
        }
        tx.rollback().await.unwrap();
    };
    let leaving = {
        let (engine, nodes) = (engine.clone(), these(&cluster, "late", &[0]));
        tokio::spawn(async move { set(&engine, nodes).await })
    };
    wait_until("it is no node any more", async || engine.handle().node("r2").is_err()).await;
    let rows: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut tx).await.unwrap();
    assert_eq!(rows, 0);
    tx.commit().await.unwrap();
    leaving.await.unwrap();
    let reading = db.clone();
    let read = tokio::spawn(async move { number(&reading, COUNT).await.unwrap() }).await;
    assert_eq!(read.expect("the next read panicked"), 0);
    let token = tokio::spawn(async move { db.token().await }).await;
    assert!(token.expect("asking for the token panicked").is_some());
    engine.close().await;
}
