//! What sqlx's users write, with all of sqlx's traits imported, and with none.

use flautino::{Error, Handle, Transaction};
use flautino_lab::{Lab, ask, sqlstate};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::{Acquire, Connection, Executor, PgConnection, Postgres, SqlSafeStr, Statement};

const COUNT: &str = "SELECT count(*) FROM t";

async fn start(name: &str) -> Lab {
    Lab::named(name).table("t (a int)").start().await
}

async fn stored(lab: &Lab) -> i64 {
    ask(lab.primary(), COUNT).await
}

/// As sqlx's documentation of `Acquire` has it.
async fn insert_twice<'a, A>(database: A) -> Result<(), sqlx::Error>
where
    A: Acquire<'a, Database = Postgres>,
{
    let mut connection = database.acquire().await?;
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *connection).await?;
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *connection).await?;
    Ok(())
}

/// The same in a transaction of its own, which is committed or not.
#[allow(clippy::manual_async_fn, reason = "sqlx's documentation of `Acquire` says why")]
fn insert_in_one<'a, 'c, A>(
    database: A,
    commit: bool,
) -> impl Future<Output = Result<(), sqlx::Error>> + Send + 'a
where
    A: Acquire<'c, Database = Postgres> + Send + 'a,
    'c: 'a,
{
    async move {
        let mut tx = database.begin().await?;
        sqlx::query("INSERT INTO t VALUES (3)").execute(&mut *tx).await?;
        if commit { tx.commit().await } else { Ok(()) }
    }
}

async fn on_a_connection(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(COUNT).fetch_one(connection).await
}

#[tokio::test]
async fn an_owned_handle_s_methods_do_not_move_it() {
    let lab = start("methods").await;
    let db: Handle = lab.db.clone();
    db.execute("INSERT INTO t VALUES (1)").await.unwrap();
    db.execute(sqlx::query("INSERT INTO t VALUES ($1)").bind(2)).await.unwrap();
    assert_eq!(db.fetch_all("SELECT * FROM t").await.unwrap().len(), 2);
    db.fetch_one("SELECT 1").await.unwrap();
    assert!(db.fetch_optional("SELECT 1 WHERE false").await.unwrap().is_none());
    assert_eq!(db.fetch("SELECT * FROM t").count().await, 2);
    assert_eq!(db.fetch_many("SELECT 1; SELECT 2").count().await, 4);
    assert_eq!(db.execute_many("SELECT 1; SELECT 2").count().await, 2);
    assert_eq!(db.prepare("SELECT 1 AS a".into_sql_str()).await.unwrap().columns().len(), 1);
    assert_eq!(db.describe("SELECT 1 AS a".into_sql_str()).await.unwrap().columns().len(), 1);

    // Each other way to say it, too.
    (&db).execute("INSERT INTO t VALUES (3)").await.unwrap();
    let borrowed: &Handle = &db;
    borrowed.execute("INSERT INTO t VALUES (4)").await.unwrap();
    borrowed.execute("INSERT INTO t VALUES (5)").await.unwrap();
    sqlx::query("INSERT INTO t VALUES (6)").execute(&db).await.unwrap();
    sqlx::query("INSERT INTO t VALUES (7)").execute(&db.clone()).await.unwrap();
    db.primary().execute("INSERT INTO t VALUES (8)").await.unwrap();
    assert_eq!(stored(&lab).await, 8);
    lab.engine.close().await;
}

/// The handle is dropped before the stream is read.
fn numbers(db: &Handle) -> BoxStream<'static, Result<i32, sqlx::Error>> {
    let db = db.clone();
    let rows = sqlx::query("SELECT generate_series(1, 1000)").fetch(&db);
    rows.map_ok(|row| sqlx::Row::get(&row, 0)).boxed()
}

