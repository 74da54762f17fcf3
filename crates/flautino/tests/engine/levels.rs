//! Levels of a transaction that code below ends without asking: sqlx's own `begin` on the bare
//! connection, savepoints that are forgotten or given up half-way.

use std::time::Duration;

use flautino::{Error, Handle};
use flautino_cluster::Proxy;
use flautino_lab::{ask, cluster, config, open, polled_at_most};
use sqlx::Connection;

async fn insert(executor: impl sqlx::PgExecutor<'_>, value: i32) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO t VALUES ($1)").bind(value).execute(executor).await.map(drop)
}

fn is_lost(err: &sqlx::Error) -> bool {
    matches!(Error::of(err), Some(Error::TransactionLost))
}

/// Runs the body on a fresh table, over a network so slow that no answer is there at once, and
/// answers what it left in the table.
async fn left_by(name: &str, body: impl AsyncFnOnce(Handle)) -> String {
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    proxy.slow(Duration::from_millis(10));
    let mut config = config(&cluster, name);
    config.main.url = Some(proxy.url());
    let engine = open(config).await;
    body(engine.handle()).await;
    engine.close().await;
    ask(cluster.primary(), "SELECT coalesce(string_agg(a::text, ',' ORDER BY a), '') FROM t").await
}

#[tokio::test]
async fn a_cancelled_begin_on_the_bare_connection_loses_the_transaction_and_no_write_escapes() {
    let left = left_by("bare_begin", async |db| {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        let nested = Connection::begin(&mut *tx);
        assert!(polled_at_most(1, nested).await.is_none());
        assert!(is_lost(&insert(&mut tx, 2).await.unwrap_err()));
        assert!(is_lost(&tx.savepoint().await.unwrap_err()));
        assert!(is_lost(&tx.commit().await.unwrap_err()));
    });
    assert_eq!(left.await, "");
}

#[tokio::test]
async fn inside_a_savepoint_it_loses_the_transaction_too() {
    let left = left_by("bare_inner", async |db| {
        let mut tx = db.begin().await.unwrap();
        let mut savepoint = tx.savepoint().await.unwrap();
        let mut inner = savepoint.savepoint().await.unwrap();
        insert(&mut inner, 1).await.unwrap();
        let nested = Connection::begin(&mut **inner);
        assert!(polled_at_most(1, nested).await.is_none());
        assert!(is_lost(&inner.commit().await.unwrap_err()));
        assert!(is_lost(&savepoint.commit().await.unwrap_err()));
        assert!(is_lost(&tx.commit().await.unwrap_err()));
    });
    assert_eq!(left.await, "");
}

#[tokio::test]
async fn a_forgotten_savepoint_keeps_the_transaction_from_committing() {
    let left = left_by("forgotten", async |db| {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        std::mem::forget(tx.savepoint().await.unwrap());
        assert!(is_lost(&tx.commit().await.unwrap_err()));
        // Its connection is as good as new.
        insert(&db, 2).await.unwrap();
    });
    assert_eq!(left.await, "2");
}

#[tokio::test]
async fn a_savepoint_s_commit_given_up_half_way_undoes_nothing_of_others() {
    let left = left_by("half_released", async |db| {
        let mut tx = db.begin().await.unwrap();
        tx.savepoint().await.unwrap().rollback().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        let savepoint = tx.savepoint().await.unwrap();
        assert!(polled_at_most(1, savepoint.commit()).await.is_none());
        assert!(is_lost(&tx.commit().await.unwrap_err()));
    });
    assert_eq!(left.await, "");
}

#[tokio::test]
async fn the_error_of_a_statement_that_was_given_up_is_not_the_next_one_s() {
    let left = left_by("given_up", async |db| {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        let mut savepoint = tx.savepoint().await.unwrap();
        let fails = sqlx::query("SELECT 1 / $1::int").bind(0).execute(&mut savepoint);
        assert!(polled_at_most(1, fails).await.is_none());
        savepoint.rollback().await.unwrap();
        insert(&mut tx, 2).await.unwrap();
        tx.commit().await.unwrap();
    });
    assert_eq!(left.await, "1,2");
}
