//! Transactions: kept or undone as a whole, with the options that SeaORM has.

use flautino::Error;
use flautino_lab::{ask, wait_until};
use flautino_sea_orm::{Db, Transaction, error_of};
use sea_orm::{
    AccessMode, ActiveModelTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, IsolationLevel,
    PaginatorTrait, Statement, TransactionError, TransactionTrait,
};

use crate::common::{alone, bake, cake, new_cake, session, stored, with_replica};

/// The value of a setting in this transaction.
async fn setting(tx: &Transaction, name: &str) -> String {
    let show = Statement::from_string(DbBackend::Postgres, format!("SHOW {name}"));
    tx.query_one_raw(show).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

#[tokio::test]
async fn committed_it_stays_and_rolled_back_or_dropped_it_goes() {
    let lab = alone("ends").start().await;
    let db = Db::from(&lab.engine);
    let kept = db.begin().await.unwrap();
    new_cake("kept").insert(&kept).await.unwrap();
    assert_eq!(cake::Entity::find().count(&kept).await.unwrap(), 1);
    assert_eq!(stored(&lab).await, "", "nothing is committed yet");
    kept.commit().await.unwrap();

    let undone = db.begin().await.unwrap();
    new_cake("undone").insert(&undone).await.unwrap();
    undone.rollback().await.unwrap();
    let dropped = db.begin().await.unwrap();
    new_cake("dropped").insert(&dropped).await.unwrap();
    drop(dropped);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    wait_until("no transaction is open", async || ask::<i64>(lab.primary(), open).await == 0).await;
    assert_eq!(stored(&lab).await, "kept");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_closure_commits_on_ok_and_rolls_back_on_an_error_and_a_panic() {
    let lab = alone("closures").start().await;
    let db = Db::from(&lab.engine);
    let id = db.transaction::<_, _, DbErr>(|tx| {
        Box::pin(async move { Ok(new_cake("kept").insert(tx).await?.id) })
    });
    assert_eq!(id.await.unwrap(), 1);
    let failed = db.transaction::<_, (), DbErr>(|tx| {
        Box::pin(async move {
            new_cake("undone").insert(tx).await?;
            Err(DbErr::Custom("no".to_owned()))
        })
    });
    let failed = failed.await.unwrap_err();
    assert!(matches!(failed, TransactionError::Transaction(DbErr::Custom(_))), "{failed:?}");

    let name = "async".to_owned();
    let done = db.transaction_async(async move |tx| new_cake(&name).insert(tx).await);
    assert_eq!(done.await.unwrap().id, 3);
    let db = db.clone();
    let panicked = tokio::spawn(async move {
        let work = db.transaction_async(async move |tx| -> Result<(), DbErr> {
            new_cake("panicked").insert(tx).await?;
            panic!("as a closure may");
        });
        work.await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(stored(&lab).await, "kept,async");
    lab.engine.close().await;
}

#[tokio::test]
async fn the_commit_of_one_that_the_server_aborted_is_an_error() {
    let lab = alone("aborted").start().await;
    let db = Db::from(&lab.engine);
    let tx = db.begin().await.unwrap();
    new_cake("a").insert(&tx).await.unwrap();
    new_cake("a").insert(&tx).await.unwrap_err(); // it is there already
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error_of(&error), Some(Error::CommitAborted)), "{error:?}");

    let swallowed = db.transaction_async(async |tx| -> Result<(), DbErr> {
        new_cake("a").insert(tx).await?;
        let _ = tx.execute_unprepared("SELECT nothing").await;
        Ok(())
    });
    let error = swallowed.await.unwrap_err();
    let TransactionError::Connection(error) = error else { panic!("{error:?}") };
    assert!(matches!(error_of(&error), Some(Error::CommitAborted)), "{error:?}");
    assert_eq!(stored(&lab).await, "");
    lab.engine.close().await;
}

#[tokio::test]
async fn isolation_levels_and_access_modes_are_those_of_the_server() {
    let lab = alone("options").start().await;
    let db = Db::from(&lab.engine);
    for (level, name) in [
        (IsolationLevel::ReadUncommitted, "read committed"),
        (IsolationLevel::ReadCommitted, "read committed"),
        (IsolationLevel::RepeatableRead, "repeatable read"),
        (IsolationLevel::Serializable, "serializable"),
    ] {
        for (access, read_only) in [(AccessMode::ReadOnly, "on"), (AccessMode::ReadWrite, "off")] {
            let tx = db.begin_with_config(Some(level), Some(access)).await.unwrap();
            assert_eq!(setting(&tx, "transaction_isolation").await, name);
            assert_eq!(setting(&tx, "transaction_read_only").await, read_only);
            tx.commit().await.unwrap();
        }
    }
    let options = sea_orm::TransactionOptions {
        isolation_level: Some(IsolationLevel::Serializable),
        ..Default::default()
    };
    let tx = db.begin_with_options(options).await.unwrap();
    assert_eq!(setting(&tx, "transaction_isolation").await, "serializable");
    assert_eq!(setting(&tx, "transaction_read_only").await, "off");
    tx.rollback().await.unwrap();
    lab.engine.close().await;
}

#[tokio::test]
async fn a_read_only_one_runs_on_a_replica_and_refuses_writes_and_any_other_on_the_primary() {
    let lab = with_replica("read-only").start().await;
    bake(&lab, &["a"]).await;
    let count = crate::common::from_replica(&lab, async |db| {
        let work = async |tx: &Transaction| cake::Entity::find().count(tx).await;
        let tx = db.begin_with_config(None, Some(AccessMode::ReadOnly)).await.unwrap();
        let count = work(&tx).await.unwrap();
        let nested = tx.begin_with_config(None, Some(AccessMode::ReadOnly)).await.unwrap();
        assert_eq!(work(&nested).await.unwrap(), count);
        nested.commit().await.unwrap();
        new_cake("b").insert(&tx).await.unwrap_err();
        tx.rollback().await.unwrap();
        count
    });
    assert_eq!(count.await, 1);

    let db = session(&lab);
    let count = db.transaction_with_config::<_, _, DbErr>(
        |tx| Box::pin(async move { cake::Entity::find().count(tx).await }),
        Some(IsolationLevel::RepeatableRead),
        Some(AccessMode::ReadWrite),
    );
    assert_eq!(count.await.unwrap(), 1);
    assert_eq!(flautino_lab::node_of(&db), "main");
    lab.engine.close().await;
}
