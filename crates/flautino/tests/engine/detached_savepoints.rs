//! Savepoints that do not borrow their transaction.

use flautino::{Error, Transaction};
use flautino_lab::{Lab, ask};

async fn insert(tx: &mut Transaction, value: i32) {
    sqlx::query("INSERT INTO t VALUES ($1)").bind(value).execute(tx).await.unwrap();
}

async fn stored(lab: &Lab) -> String {
    let sql = "SELECT coalesce(string_agg(a::text, ',' ORDER BY a), '') FROM t";
    ask(lab.primary(), sql).await
}

#[tokio::test]
async fn attached_again_they_are_kept_undone_and_dropped_as_any_other() {
    let lab = Lab::named("attached").table("t (a int)").start().await;
    let mut tx = lab.db.begin().await.unwrap();
    let kept = tx.savepoint().await.unwrap().detach();
    insert(&mut tx, 1).await;
    let undone = tx.savepoint().await.unwrap().detach();
    insert(&mut tx, 2).await;
    tx.attach(undone).rollback().await.unwrap();
    let dropped = tx.savepoint().await.unwrap().detach();
    insert(&mut tx, 3).await;
    sqlx::query("SELECT nothing").execute(&mut tx).await.unwrap_err();
    drop(tx.attach(dropped));
    insert(&mut tx, 4).await;
    tx.attach(kept).commit().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "1,4");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_transaction_with_one_that_is_open_or_was_ended_out_of_turn_is_not_committed() {
    let lab = Lab::named("left open").table("t (a int)").start().await;
    for out_of_turn in [false, true] {
        let mut tx = lab.db.begin().await.unwrap();
        insert(&mut tx, 1).await;
        let outer = tx.savepoint().await.unwrap().detach();
        let _inner = tx.savepoint().await.unwrap().detach();
        insert(&mut tx, 2).await;
        if out_of_turn {
            let lost = tx.attach(outer).commit().await.unwrap_err();
            assert!(matches!(Error::of(&lost), Some(Error::TransactionLost)), "{lost:?}");
        }
        let lost = tx.commit().await.unwrap_err();
        assert!(matches!(Error::of(&lost), Some(Error::TransactionLost)), "{lost:?}");
        assert_eq!(stored(&lab).await, "");
    }
    lab.engine.close().await;
}
