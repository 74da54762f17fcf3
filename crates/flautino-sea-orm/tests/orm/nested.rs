//! Transactions in transactions: savepoints.

use flautino_sea_orm::{Db, Transaction};
use sea_orm::{
    AccessMode, ActiveModelTrait, ConnectionTrait, DbErr, EntityTrait, IsolationLevel,
    PaginatorTrait, TransactionError, TransactionTrait,
};

use crate::common::{alone, cake, new_cake, stored};

async fn bake(tx: &Transaction, name: &str) {
    new_cake(name).insert(tx).await.unwrap();
}

#[tokio::test]
async fn two_deep_each_level_is_kept_or_undone_on_its_own() {
    let lab = alone("two deep").start().await;
    let db = Db::from(&lab.engine);
    let tx = db.begin().await.unwrap();
    bake(&tx, "1").await;
    let outer = tx.begin().await.unwrap();
    bake(&outer, "2").await;
    let inner = outer.begin().await.unwrap();
    bake(&inner, "3").await;
    assert_eq!(cake::Entity::find().count(&inner).await.unwrap(), 3);
    inner.rollback().await.unwrap();
    let inner = outer.begin().await.unwrap();
    bake(&inner, "4").await;
    inner.commit().await.unwrap();
    let inner = outer.begin().await.unwrap();
    bake(&inner, "5").await;
    drop(inner);
    outer.commit().await.unwrap();
    let outer = tx.begin().await.unwrap();
    bake(&outer, "6").await;
    let inner = outer.begin().await.unwrap();
    bake(&inner, "7").await;
    inner.commit().await.unwrap();
    outer.rollback().await.unwrap();
    bake(&tx, "8").await;
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "1,2,4,8");
    lab.engine.close().await;
}

#[tokio::test]
async fn what_an_inner_one_committed_goes_with_the_outermost() {
    let lab = alone("outermost").start().await;
    let db = Db::from(&lab.engine);
    for drop_it in [false, true] {
        let tx = db.begin().await.unwrap();
        let nested = tx.begin().await.unwrap();
        bake(&nested, "1").await;
        nested.commit().await.unwrap();
        if drop_it {
            drop(tx);
        } else {
            tx.rollback().await.unwrap();
        }
    }
    assert_eq!(stored(&lab).await, "");
    lab.engine.close().await;
}

#[tokio::test]
async fn an_error_in_an_inner_one_does_not_cost_the_outer() {
    let lab = alone("caught").start().await;
    let db = Db::from(&lab.engine);
    for drop_it in [false, true] {
        let tx = db.begin().await.unwrap();
        bake(&tx, if drop_it { "2" } else { "1" }).await;
        let nested = tx.begin().await.unwrap();
        nested.execute_unprepared("SELECT nothing").await.unwrap_err();
        if drop_it {
            drop(nested);
        } else {
            nested.rollback().await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    // Kept, the failed one refuses, and is undone.
    let tx = db.begin().await.unwrap();
    let nested = tx.begin().await.unwrap();
    bake(&nested, "3").await;
    nested.execute_unprepared("SELECT nothing").await.unwrap_err();
    nested.commit().await.unwrap_err();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "1,2");
    lab.engine.close().await;
}

#[tokio::test]
async fn closures_nest_too() {
    let lab = alone("closures").start().await;
    let db = Db::from(&lab.engine);
    let work = db.transaction::<_, _, DbErr>(|tx| {
        Box::pin(async move {
            bake(tx, "1").await;
            let undone = tx.transaction::<_, (), DbErr>(|nested| {
                Box::pin(async move {
                    bake(nested, "2").await;
                    nested
                        .transaction_async(async |inner| -> Result<(), DbErr> {
                            bake(inner, "3").await;
                            Ok(())
                        })
                        .await
                        .unwrap();
                    Err(DbErr::Custom("undo".to_owned()))
                })
            });
            assert!(matches!(undone.await, Err(TransactionError::Transaction(_))));
            tx.transaction_async(async |nested| -> Result<(), DbErr> {
                bake(nested, "4").await;
                Ok(())
            })
            .await
            .unwrap();
            Ok(())
        })
    });
    work.await.unwrap();
    assert_eq!(stored(&lab).await, "1,4");
    lab.engine.close().await;
}

#[tokio::test]
async fn one_may_be_read_only_and_has_no_isolation_level_of_its_own() {
    let lab = alone("modes").start().await;
    let db = Db::from(&lab.engine);
    let tx = db.begin().await.unwrap();
    let level = tx.begin_with_config(Some(IsolationLevel::Serializable), None).await;
    let error = level.unwrap_err();
    assert!(error.to_string().contains("isolation level of its own"), "{error}");
    let nested = tx.begin_with_config(None, Some(AccessMode::ReadOnly)).await.unwrap();
    new_cake("1").insert(&nested).await.unwrap_err();
    nested.rollback().await.unwrap();
    let nested = tx.begin_with_config(None, Some(AccessMode::ReadOnly)).await.unwrap();
    nested.commit().await.unwrap();
    bake(&tx, "2").await;
    tx.commit().await.unwrap();

    // What a nested one may not be leaves the outer one as it was.
    let tx = db.begin_with_config(None, Some(AccessMode::ReadOnly)).await.unwrap();
    tx.begin_with_config(None, Some(AccessMode::ReadWrite)).await.unwrap_err();
    assert_eq!(cake::Entity::find().count(&tx).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "2");
    lab.engine.close().await;
}