#[tokio::test]
async fn a_stream_and_a_future_do_not_borrow_the_handle() {
    let lab = start("outlives").await;
    let sum: i32 = numbers(&lab.db).try_fold(0, async |sum, n| Ok(sum + n)).await.unwrap();
    assert_eq!(sum, 500_500);
    let insert = lab.db.clone().execute("INSERT INTO t VALUES (1)");
    insert.await.unwrap();
    assert_eq!(stored(&lab).await, 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn code_that_is_generic_over_acquire_takes_all_of_them() {
    let lab = start("acquire").await;
    insert_twice(&lab.db).await.unwrap();
    insert_in_one(&lab.db, true).await.unwrap();
    insert_in_one(&lab.db, false).await.unwrap();
    assert_eq!(stored(&lab).await, 3);

    let mut lease = lab.db.acquire().await.unwrap();
    insert_twice(&mut lease).await.unwrap();
    insert_in_one(&mut lease, true).await.unwrap();
    insert_in_one(&mut lease, false).await.unwrap();
    assert_eq!(on_a_connection(&mut lease).await.unwrap(), 6);
    drop(lease);

    let mut tx = lab.db.begin().await.unwrap();
    insert_twice(&mut tx).await.unwrap();
    insert_in_one(&mut tx, true).await.unwrap();
    insert_in_one(&mut tx, false).await.unwrap();
    assert_eq!(on_a_connection(&mut tx).await.unwrap(), 9);
    assert_eq!(on_a_connection(tx.connection().unwrap()).await.unwrap(), 9);
    let mut savepoint = tx.savepoint().await.unwrap();
    insert_twice(&mut savepoint).await.unwrap();
    insert_in_one(&mut savepoint, true).await.unwrap();
    insert_in_one(&mut savepoint, false).await.unwrap();
    assert_eq!(on_a_connection(&mut savepoint).await.unwrap(), 12);
    savepoint.rollback().await.unwrap();
    assert_eq!(stored(&lab).await, 6);
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, 9);

    // And in a task of its own, whose future must be `Send`.
    let db = lab.db.clone();
    let task = tokio::spawn(async move {
        let mut tx = db.begin().await?;
        insert_in_one(&mut tx, true).await?;
        tx.commit().await
    });
    task.await.unwrap().unwrap();
    assert_eq!(stored(&lab).await, 10);
    lab.engine.close().await;
}

#[tokio::test]
async fn begin_within_a_transaction_is_a_savepoint_and_as_honest() {
    let lab = start("nested").await;
    let mut tx: Transaction = lab.db.begin().await.unwrap();
    tx.execute("INSERT INTO t VALUES (1)").await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    inner.execute("INSERT INTO t VALUES (2)").await.unwrap();
    let mut innermost = inner.begin().await.unwrap();
    innermost.execute("INSERT INTO t VALUES (3)").await.unwrap();
    innermost.execute("SELECT nothing").await.unwrap_err();
    let refused = innermost.commit().await.unwrap_err();
    assert_eq!(sqlstate(&refused), "25P02");
    inner.commit().await.unwrap();
    drop(tx.begin().await.unwrap());
    let borrowed: &mut Transaction = &mut tx;
    borrowed.begin().await.unwrap().rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, 2);

    // One of sqlx's own, too: it refuses to keep what failed, and is undone.
    let mut tx = lab.db.begin().await.unwrap();
    let mut inner = Acquire::begin(&mut tx).await.unwrap();
    inner.execute("INSERT INTO t VALUES (4)").await.unwrap();
    inner.execute("SELECT nothing").await.unwrap_err();
    inner.commit().await.unwrap_err();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, 2);
    let mut tx = lab.db.begin().await.unwrap();
    tx.execute("INSERT INTO t VALUES (5)").await.unwrap();
    let mut inner = Acquire::begin(&mut tx).await.unwrap();
    inner.execute("SELECT nothing").await.unwrap_err();
    inner.rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, 3);

    // What fails outside of any savepoint is no success, whoever sent it.
    let mut tx = lab.db.begin().await.unwrap();
    insert_twice(&mut tx).await.unwrap();
    let connection = Acquire::acquire(&mut tx).await.unwrap();
    connection.execute("SELECT nothing").await.unwrap_err();
    let refused = tx.commit().await.unwrap_err();
    assert!(matches!(Error::of(&refused), Some(Error::CommitAborted)), "{refused}");
    assert_eq!(stored(&lab).await, 3);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_savepoint_that_the_server_would_refuse_leaves_the_transaction_to_its_owner() {
    let lab = start("refused").await;
    let mut tx = lab.db.begin().await.unwrap();
    let mut attempt = tx.begin().await.unwrap();
    attempt.execute("SELECT nothing").await.unwrap_err();
    let refused = Acquire::begin(&mut attempt).await.map(drop).unwrap_err();
    assert_eq!(sqlstate(&refused), "25P02");
    attempt.rollback().await.unwrap();
    tx.execute("INSERT INTO t VALUES (1)").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&lab).await, 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_lost_transaction_gives_nobody_its_connection() {
    let lab = start("lost").await;
    let mut tx = lab.db.begin().await.unwrap();
    tx.execute("INSERT INTO t VALUES (1)").await.unwrap();
    std::mem::forget(tx.savepoint().await.unwrap());
    // The savepoint that is leaked is a level that its owner does not know of.
    let mut attempt = tx.savepoint().await.unwrap();
    std::mem::forget(Connection::begin(&mut **attempt).await.unwrap());
    let lost = |err: &sqlx::Error| matches!(Error::of(err), Some(Error::TransactionLost));
    assert!(lost(&Acquire::acquire(&mut attempt).await.map(drop).unwrap_err()));
    assert!(lost(&Acquire::begin(&mut attempt).await.map(drop).unwrap_err()));
    drop(attempt);
    assert!(lost(&insert_twice(&mut tx).await.unwrap_err()));
    assert!(lost(&insert_in_one(&mut tx, true).await.unwrap_err()));
    assert!(matches!(tx.connection().map(drop), Err(Error::TransactionLost)));
    tx.commit().await.unwrap_err();
    assert_eq!(stored(&lab).await, 0);
    lab.engine.close().await;
}
