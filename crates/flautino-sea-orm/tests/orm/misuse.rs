//! What Rust's borrows forbid with flautino's own transactions, and SeaORM's traits do not: an error that says what
//! to do, and never a commit of what may have been meant to go.

use flautino_lab::wait_until;
use flautino_sea_orm::{Db, Transaction};
use futures_util::StreamExt;
use sea_orm::{ActiveModelTrait, DbErr, EntityTrait, StreamTrait, TransactionTrait};

use crate::common::{alone, cake, new_cake, stored};

async fn bake(tx: &Transaction, name: &str) -> Result<(), DbErr> {
    new_cake(name).insert(tx).await.map(drop)
}

fn says(result: Result<(), DbErr>, text: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

#[tokio::test]
async fn a_statement_through_the_outer_one_while_a_nested_one_is_open_is_refused() {
    let lab = alone("outer").start().await;
    let tx = Db::from(&lab.engine).begin().await.unwrap();
    let nested = tx.begin().await.unwrap();
    says(bake(&tx, "outer").await, "nested in this one is open");
    says(tx.begin().await.map(drop), "nested in this one is open");
    bake(&nested, "nested").await.unwrap();
    nested.commit().await.unwrap();
    bake(&tx, "outer").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "nested,outer");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_commit_before_the_nested_one_s_end_fails_and_keeps_nothing_of_both() {
    let lab = alone("commit").start().await;
    let db = Db::from(&lab.engine);
    let tx = db.begin().await.unwrap();
    bake(&tx, "kept").await.unwrap();
    let outer = tx.begin().await.unwrap();
    bake(&outer, "outer").await.unwrap();
    let inner = outer.begin().await.unwrap();
    bake(&inner, "inner").await.unwrap();
    says(outer.commit().await, "nested in it was still open");
    says(bake(&inner, "late").await, "over");
    says(inner.commit().await, "over");
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "kept");

    let tx = db.begin().await.unwrap();
    let nested = tx.begin().await.unwrap();
    bake(&nested, "nested").await.unwrap();
    says(tx.commit().await, "nested in it was still open");
    says(bake(&nested, "late").await, "over");
    says(nested.rollback().await, "over");
    assert_eq!(stored(&lab).await, "kept");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_rollback_of_the_outer_one_ends_what_is_nested_in_it() {
    let lab = alone("rollback").start().await;
    let tx = Db::from(&lab.engine).begin().await.unwrap();
    for drop_it in [false, true] {
        let outer = tx.begin().await.unwrap();
        bake(&outer, "outer").await.unwrap();
        let inner = outer.begin().await.unwrap();
        bake(&inner, "inner").await.unwrap();
        if drop_it {
            drop(outer);
        } else {
            outer.rollback().await.unwrap();
        }
        says(bake(&inner, "late").await, "over");
    }
    bake(&tx, "kept").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "kept");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_statement_while_a_stream_of_the_same_transaction_is_open_is_an_error_and_no_deadlock() {
    let lab = alone("held").start().await;
    let tx = Db::from(&lab.engine).begin().await.unwrap();
    bake(&tx, "a").await.unwrap();
    {
        let mut cakes = cake::Entity::find().stream(&tx).await.unwrap();
        cakes.next().await.unwrap().unwrap();
        says(bake(&tx, "b").await, "in use by a stream");
        says(
            tx.stream_raw(sea_orm::Statement::from_string(
                sea_orm::DbBackend::Postgres,
                "SELECT 1",
            ))
            .await
            .map(drop),
            "in use by a stream",
        );
    }
    {
        let _held = tx.lock().await.unwrap();
        says(bake(&tx, "b").await, "in use by a stream of rows or by `lock`");
    }
    bake(&tx, "c").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "a,c");
    lab.engine.close().await;
}

#[tokio::test]
async fn statements_that_are_sent_at_a_time_wait_for_each_other() {
    let lab = alone("at a time").start().await;
    let tx = Db::from(&lab.engine).begin().await.unwrap();
    let names: Vec<_> = (10..30).map(|n| n.to_string()).collect();
    let all = names.iter().map(|name| bake(&tx, name));
    for done in futures_util::future::join_all(all).await {
        done.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await.split(',').count(), 20);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_nested_one_that_was_given_up_while_it_began_costs_nothing_but_itself_or_says_so() {
    let lab = alone("given up").connections(1).start().await;
    let db = Db::from(&lab.engine);
    for polls in 1..5 {
        let tx = db.begin().await.unwrap();
        bake(&tx, &format!("{polls}")).await.unwrap();
        let begun = flautino_lab::polled_at_most(polls, tx.begin()).await;
        let ended = matches!(begun, Some(Ok(_)));
        drop(begun);
        let committed = tx.commit().await;
        assert!(committed.is_ok() || !ended, "{committed:?}");
        let is_there = stored(&lab).await.split(',').any(|name| name == polls.to_string());
        assert_eq!(is_there, committed.is_ok());
    }
    wait_until("the connection is back", async || lab.pool().in_use == 0).await;
    lab.engine.close().await;
}
