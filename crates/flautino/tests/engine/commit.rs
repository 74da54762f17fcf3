//! `commit` answers `Ok` only for what the server committed.

use flautino::{Error, IsolationLevel, TransactionOptions};
use flautino_cluster::Node;
use flautino_lab::{Lab, ask, sqlstate};
use sqlx::{PgConnection, Row};

const TABLE: &str = "t (a int UNIQUE DEFERRABLE)";

async fn start(name: &str) -> Lab {
    Lab::named(name).table(TABLE).start().await
}

async fn rows(node: &Node) -> String {
    ask(node, "SELECT coalesce(string_agg(a::text, ',' ORDER BY a), '') FROM t").await
}

async fn insert(connection: &mut PgConnection, value: i32) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO t VALUES ($1)").bind(value).execute(connection).await.map(drop)
}

#[tokio::test]
async fn a_transaction_that_the_server_aborted_does_not_commit() {
    let Lab { cluster, engine, db, .. } = start("aborted").await;
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    sqlx::query("SELECT nothing").execute(&mut tx).await.unwrap_err();
    let err = tx.commit().await.unwrap_err();
    assert!(matches!(Error::of(&err), Some(Error::CommitAborted)), "{err:?}");

    // The same where flautino has not seen the failure.
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 2).await.unwrap();
    sqlx::query("SELECT nothing").execute(&mut *tx).await.unwrap_err();
    let err = tx.commit().await.unwrap_err();
    assert!(matches!(Error::of(&err), Some(Error::CommitAborted)), "{err:?}");

    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 3).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rows(cluster.primary()).await, "3");
    engine.close().await;
}

#[tokio::test]
async fn raw_transaction_control_is_refused_and_the_transaction_stands() {
    let Lab { cluster, engine, db, .. } = start("control").await;
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    for sql in ["COMMIT", "ROLLBACK", "begin", "END", "abort", "/* x */ commit and chain;"] {
        let err = sqlx::query(sql).execute(&mut tx).await.unwrap_err();
        assert!(matches!(Error::of(&err), Some(Error::TransactionControl { .. })), "{sql}: {err}");
        let err = sqlx::raw_sql(sql).execute(&db).await.unwrap_err();
        assert!(matches!(Error::of(&err), Some(Error::TransactionControl { .. })), "{sql}: {err}");
    }
    assert_eq!(rows(cluster.primary()).await, "");
    tx.commit().await.unwrap();
    assert_eq!(rows(cluster.primary()).await, "1");
    engine.close().await;
}

#[tokio::test]
async fn transaction_control_among_several_commands_does_not_end_a_transaction_in_silence() {
    let Lab { cluster, engine, db, .. } = start("several").await;
    let mut silent = Vec::new();
    for sql in [
        "SELECT 1; ROLLBACK",
        "ROLLBACK; SELECT 1",
        "ROLLBACK; BEGIN",
        "INSERT INTO t VALUES (8); COMMIT; BEGIN",
        "SELECT 1; COMMIT",
    ] {
        for commit in [true, false] {
            let mut tx = db.begin().await.unwrap();
            insert(&mut tx, 1).await.unwrap();
            let escape = sqlx::raw_sql(sql).execute(&mut tx).await;
            let after = sqlx::query("INSERT INTO t VALUES (2)").execute(&mut tx).await;
            let end = if commit { tx.commit().await } else { tx.rollback().await };
            let told = escape.is_err() || after.is_err() || end.is_err();
            let stored = rows(cluster.primary()).await;
            let as_asked = if commit { stored.starts_with("1,2") } else { stored.is_empty() };
            if !told && !as_asked {
                silent.push(format!("`{sql}`, commit: {commit}; all Ok, stored is `{stored}`"));
            }
            cluster.primary().execute("DELETE FROM t").await.unwrap();
        }
    }
    engine.close().await;
    assert!(silent.is_empty(), "{silent:#?}");
}

#[tokio::test]
async fn a_constraint_that_fails_at_commit_is_an_error_and_frees_the_connection() {
    let Lab { cluster, engine, db, .. } =
        Lab::named("deferred").table(TABLE).one_connection().start().await;
    for _ in 0..3 {
        let mut tx = db.begin().await.unwrap();
        sqlx::query("SET CONSTRAINTS ALL DEFERRED").execute(&mut tx).await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1), (1)").execute(&mut tx).await.unwrap();
        assert_eq!(sqlstate(&tx.commit().await.unwrap_err()), "23505");
    }
    assert_eq!(rows(cluster.primary()).await, "");
    engine.close().await;
}

#[tokio::test]
async fn isolation_access_and_deferral_are_in_force() {
    let lab = start("modes").await;
    for (isolation, read_only, deferrable, expected) in [
        (None, false, false, "read committed off off"),
        (Some(IsolationLevel::ReadCommitted), true, false, "read committed on off"),
        (Some(IsolationLevel::RepeatableRead), false, false, "repeatable read off off"),
        (Some(IsolationLevel::Serializable), true, true, "serializable on on"),
    ] {
        let options = TransactionOptions { isolation, read_only, deferrable, retries: 0 };
        let mut tx = lab.db.begin_with(options).await.unwrap();
        let row = sqlx::query(
            "SELECT concat_ws(' ', current_setting('transaction_isolation'), \
             current_setting('transaction_read_only'), current_setting('transaction_deferrable'))",
        )
        .fetch_one(&mut tx)
        .await
        .unwrap();
        assert_eq!(row.get::<String, _>(0), expected);
        if read_only {
            assert_eq!(sqlstate(&insert(&mut tx, 1).await.unwrap_err()), "25006");
        }
        tx.rollback().await.unwrap();
    }
    lab.engine.close().await;
}
