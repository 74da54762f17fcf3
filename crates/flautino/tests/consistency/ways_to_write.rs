//! However a session writes, its next read and its token cover it.

use flautino::{Handle, Transaction};
use flautino_lab::{catch_up, pause_replay, wait_until};
use futures_util::TryStreamExt;

use crate::common::*;

const INSERT: &str = "INSERT INTO t VALUES (1)";

#[derive(Debug, Clone, Copy)]
enum Way {
    Handle,
    Clone,
    Primary,
    Node,
    Begin,
    BeginBare,
    Savepoint,
    Closure,
    Lease,
    LeaseBare,
    Several,
    Generic,
    Stream,
    Returning,
    Cte,
    Function,
    DroppedTransaction,
}

const WAYS: [Way; 16] = [
    Way::Handle,
    Way::Clone,
    Way::Primary,
    Way::Node,
    Way::Begin,
    Way::BeginBare,
    Way::Savepoint,
    Way::Closure,
    Way::Lease,
    Way::LeaseBare,
    Way::Several,
    Way::Generic,
    Way::Stream,
    Way::Returning,
    Way::Cte,
    Way::Function,
];

async fn write(db: &Handle, way: Way) -> Result<(), sqlx::Error> {
    match way {
        Way::Handle => sqlx::query(INSERT).execute(db).await.map(drop),
        Way::Clone => {
            let db = db.clone();
            let task = tokio::spawn(async move { sqlx::query(INSERT).execute(&db).await });
            task.await.unwrap().map(drop)
        }
        Way::Primary => sqlx::query(INSERT).execute(&db.primary()).await.map(drop),
        Way::Node => sqlx::query(INSERT).execute(&db.node("main").unwrap()).await.map(drop),
        Way::Begin => {
            let mut tx = db.begin().await?;
            sqlx::query(INSERT).execute(&mut tx).await?;
            tx.commit().await
        }
        Way::BeginBare => {
            let mut tx = db.begin().await?;
            sqlx::query(INSERT).execute(&mut *tx).await?;
            tx.commit().await
        }
        Way::Savepoint => {
            let mut tx = db.begin().await?;
            let mut savepoint = tx.savepoint().await?;
            sqlx::query(INSERT).execute(&mut savepoint).await?;
            savepoint.commit().await?;
            tx.commit().await
        }
        Way::Closure => {
            db.transaction(async |tx: &mut Transaction| {
                sqlx::query(INSERT).execute(&mut *tx).await.map(drop)
            })
            .await
        }
        Way::Lease => sqlx::query(INSERT).execute(&mut db.acquire().await?).await.map(drop),
        Way::LeaseBare => sqlx::query(INSERT).execute(&mut *db.acquire().await?).await.map(drop),
        Way::Several => sqlx::raw_sql("SELECT 1; INSERT INTO t VALUES (1); SELECT 2")
            .execute(db)
            .await
            .map(drop),
        Way::Generic => {
            let mut tx = sqlx::Acquire::begin(db).await?;
            sqlx::query(INSERT).execute(&mut *tx).await?;
            tx.commit().await
        }
        Way::Stream => {
            let mut rows = sqlx::query("INSERT INTO t VALUES (1) RETURNING a").fetch(db);
            while rows.try_next().await?.is_some() {}
            Ok(())
        }
        Way::Returning => {
            sqlx::query("INSERT INTO t VALUES (1) RETURNING a").fetch_one(db).await.map(drop)
        }
        Way::Cte => {
            let sql = "WITH w AS (INSERT INTO t VALUES (1) RETURNING a) SELECT a FROM w";
            sqlx::query(sql).fetch_all(db).await.map(drop)
        }
        Way::Function => sqlx::query("SELECT put()").execute(db).await.map(drop),
        Way::DroppedTransaction => {
            let mut tx = db.begin().await?;
            sqlx::query(INSERT).execute(&mut tx).await.map(drop)
        }
    }
}

/// A cluster whose replicas show the past, and serve it.
async fn paused() -> (flautino_cluster::Cluster, flautino::Engine, flautino::Engine) {
    let cluster = cluster_with_table(2).await;
    let put = "CREATE FUNCTION put() RETURNS void LANGUAGE sql AS 'INSERT INTO t VALUES (1)'";
    cluster.primary().execute(put).await.unwrap();
    catch_up(&cluster).await;
    let (one, other) =
        (frozen_engine(&cluster, "one").await, frozen_engine(&cluster, "other").await);
    pause_replay(&cluster).await;
    (cluster, one, other)
}

#[tokio::test]
async fn the_next_read_sees_the_write_however_it_was_made() {
    let (_cluster, engine, other) = paused().await;
    for (number, way) in (1..).zip(WAYS) {
        let db = engine.handle();
        assert_eq!(read(&engine, &db, COUNT).await.value, 0, "replicas serve");
        write(&db, way).await.unwrap();
        let next = read(&engine, &db, COUNT).await;
        assert_eq!((next.value, &*next.node), (number, "main"), "{way:?}: {next:?}");
        // Its clones are the same session, and a session of its own is not.
        assert_eq!(read(&engine, &db.clone(), COUNT).await.value, number, "{way:?}");
        // After what nobody can follow the schema is looked at first, and all reads go to the primary
        // meanwhile.
        wait_until("the schema is known again", async || {
            let fresh = read(&engine, &engine.handle(), COUNT).await;
            assert!(fresh.value == 0 || &*fresh.reason == "write", "{way:?}: {fresh:?}");
            fresh.value == 0
        })
        .await;
    }
    engine.close().await;
    other.close().await;
}

#[tokio::test]
async fn the_token_covers_the_write_however_it_was_made() {
    let (_cluster, one, other) = paused().await;
    for (number, way) in (1..).zip(WAYS) {
        let db = one.handle();
        write(&db, way).await.unwrap();
        let token = db.token().await.unwrap_or_else(|| panic!("{way:?} has no token"));
        let read = read(&other, &with_token(&other, token), COUNT).await;
        assert_eq!((read.value, &*read.node), (number, "main"), "{way:?}: {read:?}");
    }
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_session_owes_its_token_however_it_wrote() {
    let (_cluster, engine, other) = paused().await;
    let mut silent = Vec::new();
    for way in WAYS {
        let db = engine.handle();
        assert!(!db.owes_token());
        write(&db, way).await.unwrap();
        if !db.owes_token() {
            silent.push(way);
        }
    }
    assert!(silent.is_empty(), "no token is owed after {silent:?}");
    engine.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_transaction_that_was_dropped_leaves_a_session_that_works() {
    let (_cluster, engine, other) = paused().await;
    let db = engine.handle();
    write(&db, Way::DroppedTransaction).await.unwrap();
    let next = read(&engine, &db, COUNT).await;
    assert_eq!((next.value, &*next.node), (0, "main"), "{next:?}");
    write(&db, Way::Handle).await.unwrap();
    assert_eq!(read(&engine, &db, COUNT).await.value, 1);
    engine.close().await;
    other.close().await;
}
