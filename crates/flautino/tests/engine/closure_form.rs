//! `Handle::transaction`: a closure that is committed, rolled back, or tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use flautino::{Error, Handle, IsolationLevel, TransactionOptions};
use flautino_cluster::Cluster;
use flautino_lab::{Lab, ask, sqlstate};
use tokio::sync::Barrier;

async fn start(name: &str) -> Lab {
    Lab::named(name).sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").start().await
}

async fn sum(cluster: &Cluster) -> i64 {
    ask(cluster.primary(), "SELECT sum(a) FROM t").await
}

#[tokio::test]
async fn ok_commits_an_error_rolls_back_and_so_does_a_panic() {
    let Lab { cluster, engine, db, .. } = start("closure").await;
    let answer: Result<&str, sqlx::Error> = db
        .transaction(async |tx| {
            sqlx::query("INSERT INTO t VALUES (10)").execute(&mut *tx).await?;
            Ok("done")
        })
        .await;
    assert_eq!(answer.unwrap(), "done");
    assert_eq!(sum(&cluster).await, 11);

    let answer: Result<(), sqlx::Error> = db
        .transaction(async |tx| {
            sqlx::query("INSERT INTO t VALUES (100)").execute(&mut *tx).await?;
            Err(sqlx::Error::RowNotFound)
        })
        .await;
    assert!(matches!(answer, Err(sqlx::Error::RowNotFound)));
    assert_eq!(sum(&cluster).await, 11);

    let panicking = db.clone();
    let panicked = tokio::task::LocalSet::new()
        .run_until(async move {
            tokio::task::spawn_local(async move {
                let answer: Result<(), sqlx::Error> = panicking
                    .transaction(async |tx| {
                        sqlx::query("INSERT INTO t VALUES (1000)").execute(&mut *tx).await?;
                        panic!("as the test wants");
                    })
                    .await;
                answer
            })
            .await
        })
        .await;
    assert!(panicked.unwrap_err().is_panic());
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&db).await.unwrap();
    assert_eq!((one, sum(&cluster).await), (1, 11));
    engine.close().await;
}

#[tokio::test]
async fn ok_over_an_error_that_was_swallowed_is_no_success() {
    let Lab { cluster, engine, db, .. } = start("swallowed").await;
    let answer: Result<(), sqlx::Error> = db
        .transaction(async |tx| {
            sqlx::query("INSERT INTO t VALUES (10)").execute(&mut *tx).await?;
            let _ = sqlx::query("SELECT nothing").execute(&mut *tx).await;
            Ok(())
        })
        .await;
    let err = answer.unwrap_err();
    assert!(matches!(Error::of(&err), Some(Error::CommitAborted)), "{err:?}");
    assert_eq!(sum(&cluster).await, 1);
    engine.close().await;
}

/// Adds the sum of all rows as a row. The first attempts of two wait for each other, so that
/// they conflict.
async fn double(db: &Handle, meet: Arc<Barrier>, tries: Arc<AtomicU32>) -> Result<(), sqlx::Error> {
    let options = TransactionOptions {
        isolation: Some(IsolationLevel::Serializable),
        retries: 5,
        ..TransactionOptions::default()
    };
    let mut first = true;
    db.transaction_with(options, async |tx| {
        tries.fetch_add(1, Ordering::SeqCst);
        let sum: i64 = sqlx::query_scalar("SELECT sum(a) FROM t").fetch_one(&mut *tx).await?;
        if std::mem::take(&mut first) {
            meet.wait().await;
        }
        sqlx::query("INSERT INTO t VALUES ($1)").bind(sum).execute(&mut *tx).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_serializable_transactions_that_conflict_both_end_as_if_one_came_after_the_other() {
    let Lab { cluster, engine, db, .. } = start("serializable").await;
    let (meet, tries) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
    let (one, two) = tokio::join!(
        double(&db, Arc::clone(&meet), Arc::clone(&tries)),
        double(&db, Arc::clone(&meet), Arc::clone(&tries))
    );
    one.unwrap();
    two.unwrap();
    assert_eq!(sum(&cluster).await, 4);
    assert!(tries.load(Ordering::SeqCst) >= 3);
    engine.close().await;
}

#[tokio::test]
async fn it_gives_up_after_as_many_retries_as_were_asked_for_and_tries_nothing_else_again() {
    let Lab { cluster, engine, db, .. } = start("gives_up").await;
    for (raise, retries, expected) in
        [("40001", 3, 4), ("40P01", 2, 3), ("40001", 0, 1), ("23505", 3, 1)]
    {
        let options = TransactionOptions { retries, ..TransactionOptions::default() };
        let mut tries = 0;
        let answer: Result<(), sqlx::Error> = db
            .transaction_with(options, async |tx| {
                tries += 1;
                sqlx::query("INSERT INTO t VALUES (10)").execute(&mut *tx).await?;
                let sql = format!("DO $$ BEGIN RAISE 'x' USING ERRCODE = '{raise}'; END $$");
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await?;
                Ok(())
            })
            .await;
        assert_eq!(sqlstate(&answer.unwrap_err()), raise);
        assert_eq!(tries, expected, "{raise}");
    }
    assert_eq!(sum(&cluster).await, 1);
    engine.close().await;
}
