//! Savepoints: part of a transaction, undone on its own.

use flautino::{Error, Transaction};
use flautino_cluster::Cluster;
use flautino_lab::{Lab, ask, polled_at_most, sqlstate};

async fn start(name: &str) -> Lab {
    Lab::named(name).table("t (a int)").start().await
}

async fn insert(tx: &mut Transaction, value: i32) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO t VALUES ($1)").bind(value).execute(tx).await.map(drop)
}

/// What a connection of its own sees.
async fn stored(cluster: &Cluster) -> String {
    let sql = "SELECT coalesce(string_agg(a::text, ',' ORDER BY a), '') FROM t";
    ask(cluster.primary(), sql).await
}

#[tokio::test]
async fn committed_it_stays_and_dropped_or_rolled_back_it_goes() {
    let Lab { cluster, engine, db, .. } = start("savepoints").await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    let mut kept = tx.savepoint().await.unwrap();
    insert(&mut kept, 2).await.unwrap();
    kept.commit().await.unwrap();
    let mut undone = tx.savepoint().await.unwrap();
    insert(&mut undone, 3).await.unwrap();
    undone.rollback().await.unwrap();
    let mut dropped = tx.savepoint().await.unwrap();
    insert(&mut dropped, 4).await.unwrap();
    drop(dropped);
    insert(&mut tx, 5).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&cluster).await, "1,2,5");
    engine.close().await;
}

#[tokio::test]
async fn an_error_behind_a_savepoint_that_is_undone_does_not_cost_the_transaction() {
    let Lab { cluster, engine, db, .. } = start("caught").await;
    for drop_it in [false, true] {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        let mut attempt = tx.savepoint().await.unwrap();
        sqlx::query("SELECT nothing").execute(&mut attempt).await.unwrap_err();
        if drop_it {
            drop(attempt);
        } else {
            attempt.rollback().await.unwrap();
        }
        insert(&mut tx, 2).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(stored(&cluster).await, "1,1,2,2");

    // Kept, the failed one refuses, and is undone.
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 3).await.unwrap();
    let mut attempt = tx.savepoint().await.unwrap();
    sqlx::query("SELECT nothing").execute(&mut attempt).await.unwrap_err();
    assert_eq!(sqlstate(&attempt.commit().await.unwrap_err()), "25P02");
    tx.commit().await.unwrap();
    assert_eq!(stored(&cluster).await, "1,1,2,2,3");
    engine.close().await;
}

#[tokio::test]
async fn an_error_in_a_nested_savepoint_that_the_outer_one_catches_undoes_the_inner_writes() {
    let Lab { cluster, engine, db, .. } = start("nested").await;
    let mut tx = db.begin().await.unwrap();
    let mut outer = tx.savepoint().await.unwrap();
    insert(&mut outer, 1).await.unwrap();
    {
        let mut inner = outer.savepoint().await.unwrap();
        insert(&mut inner, 2).await.unwrap();
        let mut innermost = inner.named_savepoint("deep").await.unwrap();
        insert(&mut innermost, 3).await.unwrap();
        innermost.commit().await.unwrap();
        sqlx::query("SELECT nothing").execute(&mut inner).await.unwrap_err();
    }
    insert(&mut outer, 4).await.unwrap();
    outer.commit().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&cluster).await, "1,4");
    engine.close().await;
}

#[tokio::test]
async fn an_inner_rollback_does_not_end_the_outer_transaction() {
    let Lab { cluster, engine, db, .. } = start("inner").await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    tx.savepoint().await.unwrap().rollback().await.unwrap();
    insert(&mut tx, 2).await.unwrap();
    assert_eq!(stored(&cluster).await, "", "nothing is committed yet");
    tx.rollback().await.unwrap();
    assert_eq!(stored(&cluster).await, "");
    engine.close().await;
}

#[tokio::test]
async fn any_name_will_do_and_is_never_sql() {
    let Lab { cluster, engine, db, .. } = start("names").await;
    cluster.primary().execute("CREATE TABLE keep (a int)").await.unwrap();
    let names = ["a-b", "\"; drop table keep; --", "select", "ä ö", "", "x'y", "_sqlx_savepoint_1"];
    for (index, name) in (0..).zip(names) {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, index).await.unwrap();
        match tx.named_savepoint(name).await {
            Ok(mut savepoint) => {
                insert(&mut savepoint, 100).await.unwrap();
                savepoint.rollback().await.unwrap();
            }
            // PostgreSQL takes no empty name; it is refused before it costs the transaction.
            Err(err) => assert!(name.is_empty(), "{name}: {err}"),
        }
        tx.commit().await.unwrap();
    }
    ask::<i64>(cluster.primary(), "SELECT count(*) FROM keep").await;
    assert_eq!(stored(&cluster).await, "0,1,2,3,4,5,6");

    // And SQL of one's own finds it.
    let mut tx = db.begin().await.unwrap();
    let mut savepoint = tx.named_savepoint("a-b").await.unwrap();
    insert(&mut savepoint, 7).await.unwrap();
    sqlx::query("ROLLBACK TO SAVEPOINT \"a-b\"").execute(&mut savepoint).await.unwrap();
    savepoint.commit().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&cluster).await, "0,1,2,3,4,5,6");
    engine.close().await;
}

#[tokio::test]
async fn a_savepoint_cancelled_while_it_is_set_costs_the_transaction_and_says_so() {
    let Lab { cluster, engine, db, .. } = start("cancelled").await;
    for polls in 1..4 {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        if polled_at_most(polls, tx.savepoint()).await.is_some() {
            continue;
        }
        let lost = insert(&mut tx, 2).await.unwrap_err();
        assert!(matches!(Error::of(&lost), Some(Error::TransactionLost)), "{lost:?}");
        let lost = tx.commit().await.unwrap_err();
        assert!(matches!(Error::of(&lost), Some(Error::TransactionLost)), "{lost:?}");
        assert_eq!(stored(&cluster).await, "");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_savepoint_in_an_aborted_transaction_is_refused_and_commit_still_tells() {
    let Lab { cluster, engine, db, .. } = start("late").await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    sqlx::query("SELECT nothing").execute(&mut tx).await.unwrap_err();
    assert_eq!(sqlstate(&tx.savepoint().await.unwrap_err()), "25P02");
    insert(&mut tx, 2).await.unwrap_err();
    tx.commit().await.unwrap_err();
    assert_eq!(stored(&cluster).await, "");
    engine.close().await;
}
